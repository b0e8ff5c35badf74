// What an answer says: its classes as radio buttons with bars, and how far they may be relied on.

import { className, duration, milliseconds, percent, say } from './words.js';

/** Why the classes should not be relied on: 'unfamiliar', 'unsure' or null. */
export function doubt(answer) {
  if (answer.familiarity?.is_familiar === false) return 'unfamiliar';
  return answer.is_certain === false ? 'unsure' : null;
}

export function doubtWords(answer) {
  return say(`${doubt(answer)}More`, { basis: answer.familiarity?.basis });
}

/** Shows over the classes how far they may be relied on; `at` finds an element by its id. */
export function showDoubt(answer, at) {
  const [why, panel] = [doubt(answer), at('classes').parentElement];
  for (const name of ['unfamiliar', 'unsure']) panel.classList.toggle(name, why === name);
  at('answer-title').textContent = say(why ?? 'answer');
  at('doubt').hidden = !why && !answer.familiarity;
  at('doubt').className = why ? '' : 'quiet plain';
  at('doubt').textContent = why ? doubtWords(answer) : say('familiarMore');
}

/** How long the answer took, and where, which is 'device' or 'server'. */
export function timing({ timing_ms: times }, place) {
  const rounded = Object.entries(times).map(([name, value]) => [name, milliseconds(value)]);
  return say(place === 'device' ? 'timingDevice' : 'timing', { ...Object.fromEntries(rounded), words: duration(times.total) });
}

/**
 * A class's percentage. If the model knows how sure it is, it is in whole per cent, and neither 0 nor 100: more would
 * be worth nothing.
 */
export function share(answer, { probability }) {
  if (answer.is_certain === undefined) return percent(probability);
  if (probability < 1) return `< ${percent(1, 0)}`;
  return probability > 99 ? `> ${percent(99, 0)}` : percent(probability, 0);
}

/** The row of a class, which calls `choose` with its index if it has a heatmap. */
export function row(answer, result, chosen, choose) {
  const [label, input, name, shown, bar] = ['label', 'input', 'span', 'span', 'i'].map((tag) => document.createElement(tag));
  Object.assign(input, { type: 'radio', name: 'class', value: result.index, checked: result.index === chosen });
  input.disabled = !answer.heatmap_maps?.some((map) => map.index === result.index);
  input.addEventListener('change', () => choose(result.index));
  name.textContent = className(result);
  shown.textContent = share(answer, result);
  shown.className = 'percent';
  bar.style.setProperty('--share', `${result.probability}%`);
  label.append(input, name, shown, bar);
  return label;
}

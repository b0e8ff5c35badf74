// What an answer says: its classes as radio buttons with bars, and how far they may be relied on.

import { className, percent, say } from './words.js';

/** Why the classes should not be relied on: 'unfamiliar', 'unsure' or null. */
export function doubt(answer) {
  if (answer.familiarity?.is_familiar === false) return 'unfamiliar';
  return answer.is_certain === false ? 'unsure' : null;
}

export function doubtWords(answer) {
  return say(`${doubt(answer)}More`, { basis: answer.familiarity?.basis });
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

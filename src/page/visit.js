// The photos of this visit with their results: a strip, and a table to save. The browser keeps them for this tab
// until it is closed or they are forgotten; nothing of it leaves the device.

import { doubt, share } from './answer.js';
import { className, problemWords, say } from './words.js';

const KEPT = 'skincell-visit';
const MOST = 30;
const SIDE = 640;

/** The results, oldest first: {name, date, title, picture (a data: URL), answer or problem} each. */
export let results = read();

function read() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)) ?? []; } catch { return []; }
}

/** Adds a result. If the browser has no room for all of them, a reload keeps the newest. */
export function add(result) {
  results.push(result);
  results = results.slice(-MOST);
  for (let from = 0; from <= results.length; from += 1) {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(results.slice(from)));
      return;
    } catch { /* without the oldest there may be room */ }
  }
}

export function forget() {
  results = [];
  try { sessionStorage.removeItem(KEPT); } catch { /* then nothing was kept */ }
}

/** What is kept of a shown photo. */
export function small(shown) {
  const canvas = document.createElement('canvas');
  const scale = Math.min(1, SIDE / Math.max(shown.width, shown.height));
  canvas.width = Math.max(1, shown.width * scale);
  canvas.height = Math.max(1, shown.height * scale);
  canvas.getContext('2d').drawImage(shown, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', 0.8);
}

/** The photo of a kept result, as photo.js opens one. */
export async function photoOf({ name, picture }) {
  const image = Object.assign(new Image(), { src: picture ?? '' });
  const bitmap = await image.decode().then(() => createImageBitmap(image)).catch(() => null);
  const { width, height } = bitmap ?? { width: 0, height: 0 };
  return { file: new Blob(), name, bitmap, width, height, turns: 0, crop: { x: 0, y: 0, width: 1, height: 1 } };
}

/** The results as items of a list; a click on one calls `open` with it. */
export function strip(current, open) {
  return results.map((result) => {
    const [item, button, image, name, found] = ['li', 'button', 'img', 'b', 'span'].map((tag) => document.createElement(tag));
    const best = result.answer?.results[0];
    Object.assign(button, { type: 'button', ariaCurrent: result === current });
    button.addEventListener('click', () => open(result));
    Object.assign(image, { alt: '', src: result.picture || 'page/icon.svg' });
    name.textContent = result.name;
    found.textContent = best ? likeliest(result.answer, best) : problemWords(result.problem.kind, {})[0];
    button.append(image, name, found);
    item.append(button);
    return item;
  });
}

/** The likeliest class, or that the model does not know such photos. */
function likeliest(answer, best) {
  return doubt(answer) === 'unfamiliar' ? say('unfamiliar') : `${className(best)}: ${share(answer, best)}`;
}

const HEAD = ['file', 'date', 'model', 'problem', 'familiar', 'certain', 'class', 'per cent', 'second', 'per cent', 'third', 'per cent'];

/** The results as CSV. */
export function table() {
  const cells = ({ name, date, title, answer, problem }) => [
    name, new Date(date).toISOString(), title, problem?.message, answer?.familiarity?.is_familiar, answer?.is_certain,
    ...(answer?.results ?? []).slice(0, 3).flatMap((result) => [className(result), result.probability]),
  ];
  const line = (row) => row.map(quoted).join(',');
  return `\ufeff${[HEAD, ...results.map(cells)].map(line).join('\r\n')}\r\n`;
}

// A text that a spreadsheet would take for a formula gets an apostrophe.
function quoted(cell) {
  const text = String(cell ?? '');
  return `"${(/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

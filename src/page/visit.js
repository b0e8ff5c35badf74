// The photos of this visit with their results: a strip, and a table to save. The browser keeps them for this tab
// until it is closed or they are forgotten; nothing of it leaves the device.

import { doubt, share } from './answer.js';
import { className, problemWords, say } from './words.js';

const KEPT = 'skincell-visit-';
const MOST = 30;
const SIDE = 640;
/** Of a picture in the strip, as in `style.css`. */
const [WIDTH, HEIGHT] = [136, 96];

/** The names under which results are kept, oldest first: one each, because a long text takes a browser ten times as
 * much memory while it is stored. */
const names = () => Object.keys(sessionStorage).filter((name) => name.startsWith(KEPT)).sort((one, other) => numberOf(one) - numberOf(other));

function numberOf(name) {
  return Number(name.slice(KEPT.length));
}

function read() {
  try { return names().map((name) => JSON.parse(sessionStorage.getItem(name))); } catch { return []; }
}

/** The results, oldest first: {name, date, title, picture (a data: URL), answer or problem} each. */
export const results = read();

/** Adds a result. If the browser has no room for all of them, a reload keeps the newest. */
export function add(result) {
  results.push(result);
  results.splice(0, results.length - MOST);
  try {
    const kept = names();
    const name = KEPT + (numberOf(kept.at(-1) ?? `${KEPT}0`) + 1);
    while (kept.length >= MOST || !isStored(name, JSON.stringify(result))) {
      // Without the oldest there may be room.
      if (!kept.length) return;
      sessionStorage.removeItem(kept.shift());
    }
  } catch { /* then nothing is kept */ }
}

function isStored(name, text) {
  try { sessionStorage.setItem(name, text); } catch { return false; }
  return true;
}

export function forget() {
  results.length = 0;
  try { names().forEach((name) => sessionStorage.removeItem(name)); } catch { /* then nothing was kept */ }
}

/** What is kept of a shown photo. */
export function small(shown) {
  const canvas = document.createElement('canvas');
  const scale = Math.min(1, SIDE / Math.max(shown.width, shown.height));
  canvas.width = Math.max(1, shown.width * scale);
  canvas.height = Math.max(1, shown.height * scale);
  canvas.getContext('2d').drawImage(shown, 0, 0, canvas.width, canvas.height);
  const address = canvas.toDataURL('image/jpeg', 0.8);
  canvas.width = 0;
  return address;
}

/** The photo of a kept result, as photo.js opens one. */
export async function photoOf(result) {
  const bitmap = await bitmapOf(result);
  const { width, height } = bitmap ?? { width: 0, height: 0 };
  return { file: new Blob(), name: result.name, bitmap, width, height, turns: 0, crop: { x: 0, y: 0, width: 1, height: 1 } };
}

/** A kept picture decoded, or null. */
async function bitmapOf({ picture }) {
  try {
    const bytes = Uint8Array.from(atob(picture.split(',')[1]), (letter) => letter.charCodeAt(0));
    return await createImageBitmap(new Blob([bytes]));
  } catch {
    return null;
  }
}

const thumbnails = new WeakMap();

/** A result's picture in the strip. An image in its place would stay decoded in the browser when it is gone. */
function thumbnail(result) {
  if (thumbnails.has(result)) return thumbnails.get(result);
  const canvas = document.createElement('canvas');
  const scale = Math.min(2, devicePixelRatio);
  Object.assign(canvas, { width: WIDTH * scale, height: HEIGHT * scale, ariaHidden: true });
  thumbnails.set(result, canvas);
  bitmapOf(result).then((bitmap) => {
    if (!bitmap) return;
    const cover = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
    const [width, height] = [bitmap.width * cover, bitmap.height * cover];
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    bitmap.close();
  });
  return canvas;
}

/** The results as items of a list; a click on one calls `open` with it. */
export function strip(current, open) {
  return results.map((result) => {
    const [item, button, name, found] = ['li', 'button', 'b', 'span'].map((tag) => document.createElement(tag));
    const best = result.answer?.results[0];
    Object.assign(button, { type: 'button', ariaCurrent: result === current });
    button.addEventListener('click', () => open(result));
    name.textContent = result.name;
    found.textContent = best ? likeliest(result.answer, best) : problemWords(result.problem.kind, {})[0];
    button.append(thumbnail(result), name, found);
    item.append(button);
    return item;
  });
}

/** The likeliest class, or that the model does not know such photos. */
function likeliest(answer, best) {
  return doubt(answer) === 'unfamiliar' ? say('unfamiliar') : `${className(best)}: ${share(answer, best)}`;
}

const HEAD = ['file', 'date', 'model', 'problem', 'familiar', 'certain', 'class', 'per cent', 'class 2', 'per cent 2', 'class 3', 'per cent 3'];

/** The results as CSV. */
export function table() {
  const cells = ({ name, date, title, answer, problem }) => [
    name, new Date(date).toISOString(), title, problem?.message, answer?.familiarity?.is_familiar, answer?.is_certain,
    ...[0, 1, 2].map((i) => answer?.results[i]).flatMap((one) => [one && className(one), one?.probability]),
  ];
  const line = (row) => row.map(quoted).join(',');
  return `\ufeff${[HEAD, ...results.map(cells)].map(line).join('\r\n')}\r\n`;
}

// A text that a spreadsheet would take for a formula gets an apostrophe.
function quoted(cell) {
  const text = String(cell ?? '');
  return `"${(/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

// The crop frame over the photo, whose corners are dragged or moved with the arrow keys. `photo.js` draws
// the photo.

const SMALLEST = 0.08;
const STEP = 0.02;

/** Connects the frame. `get` returns the crop in fractions of the photo; `set` receives a new one. */
export function wire(frame, get, set) {
  frame.addEventListener('pointerdown', (event) => drag(frame, event, get(), set));
  frame.addEventListener('keydown', (event) => {
    const corner = event.target.dataset.corner;
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!corner || !direction) return;
    event.preventDefault();
    const step = event.shiftKey ? 5 * STEP : STEP;
    set(moved(get(), corner, direction[0] * step, direction[1] * step));
  });
}

/** Places the frame over its part of the photo. */
export function place(frame, crop, isWhole) {
  const { style } = frame;
  for (const [side, part] of [['left', crop.x], ['top', crop.y], ['width', crop.width], ['height', crop.height]]) {
    style[side] = `${part * 100}%`;
  }
  frame.classList.toggle('whole', isWhole);
}

function drag(frame, start, crop, set) {
  if (start.button > 0) return;
  start.preventDefault();
  const corner = start.target.dataset.corner;
  if (corner) start.target.focus();
  const { width, height } = frame.parentElement.getBoundingClientRect();
  const move = (event) => {
    set(moved(crop, corner, (event.clientX - start.clientX) / width, (event.clientY - start.clientY) / height));
  };
  const end = () => {
    frame.removeEventListener('pointermove', move);
    for (const type of ['pointerup', 'pointercancel']) frame.removeEventListener(type, end);
  };
  frame.setPointerCapture(start.pointerId);
  frame.addEventListener('pointermove', move);
  for (const type of ['pointerup', 'pointercancel']) frame.addEventListener(type, end);
}

/** The crop with one corner, or all of it, moved by a fraction of the photo; it stays inside the photo. */
function moved({ x, y, width, height }, corner, dx, dy) {
  let [left, top, right, bottom] = [x, y, x + width, y + height];
  if (!corner) {
    left = between(left + dx, 0, 1 - width);
    top = between(top + dy, 0, 1 - height);
    return { x: left, y: top, width, height };
  }
  if (corner.includes('w')) left = between(left + dx, 0, right - SMALLEST);
  else right = between(right + dx, left + SMALLEST, 1);
  if (corner.includes('n')) top = between(top + dy, 0, bottom - SMALLEST);
  else bottom = between(bottom + dy, top + SMALLEST, 1);
  return { x: left, y: top, width: right - left, height: bottom - top };
}

function between(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

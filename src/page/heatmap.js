// Draws a heatmap from numbers: bilinear, half-pixel centres, matplotlib's jet. The picture equals the PNG
// of /predict.

/** The three colour curves of jet: pairs of position and intensity, both 0 to 1. */
const RED = [[0, 0], [0.35, 0], [0.66, 1], [0.89, 1], [1, 0.5]];
const GREEN = [[0, 0], [0.125, 0], [0.375, 1], [0.64, 1], [0.91, 0], [1, 0]];
const BLUE = [[0, 0.5], [0.11, 1], [0.34, 1], [0.65, 0], [1, 0]];
const LEVELS = Array.from({ length: 256 }, (_, level) =>
  [...[RED, GREEN, BLUE].map((points) => Math.floor(curve(points, level / 255) * 255)), 255]);

function curve(points, at) {
  const next = Math.max(1, points.findIndex(([place]) => at <= place));
  const [[x0, y0], [x1, y1]] = [points[next - 1], points[next]];
  return y0 + ((at - x0) / (x1 - x0)) * (y1 - y0);
}

/** Draws `map` ({width, height, values} in rows from the top, 0 to 1) on `canvas`, filling it. */
export function paint(map, canvas, side = 224) {
  canvas.width = side;
  canvas.height = side;
  const columns = taps(map.width, side);
  const rows = taps(map.height, side);
  const image = new ImageData(side, side);
  rows.forEach((row, y) => columns.forEach((column, x) => {
    const line = (at) => mix(map.values[at * map.width + column.low], map.values[at * map.width + column.high], column.share);
    const value = mix(line(row.low), line(row.high), row.share);
    image.data.set(LEVELS[Math.min(255, Math.floor(value * 256))], (y * side + x) * 4);
  }));
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/** Draws `map` over a part of the photo, given in fractions of its sides; the rest stays transparent. */
export function paintPart(map, canvas, { left, top, width, height }, side = 448) {
  const whole = document.createElement('canvas');
  paint(map, whole);
  canvas.width = side;
  canvas.height = side;
  canvas.getContext('2d').drawImage(whole, left * side, top * side, width * side, height * side);
}

/** How the heatmap lies over the photo: its opacity, from which side on, and how large both are. `at` finds an
 * element by its id. */
export function showLayers(at) {
  const zoom = at('zoom').value / 100;
  at('heat').style.opacity = at('opacity').value / 100;
  at('heat').style.clipPath = `inset(0 0 0 ${at('compare').value}%)`;
  at('stage').style.setProperty('--zoom', zoom);
  // What can be scrolled can be reached with the keyboard.
  if (zoom > 1) at('stage').tabIndex = 0;
  else at('stage').removeAttribute('tabindex');
}

/** Draws the colour scale from low to high. */
export function paintScale(canvas) {
  paint({ width: 256, height: 1, values: Array.from(LEVELS, (_, level) => level / 255) }, canvas, 256);
}

// For each of `to` samples, the two of `from` samples it lies between, and the weight of the second.
function taps(from, to) {
  return Array.from({ length: to }, (_, index) => {
    const at = Math.min(Math.max(((index + 0.5) * from) / to - 0.5, 0), from - 1);
    const low = Math.floor(at);
    return { low, high: Math.min(low + 1, from - 1), share: at - low };
  });
}

function mix(low, high, share) {
  return low + (high - low) * share;
}

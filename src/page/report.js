// What leaves the page by the user's wish: a text to copy, and the picture that is saved, the photo under its heatmap, and
// below it what it shows and whom to ask.

/** Copies a text; returns whether the browser did. */
export async function copy(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { return false; }
}

/** Draws `shown` with `heat` over it at `opacity`, and below `lines`, the first of them bold. */
export function picture(shown, heat, opacity, lines) {
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d');
  const width = Math.max(shown.width, 640);
  const height = Math.round((width / shown.width) * shown.height);
  const line = Math.max(22, Math.round(width / 36));
  const font = (index) => (index === 0 ? `600 ${Math.round(line * 0.75)}px system-ui, sans-serif` : `${Math.round(line * 0.62)}px system-ui, sans-serif`);
  const rows = lines.filter(Boolean).flatMap((text, index) => {
    context.font = font(index);
    return wrapped(context, text, width - line).map((part) => [font(index), part]);
  });
  canvas.width = width;
  canvas.height = height + line * (rows.length + 0.6);
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, canvas.height);
  context.drawImage(shown, 0, 0, width, height);
  context.globalAlpha = opacity;
  context.drawImage(heat, 0, 0, width, height);
  context.globalAlpha = 1;
  context.fillStyle = '#20292b';
  rows.forEach(([style, text], index) => {
    context.font = style;
    context.fillText(text, line / 2, height + line * (index + 1.05));
  });
  return canvas;
}

/** The text in lines of at most `width` pixels. */
function wrapped(context, text, width) {
  const lines = [''];
  for (const word of text.split(/\s+/)) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

/** Lets the browser save `blob` as `name`. */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

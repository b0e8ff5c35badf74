// Opens, turns, crops and shrinks a chosen photo before it is sent.

/** Larger photos are shrunk to this many pixels before they are sent, unless the user switches it off. */
export const MOST_PIXELS = 4e6;

const WHOLE = { x: 0, y: 0, width: 1, height: 1 };

/** The chosen photo. `bitmap` is null if this browser cannot decode it, mostly HEIC outside Safari. */
export async function open(file) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: 'from-image' });
  } catch { /* The server may still decode the format, or explain why not. */ }
  return { file, name: file.name || 'photo.png', bitmap, turns: 0, crop: { ...WHOLE } };
}

/** Turns a photo and its crop by quarter turns clockwise. */
export function turn(photo, quarters) {
  for (let left = (quarters + 4) % 4; left > 0; left -= 1) {
    const { x, y, width, height } = photo.crop;
    photo.crop = { x: 1 - y - height, y: x, width: height, height: width };
    photo.turns = (photo.turns + 1) % 4;
  }
}

/** Whether the whole photo will be sent. */
export function isWhole({ crop }) {
  return crop.width > 0.995 && crop.height > 0.995;
}

export function uncrop(photo) {
  photo.crop = { ...WHOLE };
}

/** Width and height in pixels of the turned photo, without the crop. */
export function turnedSize({ bitmap, turns }) {
  return turns % 2 ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
}

/** Width and height in pixels of the part to be sent, before shrinking. */
export function croppedSize(photo) {
  const [width, height] = turnedSize(photo);
  const { crop } = photo;
  return [Math.max(1, Math.round(width * crop.width)), Math.max(1, Math.round(height * crop.height))];
}

/** Draws the part `crop` of the turned photo on `canvas`, scaled by `scale`. */
export function draw(photo, canvas, crop, scale) {
  const [width, height] = turnedSize(photo);
  canvas.width = Math.max(1, Math.round(width * crop.width * scale));
  canvas.height = Math.max(1, Math.round(height * crop.height * scale));
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  // Transparent parts become white, as on paper.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(canvas.width / (width * crop.width), canvas.height / (height * crop.height));
  context.translate(-width * crop.x, -height * crop.y);
  context.translate(width / 2, height / 2);
  context.rotate((photo.turns * Math.PI) / 2);
  context.drawImage(photo.bitmap, -photo.bitmap.width / 2, -photo.bitmap.height / 2);
}

// The first bytes of the formats that the service decodes; a dot stands for any byte.
const DECODED = [/^\xff\xd8\xff/, /^\x89PNG\r\n\x1a\n/, /^RIFF[^]{4}WEBP/, /^GIF8[79]a/, /^BM/];

/** Whether the service decodes this file's format. It does not decode AVIF, HEIC and others. */
async function isDecoded(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  return DECODED.some((format) => format.test(start));
}

/**
 * The file to send: the chosen file if nothing has to change, else a JPEG of any format this browser
 * can show. `mustEncode` is set after the service refused the file's format.
 */
export async function toSend(photo, mayShrink, mustEncode = false) {
  if (!photo.bitmap) return photo.file;
  const [width, height] = croppedSize(photo);
  const needsShrinking = mayShrink && width * height > MOST_PIXELS;
  const isUnchanged = isWhole(photo) && photo.turns === 0 && !needsShrinking && !mustEncode;
  if (isUnchanged && await isDecoded(photo.file)) return photo.file;
  const scale = needsShrinking ? Math.sqrt(MOST_PIXELS / (width * height)) : 1;
  // The browser may refuse a canvas of this size; then a smaller one is used.
  return (await toJpeg(photo, scale)) ?? toJpeg(photo, Math.min(1, Math.sqrt(MOST_PIXELS / (width * height))));
}

function toJpeg(photo, scale) {
  const canvas = document.createElement('canvas');
  draw(photo, canvas, photo.crop, scale);
  return new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.92));
}

// Opens, turns, crops and shrinks a chosen photo before it is sent.

/** Larger photos are shrunk to this many pixels before they are sent, unless the user switches it off. */
export const MOST_PIXELS = 4e6;
/** As many are decoded on the device to turn or crop a photo. */
const MOST_DECODED = 7e6;
/** As many as the page draws. */
export const SHOWN_PIXELS = 1.92e6;

const WHOLE = { x: 0, y: 0, width: 1, height: 1 };

const decoded = (file) => createImageBitmap(file, { imageOrientation: 'from-image' });

/**
 * The chosen photo. `bitmap` is the photo with at most `most` pixels, and `width` and `height` are the whole photo's:
 * 12 megapixels would take 48 MB for as long as it is shown. `bitmap` is null if this browser cannot decode it,
 * mostly HEIC outside Safari. A photo that `isOnlyShown` is not decoded whole where the browser can do without.
 */
export async function open(file, most, isOnlyShown = false) {
  const photo = { file, name: file.name || 'photo.png', bitmap: null, width: 0, height: 0, turns: 0, crop: { ...WHOLE }, isOnlyShown };
  const small = isOnlyShown && await reduced(file, most).catch(() => null);
  if (small) return Object.assign(photo, small);
  try {
    const bitmap = await decoded(file);
    const { width, height } = bitmap;
    Object.assign(photo, { width, height, bitmap: await shrunk(bitmap, most) });
  } catch { /* The server may still decode the format, or explain why not. */ }
  return photo;
}

/**
 * A JPEG decoded at some eighths of its size, which takes as much less memory, with the whole photo's size. Null for
 * small photos, and where the browser has no decoder that also tells how the photo is turned.
 */
async function reduced(file, most) {
  if (!window.ImageDecoder || !('rotation' in VideoFrame.prototype)) return null;
  const size = await frameOf(file);
  // Rather a little less than the size that is shown than an eighth more.
  const eighths = Math.ceil(8 * 0.9 * Math.sqrt(most / (size[0] * size[1])));
  if (eighths >= 8) return null;
  const [desiredWidth, desiredHeight] = size.map((side) => Math.ceil((side * eighths) / 8));
  const decoder = new ImageDecoder({ data: file.stream(), type: 'image/jpeg', desiredWidth, desiredHeight });
  try {
    const { image } = await decoder.decode();
    const [width, height] = image.rotation % 180 ? size.reverse() : size;
    const bitmap = await createImageBitmap(image).finally(() => image.close());
    return { width, height, bitmap: await shrunk(bitmap, most) };
  } finally {
    decoder.close();
  }
}

/** Width and height in the head of a JPEG. Throws at the end of the file, as in any other format. */
async function frameOf(file) {
  for (let at = 2; ;) {
    const head = new DataView(await file.slice(at, at + 9).arrayBuffer());
    const code = head.getUint16(0);
    if (code >= 0xffc0 && code <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(code)) return [head.getUint16(7), head.getUint16(5)];
    if (code < 0xffc0) throw new RangeError('no JPEG');
    at += code === 0xffff ? 1 : 2 + head.getUint16(2);
  }
}

/** The bitmap with at most `most` pixels. */
async function shrunk(bitmap, most) {
  const scale = Math.sqrt(most / (bitmap.width * bitmap.height));
  if (scale > 0.99) return bitmap;
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  try {
    return await createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: 'high' });
  } finally {
    bitmap.close();
  }
}

/** Gives a photo's memory back without waiting for the garbage collector. */
export function close(photo) {
  photo?.bitmap?.close();
  if (photo) photo.bitmap = null;
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
export function turnedSize({ width, height, turns }) {
  return turns % 2 ? [height, width] : [width, height];
}

/** Width and height in pixels of the part to be sent, before shrinking. */
export function croppedSize(photo) {
  const [width, height] = turnedSize(photo);
  const { crop } = photo;
  return [Math.max(1, Math.round(width * crop.width)), Math.max(1, Math.round(height * crop.height))];
}

/**
 * By how much the part to be sent is shrunk to have at most MOST_PIXELS; 1 if it is not. On the device, where the photo
 * is still to be decoded for it, to some eighths, as a JPEG can be, and the whole of it to at most MOST_DECODED.
 */
export function shrinking(photo) {
  const [width, height] = croppedSize(photo);
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  if (!photo.isOnlyShown) return scale;
  const most = Math.sqrt(MOST_DECODED / (photo.width * photo.height));
  return Math.max(1, Math.floor(Math.min(scale, most) * 8)) / 8;
}

/** Whether the photo is shrunk without being asked: on the device, if it is made anew. */
export function mustShrink(photo) {
  return photo.isOnlyShown && !isUnchanged(photo);
}

const isUnchanged = (photo) => isWhole(photo) && !photo.turns;

/** Draws the part `crop` of the turned photo on `canvas`, scaled by `scale`, from `source`, of any size. */
export function draw(photo, canvas, crop, scale, source = photo.bitmap) {
  const [width, height] = turnedSize(photo);
  canvas.width = Math.max(1, Math.round(width * crop.width * scale));
  canvas.height = Math.max(1, Math.round(height * crop.height * scale));
  // Browsers keep further copies of other canvases.
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  // Transparent parts become white, as on paper.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(canvas.width / (width * crop.width), canvas.height / (height * crop.height));
  context.translate(-width * crop.x, -height * crop.y);
  context.translate(width / 2, height / 2);
  context.rotate((photo.turns * Math.PI) / 2);
  context.drawImage(source, -photo.width / 2, -photo.height / 2, photo.width, photo.height);
}

/** Draws the part `seen` for the screen, if it is not drawn yet: browsers keep several copies of what is drawn. */
export function show(photo, canvas, seen) {
  const drawn = [photo.turns, ...Object.values(seen)].join();
  if (drawn === photo.drawn) return;
  const [width, height] = turnedSize(photo);
  draw(photo, canvas, seen, Math.min(1, 1600 / Math.max(width * seen.width, height * seen.height)));
  photo.drawn = drawn;
}

// The first bytes of the formats that the service decodes as browsers do. It turns a WebP as its EXIF says, which not all
// browsers do.
const DECODED = [/^\xff\xd8\xff/, /^\x89PNG\r\n\x1a\n/, /^RIFF[^]{4}WEBP(?!VP8X[^]{4}[\x08-\x0f\x18-\x1f\x28-\x2f\x38-\x3f])/, /^GIF8[79]a/, /^BM/];

/** Whether the service sees in this file what the browser shows. It does not decode AVIF, HEIC and others. */
async function isDecoded(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 21).arrayBuffer()));
  return DECODED.some((format) => format.test(start));
}

/**
 * The file to send: the chosen file if nothing has to change, else a JPEG of any format this browser
 * can show. `mustEncode` is set after the service refused the file's format.
 */
export async function toSend(photo, mayShrink, mustEncode = false) {
  if (!photo.bitmap) return photo.file;
  const scale = mayShrink || mustShrink(photo) ? shrinking(photo) : 1;
  if (isUnchanged(photo) && scale === 1 && !mustEncode && await isDecoded(photo.file)) return photo.file;
  // The browser may refuse a canvas of this size; then a smaller one is used.
  return (await toJpeg(photo, scale)) ?? toJpeg(photo, shrinking(photo));
}

/** The photo decoded again, large enough to be drawn at this scale. */
async function enlarged({ file, width, height }, scale) {
  const small = scale < 1 && await reduced(file, width * height * scale * scale).catch(() => null);
  return small ? small.bitmap : decoded(file);
}

async function toJpeg(photo, scale) {
  // The kept bitmap is enough for a picture that is not larger.
  const source = Math.floor(photo.width * scale) <= photo.bitmap.width ? photo.bitmap : await enlarged(photo, scale);
  const canvas = document.createElement('canvas');
  draw(photo, canvas, photo.crop, scale, source);
  if (source !== photo.bitmap) source.close();
  const jpeg = await new Promise((done) => { canvas.toBlob(done, 'image/jpeg', 0.92); });
  // As `close` does.
  canvas.width = 0;
  return jpeg;
}

/** Calls `take` with the files that are pasted or dropped. */
export function wire(take) {
  document.addEventListener('paste', (event) => {
    take([...(event.clipboardData?.files ?? [])].filter((entry) => entry.type.startsWith('image/')));
  });
  for (const type of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      document.body.classList.toggle('over', type === 'dragover');
      if (type === 'drop') take(event.dataTransfer.files);
    });
  }
}

// The engine of "on this device" in Node, through the page's own worker: every photo of tests/photos has the
// service's probabilities and heatmaps. Both run the same packed files, of models/skin or of SKINCELL_MODEL.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { gunzipSync } from 'node:zlib';
import { PHOTOS, difference, indexOf, servedAnswer } from './on-device.mjs';
import { repository, serve } from './service.mjs';
import { model, site } from './site.mjs';

/** Largest difference of a probability, in points of a per cent. */
const CLOSE = 0.01;
/** Of a heatmap's values, 0 to 1: the service's own engines differ as much in rounding (0.022, drawn-keratosis-2.jpg). */
const CLOSE_MAP = 0.03;

const skin = join(repository, 'models/skin');
// Node 20 has it behind a flag.
setFlagsFromString('--experimental-wasm-relaxed-simd');

let folder;
let service;
let index;
before(async () => {
  folder = site('single');
  index = indexOf(folder);
  service = await serve({ SKINCELL_PAGE: 'both' }, folder);
});
after(() => service?.stop());

/** The content of a stored file, checked. */
function content(path, file) {
  const stored = readFileSync(join(folder, path, file.digest));
  assert.equal(stored.length, file.stored);
  const bytes = file.gzip ? gunzipSync(stored) : stored;
  assert.equal(createHash('sha256').update(bytes).digest('hex'), file.digest);
  return bytes;
}

/** The page's worker, as a function from inputs to its message. */
function worker() {
  const text = readFileSync(join(repository, 'src/page/worker.js'), 'utf8');
  return (data) => new Promise((done) => {
    const self = { postMessage: done };
    new Function('self', text)(self);
    self.onmessage({ data });
  });
}

async function engine(build) {
  const { file } = index.engines.find(({ features }) => features === build);
  const module = await WebAssembly.compile(content('page/device', file));
  const [entry] = index.models;
  const weights = content(`page/models/${entry.name}`, entry.file);
  const run = worker();
  return (photo, changed = {}) => {
    const inputs = { card: JSON.stringify(entry.card), settings: '', model: weights, query: 'heatmap=maps', photo, ...changed };
    const blobs = Object.entries(inputs).map(([name, content]) => [name, new Blob([content])]);
    return run({ module, inputs: Object.fromEntries(blobs) });
  };
}

// Multiplies and adds with one rounding, as the service's processor does; plain SIMD rounds twice. Floats then differ
// in their last bit. Between float layers that is nothing; before a layer on integers a value between two bytes
// becomes either, and the answer to a photo that the model is unsure of changes by points.
for (const build of ['relaxed', 'simd']) {
  test(`${build}: every photo has the answer of the service`, { timeout: 600_000 }, async (context) => {
    const look = await engine(build);
    assert.ok(PHOTOS.length >= 20, `${PHOTOS.length} photos`);
    const worst = { points: 0, map: 0 };
    const isBound = build === 'relaxed' || model === skin;
    for (const name of PHOTOS) {
      const message = await look(readFileSync(join(repository, 'tests/photos', name)));
      assert.equal(message.status, 200, `${name}: ${message.fault ?? message.body}`);
      const { points, map } = difference(JSON.parse(message.body), await servedAnswer(service.address, name), name, isBound);
      worst.points = Math.max(worst.points, points);
      worst.map = Math.max(worst.map, map);
    }
    context.diagnostic(`${PHOTOS.length} photos: probabilities within ${worst.points.toFixed(4)} points, heatmaps within ${worst.map.toFixed(4)}`);
    if (!isBound) return;
    assert.ok(worst.points <= CLOSE, `${worst.points} points`);
    assert.ok(worst.map <= CLOSE_MAP, `${worst.map} of a heatmap`);
  });
}

test('what cannot be answered says why', async () => {
  const look = await engine('simd');
  const words = await look(Buffer.from('only words'));
  assert.equal(words.status, 415);
  assert.match(words.body, /not-an-image/);
  const photo = readFileSync(join(repository, 'tests/photos/cat.png'));
  const damaged = await look(photo, { model: new Uint8Array(1000) });
  assert.match(damaged.fault, /model/);
  const other = await look(photo, { query: 'model=other' });
  assert.match(other.body, /unknown-model/);
  const large = await look(new Uint8Array(2 ** 28));
  assert.ok(large.isMemory, large.fault);
  const card = await look(photo, { card: '{}' });
  assert.match(card.fault, /card/);
});

// The engine of "on this device" in Node, through the page's own worker: every photo of tests/photos has the
// service's probabilities and heatmaps. Both run the same packed files.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { site } from './site.mjs';
import { repository, serve } from './service.mjs';

/** Largest difference of a probability, in points of a per cent. */
const CLOSE = 0.01;
/** Of a heatmap's values, 0 to 1: the service's own engines differ as much in rounding (0.012, drawn-keratosis-2.jpg). */
const CLOSE_MAP = 0.02;

let folder;
let service;
let index;
before(async () => {
  folder = site('single');
  index = JSON.parse(readFileSync(join(folder, 'page/device/index.json')));
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

async function engine() {
  const { file } = index.engines.find(({ features }) => features === 'simd');
  const module = await WebAssembly.compile(content('page/device', file));
  const [entry] = index.models;
  const model = content(`page/models/${entry.name}`, entry.file);
  const run = worker();
  return (photo, changed = {}) => run({
    module, inputs: { card: JSON.stringify(entry.card), settings: '', model, query: 'heatmap=maps', photo, ...changed },
  });
}

test('every photo has the answer of the service', { timeout: 600_000 }, async (context) => {
  const look = await engine();
  const photos = readdirSync(join(repository, 'tests/photos')).filter((name) => /\.(jpe?g|png|webp|gif|bmp)$/.test(name));
  assert.ok(photos.length >= 20, `${photos.length} photos`);
  const worst = { points: 0, map: 0 };
  for (const name of photos) {
    const photo = readFileSync(join(repository, 'tests/photos', name));
    const message = await look(photo);
    assert.equal(message.status, 200, `${name}: ${message.fault ?? message.body}`);
    const ours = JSON.parse(message.body);
    const theirs = await (await fetch(`${service.address}predict?heatmap=maps`, { method: 'POST', body: photo })).json();
    assert.deepEqual(ours.results.map((result) => result.class).slice(0, 1), theirs.results.map((result) => result.class).slice(0, 1), name);
    for (const result of theirs.results) {
      const same = ours.results.find(({ index: at }) => at === result.index);
      worst.points = Math.max(worst.points, Math.abs(same.probability - result.probability));
    }
    for (const map of theirs.heatmap_maps) {
      const same = ours.heatmap_maps.find(({ index: at }) => at === map.index);
      assert.equal(same.basis, map.basis, `${name}, ${map.class}`);
      const off = Math.max(...map.values.map((value, at) => Math.abs(value - same.values[at])));
      worst.map = Math.max(worst.map, off);
    }
    assert.equal(ours.familiarity.is_familiar, theirs.familiarity.is_familiar, name);
  }
  context.diagnostic(`${photos.length} photos: probabilities within ${worst.points.toFixed(4)} points, heatmaps within ${worst.map.toFixed(4)}`);
  assert.ok(worst.points <= CLOSE, `${worst.points} points`);
  assert.ok(worst.map <= CLOSE_MAP, `${worst.map} of a heatmap`);
});

test('what cannot be answered says why', async () => {
  const look = await engine();
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

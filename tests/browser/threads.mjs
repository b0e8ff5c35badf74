// A trial: what a second thread would save on the device. The engine with a memory that two workers share, on a
// cross-origin isolated page, beside the engine as it is; figures and decision in docs/page.md.
//     browser/build threads && npm run threads

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { launch, photo } from './browser.mjs';
import { indexOf } from './on-device.mjs';
import { repository } from './service.mjs';
import { site } from './site.mjs';

const PHOTOS = Number(process.env.SKINCELL_PHOTOS ?? 60);
const ISOLATED = {
  'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp', 'cross-origin-resource-policy': 'same-origin',
};

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];
const engine = (name) => readFileSync(join(repository, 'target/browser', `${name}.wasm`));

/** Serves an empty page, the worker, both engines, a model with its card, and a photo. */
async function serveTrial() {
  const folder = site('half');
  const { name, card, file } = indexOf(folder).models[0];
  const stored = readFileSync(join(folder, 'page/models', name, file.digest));
  const files = {
    '/': ['text/html', '<!doctype html><title>trial</title>'],
    '/worker.js': ['text/javascript', readFileSync(join(import.meta.dirname, 'threads-worker.js'))],
    '/relaxed': ['application/wasm', engine('relaxed')],
    '/threads': ['application/wasm', engine('threads')],
    '/model': ['application/octet-stream', file.gzip ? gunzipSync(stored) : stored],
    '/card': ['application/json', JSON.stringify(card)],
    '/photo': ['image/jpeg', readFileSync(photo('drawn-eczema-1.jpg'))],
  };
  const server = createServer((request, response) => {
    const [type, body] = files[request.url] ?? [];
    response.writeHead(type ? 200 : 404, { ...ISOLATED, 'content-type': type ?? 'text/plain' }).end(body);
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  return { address: `http://127.0.0.1:${server.address().port}/`, stop: () => { server.closeAllConnections(); server.close(); } };
}

/** In the page: answers the photo `many` times by each engine in turn, a new worker or two for each. */
async function compare(many) {
  const blob = async (path) => (await fetch(path)).blob();
  const compiled = async (path) => WebAssembly.compile(await (await fetch(path)).arrayBuffer());
  const [relaxed, threads, card, model, picture] = await Promise.all([compiled('relaxed'), compiled('threads'), blob('card'), blob('model'), blob('photo')]);
  const inputs = { card, settings: new Blob([]), model, query: new Blob(['heatmap=maps']), photo: picture };
  const looked = async (module, isShared) => {
    const began = performance.now();
    const workers = [new Worker('worker.js')];
    const shared = {};
    if (isShared) {
      workers.push(new Worker('worker.js'));
      shared.memory = new WebAssembly.Memory({ initial: 24, maximum: 4096, shared: true });
      shared.slot = new SharedArrayBuffer(4);
    }
    const { status, body, memory } = await new Promise((done, fail) => {
      workers[0].onmessage = ({ data }) => (data.isReady ? workers[1]?.postMessage({ isHelper: true, module, ...shared }) : done(data));
      workers[0].onerror = ({ message }) => fail(new Error(message));
      workers[0].postMessage({ module, inputs, ...shared });
    });
    const wall = performance.now() - began;
    for (const worker of workers) worker.terminate();
    const { timing_ms: times, results } = JSON.parse(body);
    if (status !== 200) throw new Error(body);
    return { wall, engine: times.total, model: times.inference, memory: memory / 2 ** 20, found: JSON.stringify(results) };
  };
  const found = { one: [], two: [] };
  for (let at = 0; at < many; at += 1) {
    found.one.push(await looked(relaxed, false));
    found.two.push(await looked(threads, true));
  }
  if (!crossOriginIsolated) throw new Error('not isolated');
  return found;
}

const { address, stop } = await serveTrial();
const browser = await launch();
const page = await browser.newPage();
await page.goto(address);
const found = await page.evaluate(compare, PHOTOS);
await browser.close();
stop();
for (const [name, list] of Object.entries(found)) {
  const later = list.slice(5);
  const told = ['wall', 'engine', 'model'].map((key) => {
    const times = later.map((times) => times[key]);
    return `${key} ${median(times).toFixed(1)} (least ${Math.min(...times).toFixed(1)})`;
  });
  console.log(`${name}: ms, medians of ${later.length}: ${told.join(', ')}; memory of the instance ${list[0].memory.toFixed(1)} MiB`);
}
console.log(`same answers: ${found.one[0].found === found.two[0].found}`);
console.log(`engine as gzip: ${['relaxed', 'threads'].map((name) => `${name} ${gzipSync(engine(name), { level: 9 }).length}`).join(', ')} bytes`);

// On this device: loads engine and model once, and looks at photos with them in a worker. As soon as the
// device is chosen, the page gives up its right to send anything (`lock`), until it is loaded again.

import { Problem, problemOf } from './send.js';

const INDEX = 'page/device/index.json';
const KEPT = 'skincell-models';
const PLACE = 'skincell-place';

// The smallest modules that use a SIMD and a relaxed SIMD instruction.
const PROBES = {
  simd: [65, 0, 253, 15, 253, 98, 11],
  relaxed: [65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11],
};

let index = null;
let policy = null;
/** Whether the page itself is kept for visits without a network. */
export let registered = null;
const loads = new Map();

function runs(features) {
  const code = PROBES[features] ?? [];
  const head = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10];
  return WebAssembly.validate(new Uint8Array([...head, code.length + 3, 1, code.length + 1, 0, ...code]));
}

/** Where the user chose to have photos looked at, or null. */
export function remembered() {
  try { return localStorage.getItem(PLACE); } catch { return null; }
}

export function remember(place) {
  try { localStorage.setItem(PLACE, place); } catch { /* then the choice lasts until the page is closed */ }
}

/** Throws a Problem if this browser cannot run the engine. */
export function check() {
  const lacks = [
    [!window.isSecureContext, 'https (or localhost)'],
    [!window.WebAssembly || !runs('simd'), 'WebAssembly with SIMD'],
    [!window.DecompressionStream || !window.Worker, 'workers and DecompressionStream'],
  ].filter(([missing]) => missing).map(([, what]) => what);
  if (lacks.length) throw new Problem('unsupported', `missing: ${lacks.join(', ')}`);
}

/** Gives up, until the page is loaded again, every request but those for these files; each call leaves less. */
function lock(...paths) {
  const files = ['page/worker.js', INDEX, ...[1, 2, 3].map((at) => `page/example-${at}.jpg`), ...paths];
  const meta = document.createElement('meta');
  meta.httpEquiv = 'Content-Security-Policy';
  meta.content = `connect-src ${files.map((path) => new URL(path, document.baseURI).href).join(' ')}; img-src blob: data:; form-action 'none'`;
  document.head.append(meta);
}

/** Tries to send one byte to this page's own host, and returns what the browser said, or null if it was sent. */
export async function prove() {
  const said = new Promise((done) => {
    document.addEventListener('securitypolicyviolation', (event) => done(`${event.effectiveDirective}: ${event.blockedURI}`), { once: true });
  });
  const sent = fetch('predict', { method: 'POST', body: '.' }).then(() => null, () => said);
  return sent;
}

// The only script addresses that this page may make: a worker from memory, and the service worker.
function scriptAddress(address) {
  policy ??= window.trustedTypes?.createPolicy('skincell', {
    createScriptURL: (text) => (text.startsWith('blob:') || text === 'service-worker.js' ? text : null),
  });
  return policy ? policy.createScriptURL(address) : address;
}

/** The models for this device, in the form of /models. Keeps the page itself for visits without a network. */
export async function open() {
  check();
  if (!registered) {
    lock('page/device/', 'page/models/');
    registered = navigator.serviceWorker?.register(scriptAddress('service-worker.js'), { updateViaCache: 'all' }).catch(() => null) ?? Promise.resolve();
  }
  const response = await fetch(INDEX).catch((error) => { throw new Problem('notLoaded', error.message); });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw problemOf(response.status, body);
  if (!body?.models?.length) throw new Problem('model', 'This service offers no model for devices.');
  if (!index) lock(...body.engines.map(({ file }) => `page/device/${file.digest}`), ...body.models.map(({ name, file }) => `page/models/${name}/${file.digest}`));
  index = body;
  await forget();
  const models = index.models.map(({ name, card }) => ({ name, title: card.title, notice: card.notice }));
  return { default: index.default, models };
}

function files(name) {
  const engine = index.engines.find(({ features }) => runs(features));
  const model = index.models.find((entry) => entry.name === name) ?? index.models[0];
  return { engine: [`page/device/${engine.file.digest}`, engine.file], model: [`page/models/${model.name}/${model.file.digest}`, model.file], entry: model };
}

/** Bytes still to load for a model; 0 if this browser has kept all of them. */
export async function missing(name) {
  const { engine, model } = files(name);
  const sizes = await Promise.all([engine, model].map(async ([path, file]) => ((await keep((cache) => cache.match(path))) ? 0 : file.stored)));
  return sizes[0] + sizes[1];
}

// Some browsers forbid storage, or have no room: then nothing is kept, and the answers are the same.
async function keep(act) {
  try { return await act(await caches.open(KEPT)); } catch { return null; }
}

/** Deletes what the index no longer names. */
function forget() {
  const named = [...index.engines, ...index.models].map(({ file }) => file.digest);
  return keep(async (cache) => {
    const old = (await cache.keys()).filter(({ url }) => !named.some((digest) => url.endsWith(digest)));
    await Promise.all(old.map((request) => cache.delete(request)));
  });
}

/**
 * Loads engine and model, once. `report` is called with the share loaded, 0 to 1. Resolves to the compiled
 * engine, the model and its card, and whether the browser kept both.
 */
export function load(name, report) {
  const known = loads.get(name);
  if (known) {
    if (!known.isReady) known.reports.push(report);
    return known;
  }
  const stopper = new AbortController();
  const reports = [report];
  const { engine, model, entry } = files(name);
  const total = engine[1].stored + model[1].stored;
  const got = [0, 0];
  const count = (at) => (bytes) => {
    got[at] = bytes;
    for (const each of reports) each((got[0] + got[1]) / total);
  };
  const both = Promise.all([engine, model].map(([path, file], at) => content(path, file, count(at), stopper.signal)));
  const ready = both.then(async ([engineFile, modelFile]) => ({
    module: await WebAssembly.compile(await engineFile.blob.arrayBuffer()).catch((error) => { throw new Problem('unsupported', error.message); }),
    model: modelFile.blob,
    card: entry.card,
    isKept: engineFile.isKept && modelFile.isKept && !!await registered,
  }));
  const one = { ready, reports, isReady: false, stop: () => stopper.abort() };
  // One model at a time: its bytes stay in memory.
  loads.clear();
  loads.set(name, one);
  ready.then(() => { one.isReady = true; }, () => { stopper.abort(); loads.delete(name); });
  return one;
}

let workerText = null;

/**
 * A worker from memory, which has this page's policy, and a function to end it: everything that it held or left behind
 * is given back then.
 */
async function startWorker() {
  if (!workerText) {
    const response = await fetch('page/worker.js').catch((error) => { throw new Problem('notLoaded', error.message); });
    if (!response.ok) throw new Problem('notLoaded', `page/worker.js: HTTP ${response.status}`);
    workerText = await response.text();
  }
  const script = URL.createObjectURL(new Blob([workerText], { type: 'text/javascript' }));
  const worker = new Worker(scriptAddress(script));
  const end = () => { worker.terminate(); URL.revokeObjectURL(script); };
  return { worker, end };
}

/** A file's content as a blob, whose bytes are the browser's and not this tab's, and whether the browser kept it. */
async function content(path, file, count, signal) {
  const { worker, end } = await startWorker();
  try {
    signal.throwIfAborted();
    return await new Promise((done, fail) => {
      signal.addEventListener('abort', () => fail(signal.reason));
      worker.onmessage = ({ data }) => {
        if (data.got) count(data.got);
        else if (data.kind) fail(new Problem(data.kind, data.fault));
        else done(data);
      };
      worker.onerror = (event) => { event.preventDefault(); fail(new Problem('deviceFault', event.message)); };
      worker.postMessage({ address: new URL(path, document.baseURI).href, file, kept: KEPT });
    });
  } finally {
    end();
  }
}

/**
 * Looks at a photo. Returns a promise of the answer, null if stopped, and a function to stop; calls `loaded`
 * with the share of engine and model that is here, 0 to 1. Each photo gets a worker of its own, which ends
 * with the answer: its memory is given back, and nothing of the photo stays.
 */
export function predict(file, name, loaded) {
  let stop = () => {};
  const stopped = new Promise((done) => { stop = () => done(null); });
  const one = load(name, loaded);
  const work = async () => {
    const { module, model, card, isKept } = await one.ready;
    loaded(1);
    const { worker, end } = await startWorker();
    try {
      const answered = new Promise((done, fail) => {
        worker.onmessage = ({ data }) => done(data);
        worker.onerror = (event) => { event.preventDefault(); fail(new Problem('deviceFault', event.message)); };
      });
      const texts = { card: JSON.stringify(card), settings: index.settings, query: 'heatmap=maps' };
      const blobs = Object.entries(texts).map(([name, text]) => [name, new Blob([text])]);
      worker.postMessage({ module, inputs: { ...Object.fromEntries(blobs), model, photo: file } });
      const data = await Promise.race([answered, stopped]);
      return data && { ...readAnswer(data), isKept };
    } finally {
      end();
    }
  };
  const answer = Promise.race([work(), stopped]).catch((error) => {
    if (error.name === 'AbortError') return null;
    throw error;
  });
  return { answer, stop: () => { one.stop(); stop(); } };
}

function readAnswer({ status, body, fault, isMemory, memory }) {
  if (fault) throw new Problem(isMemory ? 'memory' : 'deviceFault', fault);
  const answer = JSON.parse(body);
  if (status === 200) return { ...answer, memory };
  const problem = problemOf(status, answer);
  if (problem.kind !== 'fault') throw problem;
  // There is no service here that could have a fault.
  throw new Problem(problem.message.includes('no memory') ? 'memory' : 'deviceFault', problem.message);
}

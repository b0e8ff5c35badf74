// The worker of threads.mjs: answers one photo, or helps another worker's run. Both have one shared memory. The page's
// own worker has no such memory, and is measured beside it.

const INPUTS = ['card', 'settings', 'model', 'query', 'photo'];

/** What `module` imports: a clock, error messages, the shared memory if it takes one, and `spawn` for its thread. */
function imports(module, memory, spawn) {
  const view = () => new DataView(memory().buffer);
  const known = {
    clock_time_get: (clock, precision, at) => {
      view().setBigUint64(at, BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3)) * 1000n, true);
      return 0;
    },
    environ_sizes_get: (count, size) => {
      view().setUint32(count, 0, true);
      view().setUint32(size, 0, true);
      return 0;
    },
    fd_prestat_get: () => 8,
    random_get: (at, length) => {
      const bytes = crypto.getRandomValues(new Uint8Array(length));
      new Uint8Array(memory().buffer, at, length).set(bytes);
      return 0;
    },
    environ_get: () => 0,
    sched_yield: () => 0,
    fd_write: (descriptor, parts) => {
      const [from, length] = [0, 4].map((at) => view().getUint32(parts + at, true));
      throw new Error(textAt(memory(), from, length));
    },
  };
  const names = WebAssembly.Module.imports(module).filter(({ module: from }) => from === 'wasi_snapshot_preview1');
  return {
    wasi_snapshot_preview1: Object.fromEntries(names.map(({ name }) => [name, known[name] ?? (() => 52)])),
    wasi: { 'thread-spawn': spawn },
    env: { memory: memory() },
  };
}

/** Text in a memory; a copy, because no browser decodes what is shared. */
const textAt = (memory, from, length) => new TextDecoder().decode(new Uint8Array(memory.buffer, from, length).slice());

/** Waits for the address that a run's `thread-spawn` puts into `slot`, and works there until the worker is ended. */
async function help({ module, memory, slot }) {
  const instance = await WebAssembly.instantiate(module, imports(module, () => memory, () => -1));
  const place = new Int32Array(slot);
  Atomics.wait(place, 0, 0);
  instance.exports.wasi_thread_start(1, Atomics.load(place, 0));
}

async function answer({ module, inputs, memory, slot }) {
  let instance = null;
  const own = () => memory ?? instance?.exports.memory;
  const spawn = (address) => {
    if (!slot) return -1;
    Atomics.store(new Int32Array(slot), 0, address);
    Atomics.notify(new Int32Array(slot), 0);
    return 1;
  };
  instance = await WebAssembly.instantiate(module, imports(module, own, spawn));
  const engine = instance.exports;
  engine._initialize?.();
  // The first instance makes the memory ready; a helper's must come after it.
  self.postMessage({ isReady: true });
  for (const [at, name] of INPUTS.entries()) {
    const bytes = new Uint8Array(await inputs[name].arrayBuffer());
    const from = engine.room(at, bytes.length);
    new Uint8Array(own().buffer, from, bytes.length).set(bytes);
    if (name === 'model' && engine.load() !== 0) throw new Error(textAt(own(), engine.answer(), engine.answer_length()));
  }
  const status = engine.predict();
  return { status, body: textAt(own(), engine.answer(), engine.answer_length()), memory: own().buffer.byteLength };
}

self.onmessage = async ({ data }) => {
  if (data.isHelper) return help(data);
  return self.postMessage(await answer(data));
};

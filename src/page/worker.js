// Answers one photo with the engine, in a worker of its own. The engine is built for WASI 0.1, from which it
// needs a clock and a place for error messages; every other function refuses. It has no network.

const NOT_SUPPORTED = 52;
const BAD_DESCRIPTOR = 8;
const INPUTS = ['card', 'settings', 'model', 'query', 'photo'];

/** The functions that `module` imports; `memory()` is the instance's, `print` takes error messages. */
function wasi(module, memory, print) {
  const view = () => new DataView(memory().buffer);
  const known = {
    clock_time_get: (clock, precision, at) => {
      const now = performance.timeOrigin + performance.now();
      view().setBigUint64(at, BigInt(Math.round(now * 1e3)) * 1000n, true);
      return 0;
    },
    environ_sizes_get: (count, size) => {
      view().setUint32(count, 0, true);
      view().setUint32(size, 0, true);
      return 0;
    },
    environ_get: () => 0,
    fd_prestat_get: () => BAD_DESCRIPTOR,
    fd_write: (descriptor, parts, count, written) => {
      let total = 0;
      for (let at = parts; at < parts + count * 8; at += 8) {
        const length = view().getUint32(at + 4, true);
        print(new TextDecoder().decode(new Uint8Array(memory().buffer, view().getUint32(at, true), length)));
        total += length;
      }
      view().setUint32(written, total, true);
      return 0;
    },
    proc_exit: (code) => { throw new Error(`the engine ended with ${code}`); },
    random_get: (at, length) => {
      crypto.getRandomValues(new Uint8Array(memory().buffer, at, length));
      return 0;
    },
  };
  const names = WebAssembly.Module.imports(module).map(({ name }) => name);
  return Object.fromEntries(names.map((name) => [name, known[name] ?? (() => NOT_SUPPORTED)]));
}

/** The status and the JSON of the answer, or `fault`: why there is none. */
async function answer({ module, inputs }) {
  let instance = null;
  let said = '';
  const memory = () => instance.exports.memory;
  const functions = wasi(module, memory, (text) => { said = (said + text).slice(-2000); });
  try {
    instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: functions });
    const engine = instance.exports;
    engine._initialize?.();
    const put = (name) => {
      const given = inputs[name];
      const bytes = typeof given === 'string' ? new TextEncoder().encode(given) : new Uint8Array(given);
      const at = engine.room(INPUTS.indexOf(name), bytes.length);
      if (!at) throw new RangeError(`no memory for ${bytes.length} bytes`);
      new Uint8Array(memory().buffer, at, bytes.length).set(bytes);
    };
    const text = () => new TextDecoder().decode(new Uint8Array(memory().buffer, engine.answer(), engine.answer_length()));
    ['card', 'settings', 'model'].forEach(put);
    if (engine.load() !== 0) return { fault: text() };
    ['query', 'photo'].forEach(put);
    return { status: engine.predict(), body: text(), memory: memory().buffer.byteLength };
  } catch (error) {
    const isMemory = error instanceof RangeError || said.includes('memory allocation');
    return { fault: [error.message, said.trim()].filter(Boolean).join(': '), isMemory };
  }
}

self.onmessage = async ({ data }) => self.postMessage(await answer(data));

// Does one thing in a worker of its own, which ends with it: loads and checks a file, or answers one photo with the
// engine. The engine is built for WASI 0.1, from which it needs a clock and a place for error messages; every other
// function refuses, so that it has no network. The worker's own requests are bound by the page's policy.

const NOT_SUPPORTED = 52;
const BAD_DESCRIPTOR = 8;
const PIECE = 1 << 18;
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

/** A function that reads a stream's next bytes, into the same memory where the browser can; null at the end. */
function pieces(stream) {
  let [reader, room] = [null, new ArrayBuffer(PIECE)];
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    [reader, room] = [stream.getReader(), null];
  }
  return async () => {
    const { done, value } = await (room ? reader.read(new Uint8Array(room)) : reader.read());
    room = room && value.buffer;
    return done ? null : value;
  };
}

/** The status and the JSON of the answer, or `fault`: why there is none. `inputs` are blobs. */
async function answer({ module, inputs }) {
  let instance = null;
  let said = '';
  const memory = () => instance.exports.memory;
  const functions = wasi(module, memory, (text) => { said = (said + text).slice(-2000); });
  try {
    instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: functions });
    const engine = instance.exports;
    engine._initialize?.();
    // Read piece by piece, so that there is only the engine's copy.
    const put = async (name) => {
      const { size } = inputs[name];
      let at = engine.room(INPUTS.indexOf(name), size);
      if (!at) throw new RangeError(`no memory for ${size} bytes`);
      const next = pieces(inputs[name].stream());
      for (let piece = await next(); piece; piece = await next()) {
        new Uint8Array(memory().buffer, at, piece.length).set(piece);
        at += piece.length;
      }
    };
    const text = () => new TextDecoder().decode(new Uint8Array(memory().buffer, engine.answer(), engine.answer_length()));
    for (const name of ['card', 'settings', 'model']) await put(name);
    if (engine.load() !== 0) return { fault: text() };
    for (const name of ['query', 'photo']) await put(name);
    return { status: engine.predict(), body: text(), memory: memory().buffer.byteLength };
  } catch (error) {
    const isMemory = error instanceof RangeError || said.includes('memory allocation');
    return { fault: [error.message, said.trim()].filter(Boolean).join(': '), isMemory };
  }
}

/** An error with the kind of problem that the page explains. */
const problem = (kind, message) => Object.assign(new Error(message), { kind });

/** A file, checked against its digest, from this browser's store or else from the host: its content as a blob. */
async function load({ address, file, kept }) {
  // Some browsers forbid storage, or have no room: then nothing is kept.
  const keep = async (act) => { try { return await act(await caches.open(kept)); } catch { return null; } };
  const stored = await keep(async (cache) => (await cache.match(address))?.blob());
  const found = stored && await unpacked(stored, file).catch(() => null);
  if (found) {
    self.postMessage({ got: file.stored });
    return { blob: found, isKept: true };
  }
  const loaded = await download(address, file);
  const blob = await unpacked(loaded, file);
  // Kept only now that it is whole and checked.
  const isKept = await keep(async (cache) => { await cache.put(address, new Response(loaded)); return true; });
  return { blob, isKept: Boolean(isKept) };
}

async function download(address, file) {
  const path = new URL(address).pathname;
  let [stored, length] = [null, 0];
  try {
    stored = new Uint8Array(file.stored);
    const response = await fetch(address);
    // The host has other files by now than the index says, which the browser may have kept.
    if (response.status === 404) throw problem('changed', `${path}: HTTP 404`);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const next = pieces(response.body);
    for (let piece = await next(); piece; piece = await next()) {
      if (length + piece.length > file.stored) throw problem('changed', `${path} is longer than ${file.stored} bytes`);
      stored.set(piece, length);
      length += piece.length;
      self.postMessage({ got: length });
    }
  } catch (error) {
    if (error.kind) throw error;
    throw problem(error instanceof RangeError ? 'memory' : 'notLoaded', `${path}: ${error.message}`);
  }
  if (length < file.stored) throw problem('notLoaded', `${path} broke off after ${length} of ${file.stored} bytes`);
  return new Blob([stored]);
}

async function unpacked(stored, file) {
  const changed = (why) => problem('changed', `${file.digest}: ${why}`);
  let blob = stored;
  if (file.gzip) {
    const stream = stored.stream().pipeThrough(new DecompressionStream('gzip'));
    blob = await new Response(stream).blob().catch((error) => { throw changed(error.message); });
  }
  if (blob.size !== file.bytes) throw changed(`${blob.size} bytes instead of ${file.bytes}`);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer()));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== file.digest) throw changed(`the digest is ${found}`);
  return blob;
}

self.onmessage = async ({ data }) => {
  const failed = ({ kind = 'notLoaded', message }) => ({ kind, fault: message });
  self.postMessage(await (data.file ? load(data).catch(failed) : answer(data)));
};

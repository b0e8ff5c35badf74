// The service under test: the repository's own application, served by the binary on a free port and killed
// at the end. SKINCELL_BIN names another binary, SKINCELL_WASM another component. Both must have been
// built.

import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { gunzipSync } from 'node:zlib';

export const repository = resolve(import.meta.dirname, '../..');
const START = 180_000;

const target = join(repository, 'target');
const BUILD = 'build first: cargo build -p skincell-cli && cargo build --release --target wasm32-wasip2 -p skincell && browser/build';
/** What all services keep of compiled components, which takes seconds and depends on their bytes alone. */
const COMPILED = join(target, 'wasm32-wasip2/release/tests-cache');

/** The program `skincell`. */
export function binary() {
  const found = process.env.SKINCELL_BIN
    ?? ['release', 'debug'].map((profile) => join(target, profile, 'skincell')).find(existsSync);
  if (!found) throw new Error(BUILD);
  return found;
}

/**
 * Starts the service, with these variables in the component's environment; returns its address and a function
 * to stop it. `device` is a folder that `skincell page` wrote, whose packed models the service then runs too, with one
 * thread.
 */
export async function serve(environment = {}, device = null) {
  const wasm = process.env.SKINCELL_WASM ?? join(target, 'wasm32-wasip2/release/skincell.wasm');
  if (!existsSync(wasm)) throw new Error(BUILD);
  const folder = mkdtempSync(join(tmpdir(), 'skincell-browser-'));
  const manifest = readFileSync(join(repository, 'spin.toml'), 'utf8');
  writeFileSync(join(folder, 'spin.toml'), manifest.replace(/^source = .*$/m, `source = ${JSON.stringify(wasm)}`));
  // Copied: links out of the application's folder are not mounted.
  for (const model of ['skin', 'imagenet']) {
    cpSync(join(repository, 'models', model), join(folder, 'models', model), { recursive: true });
  }
  if (device) mountDevice(device, folder);
  const variables = Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
  const flags = ['up', '--from', folder, '--listen', '127.0.0.1:0', '--cache-dir', COMPILED, ...variables];
  // As the page on the device does.
  if (device) flags.push('--threads', '1');
  const child = spawn(binary(), flags, { stdio: ['ignore', 'pipe', 'inherit'] });
  const stop = () => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  return { address: await addressOf(child).catch((error) => { stop(); throw error; }), stop };
}

/** Copies the device's files into the application, and its packed models with their cards in place of the others. */
function mountDevice(device, folder) {
  cpSync(join(device, 'page'), join(folder, 'device/page'), { recursive: true });
  const index = JSON.parse(readFileSync(join(device, 'page/device/index.json')));
  for (const { name, card, file } of index.models) {
    const stored = readFileSync(join(device, 'page/models', name, file.digest));
    const place = join(folder, 'models', name);
    rmSync(place, { recursive: true, force: true });
    mkdirSync(place);
    writeFileSync(join(place, 'card.json'), JSON.stringify(card));
    writeFileSync(join(place, 'model.cell'), file.gzip ? gunzipSync(stored) : stored);
  }
}

function addressOf(child) {
  return new Promise((done, fail) => {
    const timer = setTimeout(() => fail(new Error(`no address within ${START} ms`)), START);
    child.once('exit', (code) => fail(new Error(`the service ended with ${code}`)));
    createInterface(child.stdout).on('line', (line) => {
      const found = line.match(/http:\/\/\S+/);
      if (!found) return;
      clearTimeout(timer);
      done(`${found[0].replace(/\/$/, '')}/`);
    });
  });
}

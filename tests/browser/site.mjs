// The folder that `skincell page` writes, and a plain file server for it.

import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join, normalize, resolve } from 'node:path';
import { binary, repository } from './service.mjs';

const TYPES = {
  '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml',
  '.json': 'application/json', '.webmanifest': 'application/manifest+json',
};
/** Where on its host the folder lies: not at the root, as on many hosts. */
const PLACE = '/photos/skin/';

/** The folder of the model that is tested. SKINCELL_MODEL names another one, such as `model quantize` writes. */
export const model = resolve(repository, process.env.SKINCELL_MODEL ?? 'models/skin');

/** Writes the folder with the model in this precision; returns its path. It is removed when the process ends. */
export function site(precision) {
  const folder = mkdtempSync(join(tmpdir(), 'skincell-site-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const flags = ['page', model, '-o', folder, '--precision', precision];
  const { status, stderr } = spawnSync(binary(), flags, { cwd: repository, encoding: 'utf8' });
  if (status !== 0) throw new Error(`skincell page: ${stderr}`);
  return folder;
}

/**
 * Serves a folder as any web host does, without headers of ours. `requests` has method, path and length of each
 * body, and the bytes sent; `folder` may be changed.
 */
export async function host(folder) {
  const one = { folder, requests: [] };
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    const entry = { method: request.method, path, length: Number(request.headers['content-length'] ?? 0), sent: 0 };
    one.requests.push(entry);
    const below = path.startsWith(PLACE) ? path.slice(PLACE.length) : null;
    const file = join(one.folder, below === '' ? 'index.html' : below ?? 'outside');
    if (!existsSync(file)) return response.writeHead(404).end();
    const body = readFileSync(file);
    entry.sent = body.length;
    response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
    return response.end(body);
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  const stop = () => { server.closeAllConnections(); server.close(); };
  return Object.assign(one, { address: `http://127.0.0.1:${server.address().port}${PLACE}`, stop });
}

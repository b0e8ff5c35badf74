// The folder that `skincell page` writes, and a plain file server for it.

import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { binary, repository } from './service.mjs';

const TYPES = {
  '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml',
  '.json': 'application/json', '.webmanifest': 'application/manifest+json',
};

/** Writes the folder with models in this precision; returns its path. It is removed when the process ends. */
export function site(precision) {
  const folder = mkdtempSync(join(tmpdir(), 'skincell-site-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const flags = ['page', '-o', folder, '--precision', precision];
  const { status, stderr } = spawnSync(binary(), flags, { cwd: repository, encoding: 'utf8' });
  if (status !== 0) throw new Error(`skincell page: ${stderr}`);
  return folder;
}

/** Serves a folder as any web host does: no headers of ours. `requests` has method, path and length of each body. */
export async function host(folder) {
  const requests = [];
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    requests.push({ method: request.method, path, length: Number(request.headers['content-length'] ?? 0) });
    const file = join(folder, path.endsWith('/') ? `${path}index.html` : path);
    if (!existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
    return response.end(readFileSync(file));
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  const stop = () => { server.closeAllConnections(); server.close(); };
  return { address: `http://127.0.0.1:${server.address().port}/`, requests, stop };
}

// The folder that `skincell page` writes, and a plain file server for it.

import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, extname, join, normalize, resolve } from 'node:path';
import { binary, repository } from './service.mjs';

const TYPES = {
  '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml',
  '.json': 'application/json', '.webmanifest': 'application/manifest+json',
};
/** Where on its host the folder lies: not at the root, as on many hosts. */
const PLACE = '/photos/skin/';

/** The folder of the model that is tested. SKINCELL_MODEL names another one, such as `model quantize` writes. */
export const model = resolve(repository, process.env.SKINCELL_MODEL ?? 'models/skin');

/** Answers with a file; a model also in part, as is asked for, or with a part and no end. */
function send(one, entry, file, response) {
  const body = readFileSync(file);
  const isModel = entry.path.includes('/page/models/');
  const [first, last] = (isModel && entry.range?.match(/^bytes=(\d+)-(\d*)$/)?.slice(1)) || [0, ''];
  const part = body.subarray(Number(first), last === '' ? body.length : Number(last) + 1);
  const headers = { 'content-type': one.types[extname(file)] ?? 'application/octet-stream', 'content-length': part.length };
  // A model's name is its digest.
  if (isModel) Object.assign(headers, { etag: `"${basename(file)}"`, 'accept-ranges': 'bytes' });
  if (part.length < body.length) headers['content-range'] = `bytes ${first}-${Number(first) + part.length - 1}/${body.length}`;
  response.writeHead(part.length < body.length ? 206 : 200, headers);
  const breaks = isModel && one.breaks;
  entry.sent = breaks || part.length;
  if (!breaks) return response.end(part);
  one.breaks = 0;
  return response.write(part.subarray(0, breaks), () => setTimeout(() => response.destroy(), 100));
}

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
 * Serves a folder as any web host does, without headers of ours. `requests` has method, path, asked range and length
 * of each body, and the bytes sent. These may be changed: `folder`; `types`, the content type by a name's end; and
 * `breaks`, after how many bytes the connection ends while a model is sent, once.
 */
export async function host(folder) {
  const one = { folder, types: TYPES, breaks: 0, requests: [] };
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    const entry = { method: request.method, path, range: request.headers.range, length: Number(request.headers['content-length'] ?? 0), sent: 0 };
    one.requests.push(entry);
    const below = path.startsWith(PLACE) ? path.slice(PLACE.length) : null;
    const file = join(one.folder, below === '' ? 'index.html' : below ?? 'outside');
    if (!existsSync(file)) return response.writeHead(404).end();
    send(one, entry, file, response);
  });
  await new Promise((done) => { server.listen(0, '127.0.0.1', done); });
  const stop = () => { server.closeAllConnections(); server.close(); };
  return Object.assign(one, { address: `http://127.0.0.1:${server.address().port}${PLACE}`, stop });
}

// What can go wrong "on this device": the page says what it is, keeps nothing half, and offers the server where
// there is one.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { assertAccessible, choose, look, photo, picture, visit } from './browser.mjs';
import { answerOf, chooseDevice, deviceSuite, indexOf, isReady, limit, load, looked, text } from './on-device.mjs';
import { host, site } from './site.mjs';

const shared = deviceSuite(['both']);
const MODELS = '**/page/models/**';

/** The addresses of engine and models that the browser keeps. */
const kept = (page) => page.evaluate(async () => (
  (await (await caches.open('skincell-models')).keys()).map(({ url }) => url.split('/').slice(-2).join('/'))));

/** The model's address among those kept. */
const keptModels = async (page) => (await kept(page)).filter((path) => !path.startsWith('device/'));

/** The server is offered, and answers after a click. */
async function useServer(page) {
  await page.click('#use-server');
  await page.waitForFunction(() => document.querySelector('[name="place"]').checked && document.querySelector('#model').options.length > 0);
  await choose(page, photo('drawn-acne-1.jpg'));
  await look(page);
  assert.match(await text(page, '#timing'), /on the server/);
}

test('a changed model is refused, nothing of it is kept, and the server is offered', limit, async () => {
  await visit(shared.browser, shared.both.address, {}, async (page) => {
    await page.route(MODELS, async (route) => {
      const response = await route.fetch();
      const body = await response.body();
      body[body.length >> 1] ^= 1;
      await route.fulfill({ response, body });
    });
    await chooseDevice(page);
    await page.click('#loading-start');
    await page.getByText('arrived damaged or changed').waitFor();
    await assertAccessible(page, 'a changed model');
    await picture(page, 'device-changed');
    assert.deepEqual(await keptModels(page), []);
    await useServer(page);
  });
});

test('loading that breaks off keeps nothing of the file, and can be tried again', limit, async () => {
  await visit(shared.browser, shared.folder.address, {}, async (page) => {
    await page.route(MODELS, async (route) => {
      const response = await route.fetch();
      const body = await response.body();
      await route.fulfill({ response, body: body.subarray(0, body.length >> 1), headers: {} });
    });
    await page.click('#loading-start');
    await page.getByText('The model could not be loaded').waitFor();
    assert.match(await text(page, '#problem-detail'), /broke off after \d+ of \d+ bytes/);
    assert.ok(!(await page.locator('#use-server').isVisible()), 'there is no server');
    assert.deepEqual(await keptModels(page), []);
    await page.unroute(MODELS);
    await load(page);
    assert.equal((await keptModels(page)).length, 1);
  });
});

test('a new model on the host takes the place of the kept one at the visit after next', limit, async () => {
  const other = site('single');
  const plain = await host(shared.site);
  const [old, next] = [shared.site, other].map((folder) => indexOf(folder).models[0].file.digest);
  assert.notEqual(old, next);
  try {
    await visit(shared.browser, plain.address, {}, async (page) => {
      await load(page);
      plain.folder = other;
      const asked = page.context().waitForEvent('response', (response) => response.url().endsWith('index.json') && response.fromServiceWorker() === false);
      await page.reload();
      await isReady(page);
      await looked(page, 'drawn-wart-1.jpg');
      assert.match((await keptModels(page)).join(), new RegExp(old), 'the old one answers');
      await asked;
      await page.reload();
      await page.locator('#loading-start').waitFor();
      assert.deepEqual(await keptModels(page), [], 'the old one is deleted');
      await load(page);
      assert.match((await keptModels(page)).join(), new RegExp(next));
      assert.equal((await answerOf(page, 'drawn-wart-1.jpg')).results[0].index, 6);
    });
  } finally {
    plain.stop();
  }
});

test('a model that the host has no more is said to have changed', limit, async () => {
  await visit(shared.browser, shared.folder.address, {}, async (page) => {
    await page.route(MODELS, (route) => route.fulfill({ status: 404, body: 'gone' }));
    await page.click('#loading-start');
    await page.getByText('arrived damaged or changed').waitFor();
    assert.match(await text(page, '#problem-detail'), /HTTP 404/);
    assert.deepEqual(await keptModels(page), []);
  });
});

test('a model that was damaged in the store is loaded again', limit, async () => {
  await visit(shared.browser, shared.folder.address, {}, async (page) => {
    await load(page);
    await page.evaluate(async () => {
      const cache = await caches.open('skincell-models');
      for (const request of await cache.keys()) await cache.put(request, new Response(new Uint8Array(1000)));
    });
    await page.reload();
    await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
    await looked(page, 'drawn-wart-1.jpg');
    assert.match(await text(page, '#timing'), /on this device/);
  });
});

const LACKS = {
  'WebAssembly': ['delete window.WebAssembly', /WebAssembly with SIMD/],
  'SIMD': ['WebAssembly.validate = () => false', /WebAssembly with SIMD/],
  'https': ["Object.defineProperty(window, 'isSecureContext', { value: false })", /https/],
};
for (const [what, [script, said]] of Object.entries(LACKS)) {
  for (const kind of ['both', 'folder']) {
    test(`${kind}: without ${what} the page says so`, limit, async () => {
      const context = await shared.browser.newContext();
      const page = await context.newPage();
      await page.addInitScript(script);
      await page.goto(shared[kind].address);
      if (kind === 'both') await page.check('[name="place"][value="device"]');
      await page.getByText('cannot run the model').waitFor();
      assert.match(await text(page, '#problem-detail'), said);
      assert.equal(await page.locator('#use-server').isVisible(), kind === 'both');
      await assertAccessible(page, `without ${what}`);
      if (kind === 'both') await useServer(page);
      await context.close();
    });
  }
}

test('where the browser has no room, the answers are the same, nothing is kept, and the page says so', limit, async () => {
  await visit(shared.browser, shared.folder.address, {}, async (page) => {
    const storage = await page.context().newCDPSession(page);
    await storage.send('Storage.overrideQuotaForOrigin', { origin: new URL(shared.folder.address).origin, quotaSize: 1_500_000 });
    await page.click('#loading-start');
    await page.locator('#loading-text').getByText('had no room to keep the model').waitFor();
    await assertAccessible(page, 'no room');
    await picture(page, 'device-no-room');
    assert.deepEqual(await keptModels(page), []);
    await looked(page, 'drawn-wart-1.jpg');
    assert.ok(await page.locator('#unkept').isVisible());
    assert.match(await text(page, '#classes label'), /^Warts/);
    await page.reload();
    await page.locator('#loading-start').waitFor();
    assert.match(await text(page, '#loading-text'), /loaded once, [\d.,]+ MB/);
  });
});

/** A number in LEB128. */
const leb = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...leb(value >> 7)]);

/** The engine with another limit of its memory, in pages of 64 KiB. */
function limitedTo(pages, code) {
  const number = (at) => {
    let [value, shift] = [0, 0];
    for (let next = at; ; next += 1, shift += 7) {
      value += (code[next] & 127) * 2 ** shift;
      if (code[next] < 128) return [value, next + 1];
    }
  };
  for (let at = 8; at < code.length;) {
    const [length, start] = number(at + 1);
    if (code[at] === 5) {
      assert.deepEqual([...code.subarray(start, start + 2)], [1, 1], 'one memory with a limit');
      const [least] = number(start + 2);
      const body = [1, 1, ...leb(least), ...leb(pages)];
      return Buffer.concat([code.subarray(0, at), Buffer.from([5, ...leb(body.length), ...body]), code.subarray(start + length)]);
    }
    at = start + length;
  }
  throw new Error('no memory section');
}

/** Has the page load this engine in place of its own. */
async function withEngine(page, engine) {
  const digest = createHash('sha256').update(engine).digest('hex');
  const file = { digest, bytes: engine.length, stored: engine.length, gzip: false };
  await page.context().route('**/index.json', async (route) => {
    const response = await route.fetch();
    const index = await response.json();
    await route.fulfill({ response, json: { ...index, engines: [{ features: 'simd', file }] } });
  });
  await page.route(`**/page/device/${digest}`, (route) => route.fulfill({ body: engine, contentType: 'application/octet-stream' }));
}

/** The engine with plain SIMD. */
function engine() {
  const { file } = indexOf(shared.site).engines.find(({ features }) => features === 'simd');
  return gunzipSync(readFileSync(join(shared.site, 'page/device', file.digest)));
}

// Pages of 64 KiB beside the model's: none for the model, for the photo, and for the model's work.
for (const pages of [4, 30, 64]) {
  test(`a device with too little memory says so, and offers the server: ${pages} pages`, limit, async () => {
    await visit(shared.browser, shared.both.address, {}, async (page) => {
      const { file } = indexOf(shared.site).models[0];
      await withEngine(page, limitedTo(Math.ceil(file.bytes / 65_536) + pages, engine()));
      await chooseDevice(page);
      await choose(page, photo('drawn-acne-1.jpg'));
      await page.click('#look');
      await page.getByText('This device has too little memory for the photo').waitFor();
      assert.match(await text(page, '#problem-detail'), /memory/);
      await assertAccessible(page, 'too little memory');
      await picture(page, 'device-memory');
      await useServer(page);
    });
  });
}

test('where the browser forbids all storage, photos are looked at', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  await page.addInitScript(() => {
    const forbid = () => { throw new DOMException('forbidden', 'SecurityError'); };
    for (const name of ['localStorage', 'sessionStorage', 'caches']) Object.defineProperty(window, name, { get: forbid });
    navigator.serviceWorker.register = () => Promise.reject(new DOMException('forbidden', 'SecurityError'));
  });
  await page.reload();
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  for (const name of ['drawn-wart-1.jpg', 'drawn-acne-1.jpg']) {
    await looked(page, name);
    assert.match(await text(page, '#timing'), /on this device/);
    await page.click('[data-restart]:visible');
  }
  assert.equal(await page.locator('#strip li').count(), 2);
}));

test('a file that no browser shows is told among several, without a request', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  await load(page);
  const heic = { name: 'phone.heic', mimeType: 'image/heic', buffer: Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1') };
  const drawing = { name: 'drawing.jpg', mimeType: 'image/jpeg', buffer: readFileSync(photo('drawn-acne-1.jpg')) };
  await page.setInputFiles('#file', [heic, drawing]);
  await page.waitForFunction(() => document.querySelectorAll('#strip li').length === 2 && document.body.dataset.state === 'answer');
  assert.match(await text(page, '#classes label'), /^Acne/);
  await page.locator('#strip button').first().click();
  await page.locator('#problem').waitFor();
  assert.match(await text(page, '#problem-detail'), /^phone.heic/);
}));

test('a failure of the worker is told', limit, async () => {
  // A service worker would answer from its store.
  await visit(shared.browser, shared.both.address, { serviceWorkers: 'block' }, async (page) => {
    await page.route('**/page/worker.js', (route) => route.fulfill({ body: "throw new Error('no worker today')", contentType: 'text/javascript' }));
    await chooseDevice(page);
    await choose(page, photo('drawn-acne-1.jpg'));
    await page.click('#look');
    await page.getByText('The model failed on this device').waitFor();
    assert.match(await text(page, '#problem-detail'), /no worker today/);
    await useServer(page);
  });
});

test('loading can be cancelled, and a photo too large for the device is refused', limit, async () => {
  await visit(shared.browser, shared.both.address, {}, async (page) => {
    await chooseDevice(page);
    const network = await page.context().newCDPSession(page);
    await network.send('Network.emulateNetworkConditions', { offline: false, latency: 20, downloadThroughput: 500_000, uploadThroughput: 1e6 });
    await choose(page, photo('drawn-acne-1.jpg'));
    await page.click('#look');
    await page.waitForFunction(() => /Loading the model, [1-9]/.test(document.querySelector('#stage-of-work').textContent));
    await assertAccessible(page, 'loading');
    await picture(page, 'device-loading');
    await page.click('#cancel');
    await page.locator('#look').waitFor();
    assert.deepEqual(await keptModels(page), []);
    await network.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
    await look(page);
    assert.match(await text(page, '#classes label'), /^Acne/);
    await page.click('[data-restart]:visible');
    const large = Buffer.from(readFileSync(photo('drawn-acne-1.jpg')));
    const frame = large.indexOf(Buffer.from([0xff, 0xc0]));
    large.writeUInt16BE(60_000, frame + 5);
    large.writeUInt16BE(60_000, frame + 7);
    await choose(page, { name: 'huge.jpg', mimeType: 'image/jpeg', buffer: large });
    await page.click('#look');
    await page.getByText('The photo is too large').waitFor();
    assert.ok(await page.locator('#use-server').isVisible());
    const body = Buffer.alloc(20 << 20);
    large.copy(body);
    await choose(page, { name: 'heavy.jpg', mimeType: 'image/jpeg', buffer: body });
    await page.click('#look');
    await page.getByText('The photo is too large').waitFor();
    assert.match(await text(page, '#problem-detail'), /16 ?MiB|16777216/);
  });
});

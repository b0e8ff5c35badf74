// "On this device" in a real browser, served by the service and by a plain file server. Prints bytes and
// times. SKINCELL_PHOTOS sets how many photos the memory is watched over.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { PHONE, assertAccessible, choose, launch, look, photo, picture, visit } from './browser.mjs';
import { host, site } from './site.mjs';
import { repository, serve } from './service.mjs';

const MANY = Number(process.env.SKINCELL_PHOTOS ?? 12);
const CLOSE = 0.01;
const PHOTOS = readdirSync(join(repository, 'tests/photos')).filter((name) => /\.(jpe?g|png|webp|gif|bmp)$/.test(name));

let browser;
let folder;
let both;
let only;
let plain;
before(async () => {
  folder = site('half');
  [both, only] = await Promise.all([
    serve({ SKINCELL_PAGE: 'both' }, folder),
    serve({ SKINCELL_PAGE: 'device', SKINCELL_PREDICT: 'off' }, folder),
  ]);
  plain = await host(folder);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  for (const one of [both, only, plain]) one?.stop();
});

const limit = { timeout: 300_000 };
const text = (page, selector) => page.locator(selector).first().textContent();

/** Records what the page and its service worker ask for: method, path and length of each body. */
function recorded(page) {
  const requests = [];
  page.context().on('request', (request) => requests.push({
    method: request.method(), path: new URL(request.url()).pathname, body: request.postDataBuffer()?.length ?? 0,
  }));
  return requests;
}

/** Loads engine and model and waits until the page says that it needs no network; returns milliseconds. */
async function load(page) {
  const began = performance.now();
  if (await page.locator('#loading-start').isVisible()) await page.click('#loading-start');
  await page.getByText('This page needs no network.', { exact: false }).waitFor();
  await page.evaluate(() => navigator.serviceWorker.ready);
  return performance.now() - began;
}

async function chooseDevice(page) {
  await page.check('[name="place"][value="device"]');
  await page.locator('#loading-start').waitFor();
}

/** Private bytes of the browser's largest renderer: the tab with its workers. */
async function tabMemory() {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const sizes = processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => {
    const lines = readFileSync(`/proc/${id}/smaps_rollup`, 'utf8').matchAll(/^Private_\w+: +(\d+) kB/gm);
    return [...lines].reduce((sum, [, size]) => sum + Number(size), 0) / 1024;
  });
  return Math.max(...sizes);
}

/** The answer that the page shows: each class with its probability, from the page's own module. */
async function looked(page, name) {
  await choose(page, photo(name));
  if (await page.locator('#shrink').isVisible()) await page.uncheck('#shrink');
  const began = performance.now();
  await look(page);
  return performance.now() - began;
}

/** Answers by the page's own module, as numbers. */
const answerOf = (page, name) => page.evaluate(async (base64) => {
  const device = await import('./page/device.js');
  const model = document.querySelector('#model').value;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return device.predict(new Blob([bytes]), model, () => {}).answer;
}, readFileSync(photo(name)).toString('base64'));

for (const kind of ['service', 'folder']) {
  test(`${kind}: without a network, every photo has the service's answer, and nothing is sent`, limit, async (context) => {
    const { address } = kind === 'service' ? only : plain;
    await visit(browser, address, {}, async (page) => {
      const requests = recorded(page);
      assert.match(await text(page, '#loading-text'), /loaded once, [\d.,]+ MB/);
      await load(page);
      await page.context().setOffline(true);
      await page.reload();
      await page.getByText('This page needs no network.', { exact: false }).waitFor();
      await looked(page, 'drawn-psoriasis-1.jpg');
      assert.match(await text(page, '#classes label'), /^Psoriasis/);
      assert.match(await text(page, '#timing'), /on this device/);
      const maps = new Set();
      for (let at = 0; at < 7; at += 1) {
        await page.locator('#classes label').nth(at).click();
        maps.add(await page.evaluate(() => document.querySelector('#heat').toDataURL()));
      }
      assert.equal(maps.size, 7, 'every class has its own heatmap');
      let worst = 0;
      for (const name of PHOTOS) {
        const ours = await answerOf(page, name);
        const posted = await fetch(`${both.address}predict?heatmap=maps`, { method: 'POST', body: readFileSync(photo(name)) });
        const theirs = await posted.json();
        for (const result of theirs.results) {
          const same = ours.results.find(({ index }) => index === result.index);
          worst = Math.max(worst, Math.abs(same.probability - result.probability));
        }
        assert.equal(ours.heatmap_maps.length, theirs.heatmap_maps.length, name);
        assert.deepEqual(ours.familiarity.is_familiar, theirs.familiarity.is_familiar, name);
      }
      assert.ok(worst <= CLOSE, `${worst} points`);
      assert.deepEqual(requests.filter(({ body, method }) => body > 0 || method !== 'GET'), [], 'no request had a body');
      if (kind === 'folder') assert.deepEqual(plain.requests.filter(({ length, method }) => length > 0 || method !== 'GET'), []);
      context.diagnostic(`${PHOTOS.length} photos offline: probabilities within ${worst.toFixed(4)} points; ${requests.length} requests, none with a body; 0 CSP violations`);
    });
  });
}

test('the user chooses between server and device, and bytes and times are these', limit, async (context) => {
  await visit(browser, both.address, {}, async (page) => {
    const network = await page.context().newCDPSession(page);
    await network.send('Network.enable');
    let bytes = 0;
    network.on('Network.loadingFinished', ({ encodedDataLength }) => { bytes += encodedDataLength; });
    await picture(page, 'place', {});
    await assertAccessible(page, 'server or device');
    await chooseDevice(page);
    await assertAccessible(page, 'before loading');
    await choose(page, photo('drawn-eczema-1.jpg'));
    const began = performance.now();
    await look(page);
    const first = performance.now() - began;
    await assertAccessible(page, 'an answer on the device');
    await picture(page, 'on-device', { fullPage: true });
    const later = [];
    for (let at = 0; at < 5; at += 1) {
      await page.click('[data-restart]:visible');
      await looked(page, 'drawn-eczema-1.jpg');
      later.push(Number((await text(page, '#timing')).match(/([\d.,]+) ms in all/)[1]));
    }
    const native = [];
    for (let at = 0; at < 6; at += 1) {
      const answer = await fetch(`${both.address}predict?heatmap=maps`, { method: 'POST', body: readFileSync(photo('drawn-eczema-1.jpg')) });
      native.push((await answer.json()).timing_ms.total);
    }
    const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
    await page.evaluate(() => navigator.serviceWorker.ready);
    const loaded = bytes;
    bytes = 0;
    const requests = recorded(page);
    await page.reload();
    await page.getByText('This page needs no network.', { exact: false }).waitFor();
    const again = requests.filter(({ path }) => path.startsWith('/page/models') || /device\/[0-9a-f]{64}/.test(path));
    assert.deepEqual(again, [], 'engine and model are not asked for again');
    context.diagnostic(`first answer ${first.toFixed(0)} ms after the click, later ones ${median(later)} ms; the service ${median(native.slice(1))} ms`);
    context.diagnostic(`${loaded} bytes at the first visit, beside the first page; ${bytes} at the second`);
  });
});

test('the browser forbids to send, and the page shows it', limit, async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(plain.address);
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  const before = plain.requests.length;
  await page.click('#prove');
  await page.getByText(/Refused by this browser \(connect-src: .*predict\)/).waitFor();
  const refused = await page.evaluate(() => Promise.all([
    fetch('page/main.js', { method: 'POST', body: 'x' }).then(() => 'sent', () => 'refused'),
    fetch('https://example.com/', { mode: 'no-cors' }).then(() => 'sent', () => 'refused'),
    new Promise((done) => { const image = new Image(); image.onload = () => done('sent'); image.onerror = () => done('refused'); image.src = 'page/icon.svg?secret'; }),
    Promise.resolve(navigator.sendBeacon('predict', 'x')).then(() => 'queued'),
  ]));
  assert.deepEqual(refused.slice(0, 3), ['refused', 'refused', 'refused']);
  await page.waitForTimeout(300);
  assert.deepEqual(plain.requests.slice(before).filter(({ method }) => method !== 'GET'), []);
  await context.close();
});

test('a changed model is refused, nothing of it is kept, and the server is offered', limit, async () => {
  await visit(browser, both.address, {}, async (page) => {
    await page.route('**/page/models/**', async (route) => {
      const response = await route.fetch();
      const body = await response.body();
      body[body.length >> 1] ^= 1;
      await route.fulfill({ response, body });
    });
    await chooseDevice(page);
    await page.click('#loading-start');
    await page.getByText('arrived damaged or changed').waitFor();
    await assertAccessible(page, 'a changed model');
    const kept = await page.evaluate(async () => (await (await caches.open('skincell-models')).keys()).filter(({ url }) => url.includes('/page/models/')).length);
    assert.equal(kept, 0);
    await page.click('#use-server');
    await page.waitForFunction(() => document.querySelector('[name="place"]').checked);
    await choose(page, photo('drawn-acne-1.jpg'));
    await look(page);
    assert.match(await text(page, '#timing'), /on the server/);
  });
});

test('a model that was damaged in the store is loaded again', limit, async () => {
  await visit(browser, plain.address, {}, async (page) => {
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

test('without WebAssembly, and without room, the page says so', limit, async () => {
  for (const [script, words] of [
    ['delete window.WebAssembly', 'cannot run the model'],
    ['WebAssembly.validate = () => false', 'cannot run the model'],
  ]) {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.addInitScript(script);
    await page.goto(both.address);
    await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
    await page.check('[name="place"][value="device"]');
    await page.getByText(words).waitFor();
    assert.ok(await page.locator('#use-server').isVisible());
    await context.close();
  }
  await visit(browser, plain.address, {}, async (page) => {
    await page.evaluate(() => { Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError')); });
    await looked(page, 'drawn-wart-1.jpg');
    assert.ok(await page.locator('#unkept').isVisible());
  });
});

test('loading can be cancelled, and a photo too large for the device is refused', limit, async () => {
  await visit(browser, only.address, {}, async (page) => {
    const network = await page.context().newCDPSession(page);
    await network.send('Network.emulateNetworkConditions', { offline: false, latency: 20, downloadThroughput: 500_000, uploadThroughput: 1e6 });
    await choose(page, photo('drawn-acne-1.jpg'));
    await page.click('#look');
    await page.waitForFunction(() => /Loading the model, [1-9]/.test(document.querySelector('#stage-of-work').textContent));
    await assertAccessible(page, 'loading');
    await picture(page, 'device-loading');
    await page.click('#cancel');
    await page.locator('#look').waitFor();
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
  });
});

test('predict is off where photos stay on devices', async () => {
  for (const path of ['predict', 'v2/models/skin/infer']) {
    const answer = await fetch(only.address + path, { method: 'POST', body: readFileSync(photo('cat.png')) });
    assert.equal(answer.status, 403, path);
  }
  const { models: [{ name, file }] } = await (await fetch(`${only.address}page/device/index.json`)).json();
  const address = `${only.address}page/models/${name}/${file.digest}`;
  const part = await fetch(address, { headers: { range: 'bytes=10-19' } });
  assert.deepEqual([part.status, (await part.arrayBuffer()).byteLength, part.headers.get('content-range')], [206, 10, `bytes 10-19/${file.stored}`]);
  const same = await fetch(address, { headers: { 'if-none-match': part.headers.get('etag') } });
  assert.equal(same.status, 304);
  assert.match(part.headers.get('cache-control'), /immutable/);
});

for (const [name, options] of [['phone', PHONE], ['vietnamese', { ...PHONE, locale: 'vi-VN' }]]) {
  test(`on the device, ${name}`, limit, () => visit(browser, both.address, options, async (page) => {
    await chooseDevice(page);
    await assertAccessible(page, `${name}, the device is chosen`);
    await picture(page, `device-${name}`, { fullPage: true });
    const { scroll, width } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, width: innerWidth }));
    assert.ok(scroll <= width, `${scroll} of ${width}`);
    const small = await page.$$eval('button, label:has(input[type=radio])', (all) => all
      .map((element) => [element.textContent.trim(), element.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0 && box.height < 36).map(([words]) => words));
    assert.deepEqual(small, []);
    await looked(page, 'drawn-psoriasis-1.jpg');
    await assertAccessible(page, `${name}, an answer on the device`);
    const all = await page.$$eval('[data-words]', (elements) => elements.map((element) => element.textContent));
    assert.deepEqual(all.filter((words) => words.includes('undefined')), []);
  }));
}

test('the memory of the tab stays flat', { timeout: 900_000 }, async (context) => {
  await visit(browser, plain.address, {}, async (page) => {
    await load(page);
    await page.evaluate(async () => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 4000, height: 3000 });
      const drawing = canvas.getContext('2d');
      for (let at = 0; at < 3000; at += 1) {
        drawing.fillStyle = `hsl(${at % 360} 60% 50%)`;
        drawing.fillRect((at * 977) % 4000, (at * 331) % 3000, 200, 150);
      }
      window.photo = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.9));
      // Its 48 MB are not the engine's.
      canvas.width = 0;
      window.device = await import('./page/device.js');
    });
    const [engine, tab] = [[], []];
    const garbage = await page.context().newCDPSession(page);
    await garbage.send('HeapProfiler.collectGarbage');
    let peak = 0;
    for (let at = 0; at < MANY; at += 1) {
      const watch = setInterval(async () => { peak = Math.max(peak, await tabMemory().catch(() => 0)); }, 50);
      engine.push(await page.evaluate(async () => {
        const name = document.querySelector('#model').value;
        return (await window.device.predict(window.photo, name, () => {}).answer).memory / 2 ** 20;
      }));
      clearInterval(watch);
      await garbage.send('HeapProfiler.collectGarbage');
      tab.push(await tabMemory());
    }
    const shown = (list) => `${Math.min(...list).toFixed(1)} to ${Math.max(...list).toFixed(1)} MiB`;
    context.diagnostic(`${MANY} photos of 12 megapixels: the engine's memory ${shown(engine)}, given back with its worker`);
    context.diagnostic(`private memory of the tab: peak ${peak.toFixed(1)} MiB; after a photo, of the last half, ${shown(tab.slice(MANY >> 1))}`);
    assert.ok(Math.max(...engine) <= 120, `${Math.max(...engine)} MiB`);
    assert.ok(Math.max(...engine) - Math.min(...engine) <= 2);
  });
});

test('the folder is small', (context) => {
  const index = JSON.parse(readFileSync(join(folder, 'page/device/index.json')));
  const page = ['index.html', 'service-worker.js', ...readdirSync(join(folder, 'page')).filter((name) => name.includes('.')).map((name) => `page/${name}`)]
    .reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
  const engines = index.engines.map(({ features, file }) => `${features} ${file.stored}`).join(', ');
  const models = index.models.map(({ name, file }) => `${name} ${file.stored}`).join(', ');
  context.diagnostic(`bytes: page ${page}; engine ${engines}; model ${models}`);
  for (const { file } of index.engines) assert.ok(file.stored <= 1_200_000, `${file.stored} bytes of engine`);
});

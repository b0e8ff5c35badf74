// "On this device" in a real browser: its answers, bytes and times, and how it looks. SKINCELL_MODEL names another
// model's folder than models/skin. Prints what it measures.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { PHONE, assertAccessible, choose, look, photo, picture, visit } from './browser.mjs';
import {
  PHOTOS, answerOf, chooseDevice, deviceSuite, difference, indexOf, isReady, large, limit, load, looked, recorded,
  servedAnswer, text,
} from './on-device.mjs';

/** Largest difference of a probability, in points of a per cent, and of a heatmap's value, 0 to 1. */
const CLOSE = 0.01;
const CLOSE_MAP = 0.02;
/** Bytes of a first visit with the model in int8, and of an engine. */
const FIRST_VISIT = 6_000_000;
const ENGINE = 1_200_000;

const shared = deviceSuite(['both', 'service']);
const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];

for (const kind of ['service', 'folder']) {
  test(`${kind}: without a network, every photo has the service's answer, and nothing is sent`, limit, async (context) => {
    const { address, requests: arrived = [] } = shared[kind];
    const before = arrived.length;
    await visit(shared.browser, address, {}, async (page) => {
      const requests = recorded(page);
      assert.match(await text(page, '#loading-text'), /loaded once, [\d.,]+ MB/);
      await load(page);
      await page.context().setOffline(true);
      await page.reload();
      await isReady(page);
      await looked(page, 'drawn-psoriasis-1.jpg');
      assert.match(await text(page, '#classes label'), /^Psoriasis/);
      assert.match(await text(page, '#timing'), /on this device/);
      const maps = new Set();
      for (let at = 0; at < 7; at += 1) {
        await page.locator('#classes label').nth(at).click();
        maps.add(await page.evaluate(() => document.querySelector('#heat').toDataURL()));
      }
      assert.equal(maps.size, 7, 'every class has its own heatmap');
      const worst = { points: 0, map: 0 };
      for (const name of PHOTOS) {
        const { points, map } = difference(await answerOf(page, name), await servedAnswer(shared.both.address, name), name);
        worst.points = Math.max(worst.points, points);
        worst.map = Math.max(worst.map, map);
      }
      assert.ok(worst.points <= CLOSE, `${worst.points} points`);
      assert.ok(worst.map <= CLOSE_MAP, `${worst.map} of a heatmap`);
      assert.deepEqual(requests.filter(({ body, method }) => body > 0 || method !== 'GET'), [], 'no request had a body');
      assert.deepEqual(arrived.slice(before).filter(({ length, method }) => length > 0 || method !== 'GET'), []);
      context.diagnostic(`${PHOTOS.length} photos offline: probabilities within ${worst.points.toFixed(4)} points, heatmaps within ${worst.map.toFixed(4)}; ${requests.length} requests, none with a body; 0 CSP violations`);
    });
  });
}

/** The service's times for a photo, in ms: all, and the model alone. */
async function nativeTimes(name) {
  const times = [];
  for (let at = 0; at < 6; at += 1) times.push((await servedAnswer(shared.both.address, name)).timing_ms);
  const warm = times.slice(1);
  return [median(warm.map(({ total }) => total)), median(warm.map(({ inference }) => inference))];
}

/**
 * Counts the bytes, heads included, that a page and its workers get from the network, and not from a store; apart from
 * them those of its service worker, which asks behind it whether there is something new.
 */
function counter(context) {
  const counted = { bytes: 0, behind: 0 };
  context.on('requestfinished', async (request) => {
    const response = await request.response();
    if (response.fromServiceWorker()) return;
    const { responseBodySize, responseHeadersSize } = await request.sizes();
    counted[request.serviceWorker() ? 'behind' : 'bytes'] += responseBodySize + responseHeadersSize;
  });
  return counted;
}

/** The times that the page tells of later photos, in ms: all, and the model alone. */
async function laterTimes(page) {
  const later = [];
  for (let at = 0; at < 12; at += 1) {
    await page.click('[data-restart]:visible');
    await looked(page, 'drawn-eczema-1.jpg');
    const said = await text(page, '#timing');
    later.push([/([\d.,]+) ms in all/, /model ([\d.,]+) ms/].map((pattern) => Number(said.match(pattern)[1])));
  }
  return [0, 1].map((at) => median(later.slice(2).map((times) => times[at])));
}

for (const kind of ['both', 'folder']) {
  test(`${kind}: a first visit, an answer, and a second visit take these bytes and times`, limit, async (context) => {
    const profile = await shared.browser.newContext({ locale: 'en-GB' });
    const counted = counter(profile);
    const page = await profile.newPage();
    await page.goto(shared[kind].address);
    await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
    if (kind === 'both') await chooseDevice(page);
    await choose(page, photo('drawn-eczema-1.jpg'));
    const began = performance.now();
    await look(page);
    const first = performance.now() - began;
    const [total, inference] = await laterTimes(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    const loaded = counted.bytes + counted.behind;
    Object.assign(counted, { bytes: 0, behind: 0 });
    const requests = recorded(page);
    await page.reload();
    await isReady(page);
    await page.waitForTimeout(500);
    assert.deepEqual(large(requests), [], 'engine and model are not asked for again');
    assert.equal(counted.bytes, 0, 'the page comes from its own store');
    await profile.close();
    const { models: [{ file }], engines: [{ file: engine }] } = indexOf(shared.site);
    assert.ok(loaded > file.stored + engine.stored, `${loaded} bytes are not all`);
    const [native, nativeInference] = await nativeTimes('drawn-eczema-1.jpg');
    context.diagnostic(`bytes at the first visit, page included: ${loaded} (engine ${engine.stored}, model ${file.stored}); at the second: 0, and ${counted.behind} behind it`);
    context.diagnostic(`first answer ${first.toFixed(0)} ms after the click, loading included`);
    context.diagnostic(`later photos ${total} ms, the service ${native.toFixed(1)} ms: ${(total / native).toFixed(2)} x; the model alone ${inference} and ${nativeInference.toFixed(1)} ms: ${(inference / nativeInference).toFixed(2)} x; one thread`);
    if (process.env.SKINCELL_MODEL) assert.ok(loaded <= FIRST_VISIT, `${loaded} bytes`);
  });
}

/** A JPEG of 12 megapixels, red on its left third, as a browser encodes it, with this EXIF orientation. */
async function turned(page, orientation) {
  const address = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 4000, height: 3000 });
    const drawing = canvas.getContext('2d');
    for (const [colour, from] of [['#ff0000', 0], ['#0000ff', 1333]]) {
      drawing.fillStyle = colour;
      drawing.fillRect(from, 0, 4000, 3000);
    }
    return canvas.toDataURL('image/jpeg');
  });
  const jpeg = Buffer.from(address.split(',')[1], 'base64');
  const exif = Buffer.from(`Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0${String.fromCharCode(orientation)}\0\0\0\0\0\0`, 'latin1');
  const head = Buffer.from([0xff, 0xe1, 0, exif.length + 2]);
  return Buffer.concat([jpeg.subarray(0, 2), head, exif, jpeg.subarray(2)]);
}

// Such photos are decoded at a part of their size, by a decoder that tells how they are turned.
test('a large photo is shown as its EXIF says', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  for (const [orientation, facts, red] of [[1, /4000 × 3000/, [0.1, 0.5]], [3, /4000 × 3000/, [0.9, 0.5]], [6, /3000 × 4000/, [0.5, 0.1]], [8, /3000 × 4000/, [0.5, 0.9]]]) {
    await choose(page, { name: `turned-${orientation}.jpg`, mimeType: 'image/jpeg', buffer: await turned(page, orientation) });
    assert.match(await text(page, '#facts'), facts, `${orientation}`);
    const colours = await page.evaluate(([x, y]) => {
      const canvas = document.querySelector('#photo');
      const at = (left, top) => [...canvas.getContext('2d').getImageData(canvas.width * left, canvas.height * top, 1, 1).data].map((value) => Math.round(value / 255)).join('');
      return [at(x, y), at(1 - x, 1 - y)];
    }, red);
    assert.deepEqual(colours, ['1001', '0011'], `${orientation}`);
    await page.evaluate(() => document.querySelector('[data-restart]').click());
  }
}));

// On the device a photo is made anew, of some eighths of it, only if it is turned, cropped, or shrunk by wish.
test('a large photo is made smaller as the page says', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  const buffer = await turned(page, 6);
  const sent = (turns, side, mayShrink) => page.evaluate(async ([base64, turns, side, mayShrink]) => {
    const photos = await import('./page/photo.js');
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const photo = await photos.open(new File([bytes], 'a.jpg'), photos.SHOWN_PIXELS, true);
    photos.turn(photo, turns);
    Object.assign(photo.crop, { width: side, height: side });
    const file = await photos.toSend(photo, mayShrink);
    const { width, height } = await createImageBitmap(file);
    return [width, height, file === photo.file];
  }, [buffer.toString('base64'), turns, side, mayShrink]);
  assert.deepEqual(await sent(0, 1, false), [3000, 4000, true], 'whole');
  assert.deepEqual(await sent(0, 1, true), [1500, 2000, false], 'shrunk');
  assert.deepEqual(await sent(1, 1, false), [2000, 1500, false], 'turned');
  assert.deepEqual(await sent(0, 0.8, false), [1500, 2000, false], 'cropped');
  assert.deepEqual(await sent(0, 0.1, false), [225, 300, false], 'cropped to little');
  await choose(page, { name: 'large.jpg', mimeType: 'image/jpeg', buffer });
  assert.match(await text(page, '#shrink-words'), /from 3000 × 4000 to 1500 × 2000/);
  assert.ok(await page.locator('#shrink').isVisible() && !(await page.isChecked('#shrink')));
  await page.click('#turn-right');
  assert.match(await text(page, '#shrink-words'), /from 4000 × 3000 to 2000 × 1500/);
  assert.ok(!(await page.locator('#shrink').isVisible()), 'it is done without being asked');
  await assertAccessible(page, 'a turned photo');
  await picture(page, 'device-turned');
}));

test('the browser forbids to send, and the page shows it', limit, async () => {
  const context = await shared.browser.newContext();
  const page = await context.newPage();
  const { address, requests } = shared.folder;
  await page.goto(address);
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  const before = requests.length;
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
  assert.deepEqual(requests.slice(before).filter(({ method }) => method !== 'GET'), []);
  await context.close();
});

test('predict is off where photos stay on devices', async () => {
  const { address } = shared.service;
  for (const path of ['predict', 'v2/models/skin/infer']) {
    const answer = await fetch(address + path, { method: 'POST', body: readFileSync(photo('cat.png')) });
    assert.equal(answer.status, 403, path);
  }
  const { models: [{ name, file }] } = await (await fetch(`${address}page/device/index.json`)).json();
  const model = `${address}page/models/${name}/${file.digest}`;
  const part = await fetch(model, { headers: { range: 'bytes=10-19' } });
  assert.deepEqual([part.status, (await part.arrayBuffer()).byteLength, part.headers.get('content-range')], [206, 10, `bytes 10-19/${file.stored}`]);
  const same = await fetch(model, { headers: { 'if-none-match': part.headers.get('etag') } });
  assert.equal(same.status, 304);
  assert.match(part.headers.get('cache-control'), /immutable/);
});

const VIETNAMESE = { locale: 'vi-VN' };
const DARK = { colorScheme: 'dark' };
const SCREENS = {
  desktop: {}, phone: PHONE, dark: DARK, vietnamese: { ...PHONE, ...VIETNAMESE }, 'dark-phone': { ...PHONE, ...DARK },
  'vietnamese-dark': { ...VIETNAMESE, ...DARK },
};
for (const [name, options] of Object.entries(SCREENS)) {
  test(`on the device, ${name}`, limit, () => visit(shared.browser, shared.both.address, options, async (page) => {
    await assertAccessible(page, `${name}, server or device`);
    await chooseDevice(page);
    await assertAccessible(page, `${name}, the device is chosen`);
    await picture(page, `device-${name}`, { fullPage: true });
    await page.click('#loading-start');
    await page.waitForFunction(() => document.querySelector('#loading-share').hidden && document.querySelector('#loading-start').hidden);
    await assertAccessible(page, `${name}, loaded`);
    await picture(page, `device-loaded-${name}`, { fullPage: true });
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
    await picture(page, name === 'desktop' ? 'on-device' : `on-device-${name}`, { fullPage: true });
  }));
}

test('the folder is small', (context) => {
  const index = indexOf(shared.site);
  const page = ['index.html', 'service-worker.js', ...readdirSync(join(shared.site, 'page')).filter((name) => name.includes('.')).map((name) => `page/${name}`)]
    .reduce((sum, name) => sum + statSync(join(shared.site, name)).size, 0);
  const engines = index.engines.map(({ features, file }) => `${features} ${file.stored}`).join(', ');
  const models = index.models.map(({ name, file }) => `${name} ${file.stored}`).join(', ');
  context.diagnostic(`bytes: page ${page}; engine ${engines}; model ${models}`);
  for (const { file } of index.engines) assert.ok(file.stored <= ENGINE, `${file.stored} bytes of engine`);
});

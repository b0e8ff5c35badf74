// Visits "on this device" beside and after one another: two tabs, a download that breaks off, a host with other content
// types, and a page that changed meanwhile.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertAccessible, choose, look, photo, picture, visit } from './browser.mjs';
import { deviceSuite, indexOf, isReady, large, limit, load, looked, recorded, text } from './on-device.mjs';
import { host, site } from './site.mjs';

const shared = deviceSuite([]);

/** The names of the page's stores, and the paths of the engine and the models that are kept. */
const kept = (page) => page.evaluate(async () => ({
  stores: (await caches.keys()).filter((name) => name.startsWith('skincell-page-')),
  files: (await (await caches.open('skincell-models')).keys()).map(({ url }) => new URL(url).pathname),
}));

/** Another tab of the same profile, once it offers a model. */
async function secondTab(page) {
  const other = await page.context().newPage();
  await other.goto(page.url());
  await other.waitForFunction(() => document.querySelector('#model').options.length > 0);
  return other;
}

/** Runs `act` with a host of its own for the folder. */
async function withHost(folder, act) {
  const own = await host(folder);
  try {
    return await act(own);
  } finally {
    own.stop();
  }
}

test('two tabs load at the same time, and answer at the same time', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  const other = await secondTab(page);
  await Promise.all([page, other].map(load));
  const { files } = await kept(page);
  assert.equal(files.length, 2, `the engine and the model: ${files}`);
  const third = await secondTab(page);
  const requests = recorded(third);
  await isReady(third);
  const tabs = [[page, 'drawn-acne-1.jpg', /^Acne/], [other, 'drawn-wart-1.jpg', /^Warts/], [third, 'drawn-psoriasis-1.jpg', /^Psoriasis/]];
  await Promise.all(tabs.map(([tab, name]) => looked(tab, name)));
  for (const [tab, name, found] of tabs) {
    assert.match(await text(tab, '#classes label'), found, name);
    assert.equal(await tab.locator('#strip li').count(), 1, 'each tab has its own photos');
  }
  assert.deepEqual(large(requests), []);
}));

test('a tab goes on with its model while another one gets the next', limit, () => withHost(shared.site, (own) => visit(shared.browser, own.address, {}, async (page) => {
  await load(page);
  const old = (await kept(page)).files;
  own.folder = site('single');
  // The service worker asks for the next index behind the visit.
  const asked = page.context().waitForEvent('response', (response) => response.url().endsWith('index.json') && !response.fromServiceWorker());
  const other = await secondTab(page);
  await asked;
  await other.reload();
  await other.locator('#loading-start').waitFor();
  await load(other);
  const { files } = await kept(other);
  assert.deepEqual(files.filter((path) => old.includes(path) && path.includes('/models/')), [], 'the old model is deleted');
  for (const tab of [page, other]) {
    await looked(tab, 'drawn-wart-1.jpg');
    assert.match(await text(tab, '#classes label'), /^Warts/);
  }
})));

test('a download that breaks off keeps nothing, and goes on where it stopped', limit, (context) => withHost(shared.site, (own) => visit(shared.browser, own.address, {}, async (page) => {
  const { file } = indexOf(shared.site).models[0];
  own.breaks = file.stored >> 1;
  await page.click('#loading-start');
  await page.getByText('The model could not be loaded').waitFor();
  assert.deepEqual((await kept(page)).files.filter((path) => path.includes('/models/')), []);
  await load(page);
  await looked(page, 'drawn-wart-1.jpg');
  assert.match(await text(page, '#classes label'), /^Warts/);
  const asked = own.requests.filter(({ path }) => path.includes('/models/'));
  const sent = asked.reduce((sum, entry) => sum + entry.sent, 0);
  context.diagnostic(`${asked.map((entry) => `${entry.range ?? 'all'}: ${entry.sent} bytes`).join(', then ')}; the model has ${file.stored}`);
  // The browser's own cache has the first part, and asks for the rest under the same ETag; before, for one byte.
  assert.ok(sent <= file.stored + 1, `${sent} bytes`);
})));

test('content types other than for scripts and styles do not matter', limit, () => withHost(shared.site, (own) => {
  own.types = Object.fromEntries(Object.entries(own.types).filter(([end]) => ['.html', '.js', '.css'].includes(end)));
  return visit(shared.browser, own.address, {}, async (page) => {
    await load(page);
    await page.context().setOffline(true);
    await page.reload();
    await isReady(page);
    await looked(page, 'drawn-wart-1.jpg');
    assert.match(await text(page, '#classes label'), /^Warts/);
  });
}));

test('a host that sends scripts as plain text is told so', limit, () => withHost(shared.site, async (own) => {
  own.types = { ...own.types, '.js': 'text/plain' };
  const page = await shared.browser.newPage();
  await page.goto(own.address);
  const said = page.locator('#unstarted');
  assert.ok(!(await said.isVisible()), 'not before the scripts could start');
  await said.waitFor();
  assert.match(await said.textContent(), /text\/javascript/);
  await assertAccessible(page, 'scripts as plain text');
  await picture(page, 'device-plain-text');
  await page.close();
}));

/** A copy of the folder whose page has another title and another version. */
function changed(folder) {
  const copy = mkdtempSync(join(tmpdir(), 'skincell-changed-'));
  process.on('exit', () => rmSync(copy, { recursive: true, force: true }));
  cpSync(folder, copy, { recursive: true });
  for (const [name, from, to] of [['page/words.js', "drop: 'Start with a photo'", "drop: 'Begin with a photo'"], ['service-worker.js', /skincell-page-[0-9a-f]+/, 'skincell-page-next']]) {
    const before = readFileSync(join(copy, name), 'utf8');
    const after = before.replace(from, to);
    assert.notEqual(after, before, name);
    writeFileSync(join(copy, name), after);
  }
  return copy;
}

test('a new version of the page comes at the visit after next, and keeps the model', limit, () => withHost(shared.site, (own) => visit(shared.browser, own.address, {}, async (page) => {
  await load(page);
  const before = await kept(page);
  assert.equal(before.stores.length, 1);
  own.folder = changed(shared.site);
  await page.reload();
  await isReady(page);
  assert.equal(await text(page, '#drop-title'), 'Start with a photo');
  while ((await kept(page)).stores.join() !== 'skincell-page-next') await page.waitForTimeout(50);
  await page.waitForFunction(() => navigator.serviceWorker.controller.state === 'activated');
  // The tab with the old page still answers.
  await choose(page, photo('drawn-wart-1.jpg'));
  await look(page);
  assert.match(await text(page, '#classes label'), /^Warts/);
  const requests = recorded(page);
  await page.reload();
  await isReady(page);
  assert.equal(await text(page, '#drop-title'), 'Begin with a photo');
  assert.deepEqual((await kept(page)).files, before.files);
  assert.deepEqual(large(requests), []);
  await page.context().setOffline(true);
  await page.reload();
  await isReady(page);
  assert.equal(await text(page, '#drop-title'), 'Begin with a photo');
})));

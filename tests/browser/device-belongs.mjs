// What the page says belongs to the photo and the place that it names, and what it promises holds: photos chosen one
// after another, a result that was looked at elsewhere, a file that browsers show otherwise, and the page's policy.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { choose, look, photo, visit } from './browser.mjs';
import { chooseDevice, deviceSuite, indexOf, limit, load, text } from './on-device.mjs';
import { repository } from './service.mjs';

const shared = deviceSuite(['both']);

const file = (name, path) => ({ name, mimeType: 'image/jpeg', buffer: readFileSync(path) });
const slow = file('slow.jpg', photo('drawn-wart-1.jpg'));

/** Makes the browser take a second to open files called slow.jpg. */
const slowed = (page) => page.evaluate(() => {
  const open = window.createImageBitmap;
  window.createImageBitmap = async (source, ...options) => {
    if (source.name === 'slow.jpg') await new Promise((done) => { setTimeout(done, 1000); });
    return open(source, ...options);
  };
});

test('of two photos chosen one after another the later is shown and looked at', limit, () => visit(shared.browser, shared.folder.address, {}, async (page) => {
  await load(page);
  await slowed(page);
  await choose(page, photo('drawn-acne-1.jpg'));
  await page.setInputFiles('#file', slow);
  // The earlier photo's button, while the later one is opened.
  await page.evaluate(() => document.querySelector('#look').click());
  await page.waitForFunction(() => document.querySelector('#facts').textContent.startsWith('slow.jpg'));
  await look(page);
  assert.match(await text(page, '#classes label'), /^Warts/);
  assert.match(await text(page, '#report'), /slow\.jpg/);
  assert.equal(await page.locator('#strip li').count(), 1);
  await page.setInputFiles('#file', slow);
  await choose(page, photo('drawn-acne-1.jpg'));
  await page.waitForTimeout(1500);
  assert.match(await text(page, '#facts'), /^drawn-acne-1\.jpg/, 'the slow one came later, but was chosen earlier');
  await look(page);
  assert.match(await text(page, '#classes label'), /^Acne/);
}));

test('a result says where its photo was looked at, wherever the next one is', limit, () => visit(shared.browser, shared.both.address, {}, async (page) => {
  await choose(page, photo('drawn-acne-1.jpg'));
  await look(page);
  assert.doesNotMatch(await text(page, '#timing'), /on this device/);
  await page.getByRole('button', { name: 'Another photo' }).click();
  await chooseDevice(page);
  await page.locator('#strip button').first().click();
  await page.locator('#classes label').first().waitFor();
  assert.doesNotMatch(await text(page, '#timing'), /on this device/);
}));

test('a WebP that its EXIF turns is sent as the browser shows it', limit, () => visit(shared.browser, shared.both.address, {}, async (page) => {
  await page.evaluate(() => {
    window.types = [];
    const { append } = FormData.prototype;
    FormData.prototype.append = function note(...field) {
      if (field[1].type) window.types.push(field[1].type);
      append.apply(this, field);
    };
  });
  await choose(page, join(repository, 'vision/tests/fixtures/exif.webp'));
  await look(page);
  await page.getByRole('button', { name: 'Another photo' }).click();
  await choose(page, photo('coffee.webp'));
  await look(page);
  assert.deepEqual(await page.evaluate(() => window.types), ['image/jpeg', 'image/webp']);
}));

test('a page opened by the name of its file needs no network either', limit, () => visit(shared.browser, `${shared.folder.address}index.html`, {}, async (page) => {
  await load(page);
  await page.context().setOffline(true);
  await page.reload();
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  await choose(page, photo('drawn-acne-1.jpg'));
  await look(page);
  assert.match(await text(page, '#classes label'), /^Acne/);
}));

test('where the page itself is not kept, it does not say that it needs no network', limit, () => visit(shared.browser, shared.folder.address, { serviceWorkers: 'block' }, async (page) => {
  await page.click('#loading-start');
  await page.getByText('It will be loaded again at the next visit.', { exact: false }).first().waitFor();
}));

test('the page may ask for the files of its index, and for nothing beside them', limit, async () => {
  const context = await shared.browser.newContext();
  const page = await context.newPage();
  await page.goto(shared.folder.address);
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  const answered = (path) => page.evaluate((to) => fetch(to, { method: 'POST', body: '.' }).then(({ status }) => status, () => 'refused'), path);
  const { models: [{ name, file: { digest } }] } = indexOf(shared.site);
  for (const path of ['page/device/other', `page/models/${name}/other`, 'page/main.js', 'predict']) {
    assert.equal(await answered(path), 'refused', path);
  }
  assert.notEqual(await answered(`page/models/${name}/${digest}`), 'refused');
  await context.close();
});

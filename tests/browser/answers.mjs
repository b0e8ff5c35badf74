// Tests what is done with answers on the page: several photos, enlarging, saving, printing, examples, and
// the view on a phone.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { PHONE, assertAccessible, bestName, choose, look, photo, picture, saved, shown, suite } from './browser.mjs';

const shared = suite();
const { onPage } = shared;

/** Chooses several photos and waits until all are answered. */
async function chooseAll(page, files) {
  await page.setInputFiles('#file', files);
  await page.waitForFunction((count) => document.querySelectorAll('#strip li').length === count && document.body.dataset.state !== 'busy', files.length);
}

onPage('several photos make a strip and a table, which a reload keeps and one button forgets', {}, async (page) => {
  const broken = { name: '=broken.jpg', mimeType: 'image/jpeg', buffer: Buffer.from('only words') };
  await chooseAll(page, [photo('drawn-acne-1.jpg'), photo('drawn-wart-1.jpg'), photo('drawn-eczema-2.png')].map((path) => (
    { name: path.split('/').at(-1), mimeType: 'image/jpeg', buffer: readFileSync(path) })).concat(broken));
  const entries = () => page.$$eval('#strip button', (all) => all.map((button) => button.innerText.replace(/\s+/g, ' ')));
  const first = await entries();
  assert.match(first[0], /drawn-acne-1.jpg Acne/);
  assert.match(first[3], /=broken.jpg .*not a photo/);
  assert.match(await bestName(page), /^Acne/, 'the first one is shown');
  await page.locator('#strip button').nth(1).click();
  await page.waitForFunction(() => document.querySelector('#strip [aria-current="true"]')?.textContent.startsWith('drawn-wart'));
  assert.match(await bestName(page), /^Warts/);
  await assertAccessible(page, 'several photos');
  await picture(page, 'several', { fullPage: true });
  const [name, table] = await saved(page, '#table');
  assert.equal(name, 'skincell.csv');
  const rows = table.toString().replace('\ufeff', '').trim().split('\r\n');
  assert.equal(rows.length, 5);
  assert.match(rows[1], /^"drawn-acne-1.jpg","\d{4}-.*","Acne/);
  assert.match(rows[4], /^"'=broken.jpg"/, 'no formula for a spreadsheet');
  await page.reload();
  await page.locator('#strip li').nth(3).waitFor();
  assert.deepEqual(await entries(), first);
  await page.locator('#strip button').nth(2).click();
  await page.locator('#classes label').first().waitFor();
  assert.match(await bestName(page), /^Eczema/);
  assert.ok(await shown(page, '#heat'), 'with its heatmap');
  await page.locator('#strip button').nth(3).click();
  await page.locator('#problem').waitFor();
  await page.click('#forget');
  assert.ok(!(await shown(page, '#visit')));
  await page.reload();
  assert.equal(await page.locator('#strip li').count(), 0);
});

onPage('the photo can be enlarged, and uncovered from one side', {}, async (page) => {
  await choose(page, photo('drawn-psoriasis-1.jpg'));
  await look(page);
  const width = () => page.evaluate(() => document.querySelector('#heat').getBoundingClientRect().width);
  const before = await width();
  await page.locator('#zoom').fill('300');
  assert.ok(Math.abs((await width()) / before - 3) < 0.02);
  await page.locator('#stage').focus();
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction(() => document.querySelector('#stage').scrollLeft > 0);
  await assertAccessible(page, 'enlarged');
  await picture(page, 'enlarged');
  await page.locator('#compare').fill('50');
  assert.equal(await page.evaluate(() => document.querySelector('#heat').style.clipPath), 'inset(0px 0px 0px 50%)');
  await page.locator('#zoom').fill('100');
  await picture(page, 'compare');
  assert.ok(Math.abs((await width()) - before) < 1);
});

onPage('the saved picture and the printed report have the notices, the model and the date', {}, async (page) => {
  await choose(page, photo('drawn-eczema-1.jpg'));
  await look(page);
  await page.evaluate(() => {
    window.written = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function note(text, ...rest) {
      window.written.push(text);
      return write.call(this, text, ...rest);
    };
    window.print = () => { window.printed = true; };
  });
  await saved(page, '#download');
  const written = (await page.evaluate(() => window.written)).join(' ');
  const { models: [model] } = await (await fetch(`${shared.service.address}models`)).json().then(({ models }) => ({ models: models.filter(({ name }) => name === 'skin') }));
  for (const part of [model.title, model.notice, String(new Date().getFullYear()), 'Not a medical device', 'Eczema']) {
    assert.ok(written.includes(part), `${part} is not in ${written}`);
  }
  await page.click('#print');
  assert.ok(await page.evaluate(() => window.printed));
  await page.emulateMedia({ media: 'print' });
  for (const part of ['#photo', '#heat', '#classes', '#report', '.notice', '#model-notice']) assert.ok(await shown(page, part), part);
  for (const part of ['#visit', '#download', 'nav', '#opacity']) assert.ok(!(await shown(page, part)), part);
  assert.ok((await page.locator('#report').textContent()).includes(model.title));
  await picture(page, 'print', { fullPage: true });
});

onPage('examples are loaded when they are asked for', {}, async (page) => {
  const asked = [];
  page.on('request', (request) => asked.push(new URL(request.url()).pathname));
  for (const [index, expect] of [/^Acne/, /^Psoriasis/, /^Healthy/].entries()) {
    assert.ok(!asked.includes(`/page/example-${index + 1}.jpg`));
    await page.locator('[data-example]').nth(index).click();
    await page.locator('#look').waitFor();
    await look(page);
    assert.match(await bestName(page), expect);
    await page.locator('[data-restart]:visible').first().click();
  }
});

onPage('on a phone the photo stays in view while classes are chosen', PHONE, async (page) => {
  await choose(page, photo('drawn-acne-1.jpg'));
  await look(page);
  await page.locator('#classes label').last().scrollIntoViewIfNeeded();
  await page.locator('#classes label').last().click();
  const box = await page.locator('#stage').boundingBox();
  assert.ok(box.y >= 0 && box.y + box.height <= 844, JSON.stringify(box));
  await picture(page, 'phone-classes');
});

// Tests the pages that need no scripts: the form, its answers and problems, and the description of the API.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertAccessible, photo, picture, suite } from './browser.mjs';

const shared = suite();

test('without scripts a form posts photos and gets a page back', { timeout: 60_000 }, async () => {
  const context = await shared.browser.newContext({ javaScriptEnabled: false, locale: 'en-GB' });
  const page = await context.newPage();
  await page.goto(shared.service.address);
  assert.ok(!(await page.locator('#choose').isVisible()), 'buttons without effect are not shown');
  await picture(page, 'plain-form');
  const broken = { name: '<broken>.jpg', mimeType: 'image/jpeg', buffer: Buffer.from('only words') };
  const whole = { name: 'drawn-acne-1.jpg', mimeType: 'image/jpeg', buffer: readFileSync(photo('drawn-acne-1.jpg')) };
  await page.setInputFiles('input[name="image"]', [whole, broken]);
  await page.click('form[action="predict"] button');
  await page.getByText('Acne').first().waitFor();
  assert.match(await page.locator('section').nth(1).textContent(), /<broken>.jpg.*Not a photo/s);
  assert.ok(await page.getByText('Not a medical device: it').isVisible());
  assert.match(await page.locator('main').textContent(), /not a medical device/, 'the notice of the model');
  const image = page.locator('figure img');
  assert.ok((await image.boundingBox()).width > 200);
  await picture(page, 'plain-answer', { fullPage: true });
  await page.setInputFiles('input[name="image"]', [broken]);
  await page.click('form[action="predict"] button');
  await page.getByText('Not a photo in a known format').waitFor();
  await context.close();
});

test('pages without scripts are accessible: an answer, a problem, the API', { timeout: 60_000 }, async () => {
  const context = await shared.browser.newContext();
  const page = await context.newPage();
  for (const [name, bytes] of [['an answer', readFileSync(photo('drawn-acne-1.jpg'))], ['a problem', Buffer.from('words')]]) {
    await page.goto(shared.service.address);
    await page.evaluate((numbers) => {
      const form = Object.assign(document.createElement('form'), { method: 'post', action: 'predict', enctype: 'multipart/form-data' });
      const input = Object.assign(document.createElement('input'), { type: 'file', name: 'image' });
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(numbers)], 'a.jpg'));
      input.files = files.files;
      form.append(input);
      document.body.append(form);
      form.submit();
    }, [...bytes]);
    await page.waitForURL('**/predict');
    await assertAccessible(page, name);
  }
  await page.goto(`${shared.service.address}docs`);
  assert.ok(await page.locator('summary').count() > 10);
  await page.locator('summary').first().click();
  await assertAccessible(page, 'the API');
  await picture(page, 'api', { fullPage: true });
  await context.close();
});

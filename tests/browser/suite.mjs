// Tests the page in a real browser, from choosing a photo to its answer. All tests share one service and one
// browser; each has a fresh profile. Prints the page's size and the number of rules that axe-core checked.
// What is done with answers is left to `answers.mjs`, pages without scripts to `plain.mjs`.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { PHONE, assertAccessible, bestName, choose, className, look, photo, picture, saved, shown, suite } from './browser.mjs';
import { repository } from './service.mjs';

const HEAVIEST = 90 * 1024;

const shared = suite();
const { onPage } = shared;

/** Records the photos that the page posts from now on; returns a function from a request's index to its bytes. */
async function sentPhotos(page) {
  await page.evaluate(() => {
    window.sent = [];
    const send = XMLHttpRequest.prototype.send;
    XMLHttpRequest.prototype.send = function keepAndSend(form) {
      window.sent.push(form.get('image'));
      return send.call(this, form);
    };
  });
  return async (index) => Buffer.from(await page.evaluate(async (at) => {
    return [...new Uint8Array(await window.sent[at].arrayBuffer())];
  }, index));
}

/** Width and height of an encoded picture, by the browser. */
function sizeOf(page, bytes) {
  return page.evaluate(async (numbers) => {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(numbers)]));
    return [bitmap.width, bitmap.height];
  }, [...bytes]);
}

test('the page is light, and comes from one host', { timeout: 60_000 }, async (context) => {
  const sizes = {};
  const page = await shared.browser.newPage();
  page.on('response', async (response) => {
    const path = new URL(response.url()).pathname;
    if (path !== '/models') sizes[path] = (await response.body()).length;
  });
  await page.goto(shared.service.address, { waitUntil: 'networkidle' });
  await page.close();
  const weight = Object.values(sizes).reduce((sum, size) => sum + size, 0);
  context.diagnostic(`page weight: ${weight} bytes in ${Object.keys(sizes).length} files, uncompressed (limit ${HEAVIEST})`);
  assert.ok(Object.keys(sizes).length >= 9, JSON.stringify(sizes));
  assert.ok(weight <= HEAVIEST, `${weight} bytes`);
});

onPage('a chosen photo is ranked, and every class has its map', {}, async (page) => {
  await choose(page, photo('drawn-psoriasis-1.jpg'));
  await look(page);
  assert.equal(await bestName(page), 'Psoriasis, lichen planus and related diseases');
  assert.equal(await page.locator('#classes label').count(), 7);
  assert.ok(await shown(page, '#heat'));
  const map = () => page.evaluate(() => document.querySelector('#heat').toDataURL());
  const first = await map();
  await page.locator('#classes label').nth(2).click();
  assert.notEqual(await map(), first, 'another class, another map');
  const basis = await page.locator('#basis').textContent();
  assert.ok(basis.includes(await className(page, 2)), basis);
  await page.locator('#classes label').first().click();
  assert.match(await page.locator('#timing').textContent(), /model [\d.,]+ ms/);
  assert.match(await page.locator('#model-notice').textContent(), /not a medical device/);
  await picture(page, 'desktop', { fullPage: true });
});

onPage('the heatmap on the page equals that of the PNG', {}, async (page) => {
  // Over a white photo the overlay is 0.6 white + 0.4 heatmap, so the heatmap can be computed from it.
  const [white, overlay] = await page.evaluate(async () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 224, height: 224 });
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, 224, 224);
    const photo = await new Promise((done) => canvas.toBlob(done, 'image/png'));
    const answer = await fetch('predict', { method: 'POST', body: photo, headers: { accept: 'image/png' } });
    context.drawImage(await createImageBitmap(await answer.blob()), 0, 0);
    return [[...new Uint8Array(await photo.arrayBuffer())], [...context.getImageData(0, 0, 224, 224).data]];
  });
  await choose(page, { name: 'white.png', mimeType: 'image/png', buffer: Buffer.from(white) });
  await look(page);
  const heat = await page.evaluate(() => [...document.querySelector('#heat').getContext('2d').getImageData(0, 0, 224, 224).data]);
  const furthest = overlay.reduce((most, value, at) => (at % 4 === 3 ? most : Math.max(most, Math.abs(value - (153 + 0.4 * heat[at])))), 0);
  // Maps have 4 decimals, so a pixel may be off by one of jet's 256 levels: at most 5 of 255, times 0.4.
  assert.ok(furthest <= 3, `a pixel is off by ${furthest}`);
});

onPage('an untouched photo is sent as it is', {}, async (page) => {
  const sent = await sentPhotos(page);
  await choose(page, photo('drawn-eczema-2.png'));
  await look(page);
  assert.deepEqual(await sent(0), readFileSync(photo('drawn-eczema-2.png')));
});

onPage('a photo is turned and cropped before it is sent', {}, async (page) => {
  const sent = await sentPhotos(page);
  await choose(page, photo('skin.jpg'));
  const whole = (await page.locator('#facts').textContent()).match(/(\d+) × (\d+)/).slice(1).map(Number);
  await page.click('#turn-right');
  const corner = await page.locator('[data-corner="se"]').boundingBox();
  const stage = await page.locator('#stage').boundingBox();
  const [x, y] = [corner.x + corner.width / 2, corner.y + corner.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x - stage.width / 2, y - stage.height / 4, { steps: 4 });
  await page.mouse.up();
  await look(page);
  const [width, height] = await sizeOf(page, await sent(0));
  assert.ok(Math.abs(width - whole[1] / 2) < 8, `${width} of ${whole[1]}`);
  assert.ok(Math.abs(height - whole[0] * 0.75) < 8, `${height} of ${whole[0]}`);
});

onPage('a photo above 4 megapixels is shrunk unless that is switched off', {}, async (page) => {
  const sent = await sentPhotos(page);
  const bytes = await page.evaluate(async () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 4000, height: 3000 });
    canvas.getContext('2d').fillRect(500, 500, 2000, 1000);
    const blob = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.5));
    return [...new Uint8Array(await blob.arrayBuffer())];
  });
  const file = { name: 'large.jpg', mimeType: 'image/jpeg', buffer: Buffer.from(bytes) };
  await choose(page, file);
  await look(page);
  assert.deepEqual(await sizeOf(page, await sent(0)), [2309, 1732]);
  await page.click('[data-restart]:visible');
  await choose(page, file);
  await page.uncheck('#shrink');
  await look(page);
  assert.deepEqual(await sent(1), file.buffer);
});

// drawn-acne-1.jpg, saved by Pillow with quality=80.
onPage('a photo that only the browser can read is sent as JPEG', {}, async (page) => {
  const sent = await sentPhotos(page);
  await choose(page, join(import.meta.dirname, 'drawn-acne-1.avif'));
  await look(page);
  assert.match(await bestName(page), /^Acne/);
  assert.deepEqual([...(await sent(0)).subarray(0, 3)], [0xff, 0xd8, 0xff]);
});

onPage('a photo that the service refuses is sent again as JPEG', {}, async (page) => {
  const sent = await sentPhotos(page);
  const refused = { type: 'urn:skincell:problem:unsupported-image-feature', title: 'No', status: 415, detail: 'no' };
  await page.route('**/predict*', (route) => route.fulfill({
    status: 415, contentType: 'application/problem+json', body: JSON.stringify(refused),
  }), { times: 1 });
  await choose(page, photo('drawn-eczema-2.png'));
  await look(page);
  assert.match(await bestName(page), /^Eczema/);
  assert.deepEqual(await sent(0), readFileSync(photo('drawn-eczema-2.png')));
  assert.deepEqual([...(await sent(1)).subarray(0, 3)], [0xff, 0xd8, 0xff]);
});

/** The JPEG segment of a fixture that holds its colour profile. */
function profileOf(name) {
  const file = readFileSync(join(repository, 'vision/tests/fixtures', name));
  const at = file.indexOf('ICC_PROFILE') - 4;
  return file.subarray(at, at + 2 + file.readUInt16BE(at + 2));
}

/** The likeliest class of posted bytes, and its probability in per cent. */
async function likeliest(bytes) {
  const answer = await fetch(`${shared.service.address}predict?gradcam=false`, { method: 'POST', body: bytes });
  const { results: [best] } = await answer.json();
  return best;
}

// A photo that the page re-encodes has gone through the browser's own colour management.
for (const profile of ['icc_p3.jpg', 'icc_adobe_rgb.jpg']) {
  onPage(`the service converts the colours of ${profile} as the browser does`, {}, async (page) => {
    for (const name of ['drawn-acne-1.jpg', 'drawn-infestation-1.jpg', 'drawn-psoriasis-1.jpg']) {
      const plain = readFileSync(photo(name));
      const coloured = Buffer.concat([plain.subarray(0, 2), profileOf(profile), plain.subarray(2)]);
      const reencoded = Buffer.from(await page.evaluate(async (numbers) => {
        const bitmap = await createImageBitmap(new Blob([new Uint8Array(numbers)]));
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
        canvas.getContext('2d').drawImage(bitmap, 0, 0);
        const blob = await canvas.convertToBlob({ type: 'image/png' });
        return [...new Uint8Array(await blob.arrayBuffer())];
      }, [...coloured]));
      const [ours, theirs] = [await likeliest(coloured), await likeliest(reencoded)];
      assert.equal(ours.class, theirs.class, name);
      assert.ok(Math.abs(ours.probability - theirs.probability) <= 2, `${name}: ${ours.probability}, ${theirs.probability}`);
    }
  });
}

onPage('for an unreadable photo the page says what to do', {}, async (page) => {
  const heic = Buffer.concat([Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1'), Buffer.alloc(100)]);
  await choose(page, { name: 'phone.heic', mimeType: 'image/heic', buffer: heic });
  await page.click('#look');
  await page.locator('#problem').waitFor();
  assert.match(await page.locator('#problem').textContent(), /HEIC photo.*Most Compatible/);
});

onPage('a photo can be pasted', {}, async (page) => {
  const bytes = [...readFileSync(photo('drawn-wart-1.jpg'))];
  await page.evaluate((numbers) => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([new Uint8Array(numbers)], 'pasted.jpg', { type: 'image/jpeg' }));
    document.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }));
  }, bytes);
  await look(page);
  assert.match(await bestName(page), /^Warts/);
});

onPage('a photo can be dropped', {}, async (page) => {
  const bytes = [...readFileSync(photo('drawn-acne-1.jpg'))];
  await page.evaluate((numbers) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(numbers)], 'dropped.jpg', { type: 'image/jpeg' }));
    for (const type of ['dragover', 'drop']) {
      document.querySelector('#drop').dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
    }
  }, bytes);
  await look(page);
  assert.match(await bestName(page), /^Acne/);
});

onPage('a photo can be taken with the camera', { permissions: ['camera'] }, async (page) => {
  await page.click('#camera-open');
  await page.waitForFunction(() => document.querySelector('#viewfinder').videoWidth > 0);
  await assertAccessible(page, 'the camera');
  await page.click('#shutter');
  await page.locator('#look').waitFor();
  assert.match(await page.locator('#facts').textContent(), /^camera\.jpg/);
  const isOff = () => page.evaluate(() => !document.querySelector('#viewfinder').srcObject?.active);
  assert.ok(await isOff(), 'the camera is off again');
  await look(page);
  assert.equal(await page.locator('#classes label').count(), 7);
});

onPage('errors are shown in plain words', {}, async (page) => {
  await choose(page, { name: 'notes.jpg', mimeType: 'image/jpeg', buffer: Buffer.from('only words') });
  assert.ok(await shown(page, '#unshown'));
  await page.click('#look');
  await page.locator('#problem').waitFor();
  assert.match(await page.locator('#problem').textContent(), /not a photo that can be read/);
  await page.click('#problem summary');
  assert.match(await page.locator('#problem-detail').textContent(), /JPEG/);
  await assertAccessible(page, 'a problem');
  await choose(page, photo('drawn-healthy-1.jpg'));
  assert.ok(!(await shown(page, '#problem')), 'a new photo clears the error');
  const busy = { type: 'urn:skincell:problem:busy', title: 'Too many', status: 503, detail: 'the line is full' };
  await page.route('**/predict*', (route) => route.fulfill({
    status: 503, headers: { 'retry-after': '7' }, contentType: 'application/problem+json', body: JSON.stringify(busy),
  }), { times: 1 });
  await page.click('#look');
  await page.locator('#problem').waitFor();
  assert.match(await page.locator('#problem-text').textContent(), /again in 7 seconds/);
  await page.route('**/predict*', (route) => route.abort(), { times: 1 });
  await page.click('#look');
  await page.getByText('cannot be reached').waitFor();
  await picture(page, 'error', { fullPage: true });
  await look(page);
  assert.match(await bestName(page), /Healthy/, 'the photo was kept for the next try');
});

onPage('a service with tokens asks for one', {}, async (page) => {
  const seen = [];
  const refused = { type: 'urn:skincell:problem:unauthorized', title: 'Unauthorized', status: 401, detail: 'no token' };
  await page.route('**/predict*', async (route) => {
    seen.push(await route.request().headerValue('authorization'));
    if (seen.at(-1) === 'Bearer sesame') await route.continue();
    else await route.fulfill({ status: 401, contentType: 'application/problem+json', body: JSON.stringify(refused) });
  });
  await choose(page, photo('drawn-wart-1.jpg'));
  assert.ok(!(await shown(page, '#token')));
  await page.click('#look');
  await page.fill('#token', 'sesame');
  await look(page);
  assert.deepEqual(seen, [null, 'Bearer sesame']);
});

onPage('on a slow network the upload shows its progress and can be cancelled', {}, async (page) => {
  const network = await page.context().newCDPSession(page);
  const slow = { offline: false, latency: 200, downloadThroughput: 100_000, uploadThroughput: 60_000 };
  await network.send('Network.emulateNetworkConditions', slow);
  await choose(page, photo('skin.jpg'));
  await page.click('#look');
  await page.waitForFunction(() => /Sending the photo, [1-9]\d?%/.test(document.querySelector('#stage-of-work').textContent));
  const share = await page.evaluate(() => document.querySelector('#progress').value);
  assert.ok(share > 0 && share < 100, `${share} %`);
  await assertAccessible(page, 'at work');
  await picture(page, 'loading');
  await page.click('#cancel');
  await page.locator('#look').waitFor();
  assert.match(await page.locator('#status').textContent(), /Cancelled/);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'look');
  await network.send('Network.emulateNetworkConditions', { ...slow, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await look(page);
});

onPage('the page works with the keyboard alone', {}, async (page) => {
  // Without a listener the browser would open its own dialog.
  page.on('filechooser', () => {});
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.dataset.corner || document.activeElement.name);
  const tabTo = async (wanted) => {
    for (let presses = 0; presses < 25; presses += 1) {
      if ((await focused()) === wanted) return;
      await page.keyboard.press('Tab');
    }
    assert.fail(`Tab does not reach ${wanted}`);
  };
  await tabTo('choose');
  const chooser = page.waitForEvent('filechooser');
  await page.keyboard.press('Enter');
  await (await chooser).setFiles(photo('drawn-psoriasis-1.jpg'));
  await page.locator('#look').waitFor();
  assert.equal(await focused(), 'edit-title', 'the focus moves to the new section');
  await page.locator('#turn-left').focus();
  await page.keyboard.press('Space');
  await page.locator('[data-corner="nw"]').focus();
  await page.keyboard.press('Shift+ArrowRight');
  await page.keyboard.press('ArrowDown');
  assert.match(await page.locator('#status').textContent(), /90 by 98 per cent/);
  await tabTo('whole');
  await page.keyboard.press('Enter');
  await tabTo('look');
  await page.keyboard.press('Enter');
  await page.locator('#classes label').first().waitFor();
  assert.equal(await focused(), 'answer-title');
  assert.match(await page.locator('#status').textContent(), /^Psoriasis.* per cent|^Psoriasis.*%/);
  await tabTo('class');
  await page.keyboard.press('ArrowDown');
  assert.ok(await page.locator('#classes input').nth(1).isChecked());
  await page.locator('#opacity').focus();
  await page.keyboard.press('End');
  assert.equal(await page.evaluate(() => document.querySelector('#heat').style.opacity), '1');
});

onPage('the command to copy works', { permissions: ['clipboard-read', 'clipboard-write'] }, async (page) => {
  await choose(page, photo('drawn-eczema-1.jpg'));
  await look(page);
  await page.locator('#classes label').nth(1).click();
  await page.click('#curl');
  await page.getByText('Copied.').waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(command, /^curl --data-binary @'drawn-eczema-1.jpg'/);
  const answer = JSON.parse(execFileSync('sh', ['-c', `${command} --silent --max-time 30`], { cwd: dirname(photo('x')) }));
  assert.equal(answer.results[0].class, 'Eczema Photos');
  assert.equal(answer.heatmap_class, answer.results[1].class, 'of the class that was chosen');
});

onPage('the picture can be saved', {}, async (page) => {
  await choose(page, photo('drawn-eczema-1.jpg'));
  await look(page);
  const saving = page.waitForEvent('download');
  await page.click('#download');
  const saved = await saving;
  assert.equal(saved.suggestedFilename(), 'drawn-eczema-1-heatmap.png');
  const path = await saved.path();
  const [width, height] = await sizeOf(page, readFileSync(path));
  assert.ok(width === 640 && height > 480, `${width} × ${height}, ${statSync(path).size} bytes`);
});

onPage('the page is completely translated to Vietnamese and remembers the language', { locale: 'vi-VN' }, async (page) => {
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'vi');
  await choose(page, photo('drawn-psoriasis-1.jpg'));
  await look(page);
  assert.match(await bestName(page), /^Vảy nến/);
  const words = () => page.$$eval('[data-words], [data-label]', (all) => all.map((element) => (
    element.dataset.words ? element.textContent : element.getAttribute('aria-label'))));
  const vietnamese = await words();
  await assertAccessible(page, 'Vietnamese');
  await page.click('[data-language="en"]');
  const english = await words();
  const same = english.filter((text, at) => text === vietnamese[at] || !text || text.includes('undefined'));
  assert.deepEqual(same, [], 'words without a translation');
  assert.match(await bestName(page), /^Psoriasis/);
  await page.reload();
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
});

onPage('a photo of an unknown kind is said to be so before its classes', {}, async (page) => {
  for (const file of ['cat.png', 'skin.jpg']) {
    await choose(page, photo(file));
    await look(page);
    assert.equal(await page.locator('#answer-title').textContent(), 'The model does not know this kind of photo');
    assert.match(await page.locator('#doubt').textContent(), /It knows only 840 drawings/);
    assert.match(await page.locator('#status').textContent(), /do not rely on it/);
    const weights = await page.$$eval('#classes label', (all) => all.map((label) => getComputedStyle(label.querySelector('span')).fontWeight));
    assert.equal(new Set(weights).size, 1, 'no class is larger than the others');
    await picture(page, `unfamiliar-${file.split('.')[0]}`, { fullPage: true });
    await assertAccessible(page, `unfamiliar ${file}`);
    await page.click('[data-language="vi"]');
    assert.match(await page.locator('#answer-title').textContent(), /không biết loại ảnh này/);
    await page.click('[data-language="en"]');
    await page.locator('[data-restart]:visible').first().click();
  }
  await choose(page, photo('drawn-psoriasis-1.jpg'));
  await look(page);
  assert.equal(await page.locator('#answer-title').textContent(), 'What the model finds likeliest');
  assert.match(await page.locator('#doubt').textContent(), /does not mean that its classes are right/);
});

onPage('a photo that is refused as unfamiliar is said to be so in both languages, as quietly as one that is answered', {}, async (page) => {
  const refused = { type: 'urn:skincell:problem:unfamiliar-photo', title: 'No', status: 422, detail: 'it knows 840 drawings' };
  await page.route('**/predict*', (route) => route.fulfill({
    status: 422, contentType: 'application/problem+json', body: JSON.stringify(refused) }));
  await choose(page, photo('cat.png'));
  await page.click('#look');
  await page.locator('#problem').waitFor();
  const problem = page.locator('#problem');
  assert.match(await problem.textContent(), /does not know this kind of photo.*would only be a guess.*it knows 840 drawings/s);
  assert.ok(await problem.evaluate((box) => box.classList.contains('doubt')), 'no alarm');
  await picture(page, 'refused', { fullPage: true });
  await assertAccessible(page, 'refused as unfamiliar');
  await page.click('[data-language="vi"]');
  assert.match(await problem.textContent(), /không biết loại ảnh này.*chỉ là phỏng đoán/s);
});

for (const [name, options] of [['desktop', {}], ['phone', PHONE], ['dark', { colorScheme: 'dark' }]]) {
  onPage(`axe-core finds nothing: ${name}`, options, async (page) => {
    await assertAccessible(page, `${name}, empty`);
    if (name === 'desktop') await picture(page, 'empty');
    await choose(page, photo('drawn-psoriasis-1.jpg'));
    await assertAccessible(page, `${name}, a photo`);
    await look(page);
    const rules = await assertAccessible(page, `${name}, an answer`);
    if (name !== 'desktop') await picture(page, name, { fullPage: name === 'dark' });
    console.log(`axe-core, ${name}: 0 findings in 3 states, ${rules} rules passed in the last`);
  });
}

onPage('a phone has no sideways scrolling and large enough targets', PHONE, async (page) => {
  await choose(page, photo('skin.jpg'));
  await look(page);
  const { scroll, width } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, width: innerWidth }));
  assert.ok(scroll <= width, `${scroll} of ${width}`);
  const small = await page.$$eval('button, label:has(input[type=radio]), select', (all) => all
    .map((element) => [element.textContent.trim(), element.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0 && (box.height < 36 || box.width < 36))
    .map(([text, box]) => `${text}: ${box.width} × ${box.height}`));
  assert.deepEqual(small, []);
});

onPage('an answer without a heatmap shows the reason', {}, async (page) => {
  const answer = {
    model: { name: 'skin', notice: '' },
    results: [{ class: 'Heathy', display: 'Healthy', probability: 100, index: 2 }],
    heatmap_base64: null, heatmap_class: null, heatmap_basis: null,
    heatmap_missing: 'ENABLE_GRADCAM is off on this service',
    timing_ms: { decode: 1, inference: 2, heatmap: 0, total: 3 },
  };
  await page.route('**/predict*', (route) => route.fulfill({ json: answer }));
  await choose(page, photo('drawn-wart-1.jpg'));
  await look(page);
  assert.match(await page.locator('#missing').textContent(), /No heatmap: ENABLE_GRADCAM/);
  assert.ok(!(await shown(page, '#layer')));
  assert.ok(await page.locator('#classes input').first().isDisabled());
});

// The memory of the tab while photos of 12 megapixels are looked at "on this device", one after another, through the
// page as a user would. SKINCELL_PHOTOS sets how many: 200 for the figures in docs/page.md.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { choose, look, visit } from './browser.mjs';
import { deviceSuite, load } from './on-device.mjs';

const MANY = Number(process.env.SKINCELL_PHOTOS ?? 12);
/** MiB: the tab's private memory at its peak, and by how much it may grow from the first third of photos to the last. */
const PEAK = 120;
const FLAT = 2;
/** The page keeps the newest 30 results of a visit; until then its memory grows by them. */
const KEPT = 30;

const shared = deviceSuite([]);

const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];

/** Private MiB of a process, swapped or not. */
function memoryOf(id) {
  const lines = readFileSync(`/proc/${id}/smaps_rollup`, 'utf8').matchAll(/^(?:Private_\w+|Swap): +(\d+) kB/gm);
  return [...lines].reduce((sum, [, size]) => sum + Number(size), 0) / 1024;
}

/** The process of the tab with its workers: the renderer that has grown most by an array of the page. */
async function tabProcess(page) {
  const session = await shared.browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const renderers = processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => [id, memoryOf(id)]);
  await page.evaluate(() => { window.large = new Uint8Array(64 << 20).fill(1); });
  const [[id]] = renderers.map(([id, before]) => [id, memoryOf(id) - before]).sort((one, other) => other[1] - one[1]);
  await page.evaluate(() => { window.large = window.large.buffer.transfer(0); });
  return id;
}

/** Writes a JPEG of 12 megapixels and returns its path. */
async function drawn(folder) {
  const page = await (await shared.browser.newContext()).newPage();
  const address = await page.evaluate(() => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 4000, height: 3000 });
    const drawing = canvas.getContext('2d');
    for (let at = 0; at < 3000; at += 1) {
      drawing.fillStyle = `hsl(${at % 360} 60% 50%)`;
      drawing.fillRect((at * 977) % 4000, (at * 331) % 3000, 200, 150);
    }
    return canvas.toDataURL('image/jpeg', 0.9);
  });
  await page.context().close();
  const path = join(folder, 'twelve.jpg');
  writeFileSync(path, Buffer.from(address.split(',')[1], 'base64'));
  return path;
}

/** What a user may do with a photo before it is looked at. */
const KINDS = {
  // As the page looks at it by itself.
  whole: () => {},
  shrunk: (page) => page.check('#shrink'),
  turned: (page) => page.click('#turn-right'),
  // To less than 4 megapixels.
  cropped: async (page) => {
    await page.focus('[data-corner="se"]');
    for (let at = 0; at < 50; at += 1) await page.keyboard.press(at % 2 ? 'ArrowLeft' : 'ArrowUp');
  },
};

/** Looks at a photo again and again; returns the memory after each, once garbage is collected, and the peak. */
async function lookedAgain(page, path, kind) {
  const id = await tabProcess(page);
  const garbage = await page.context().newCDPSession(page);
  const after = [];
  let peak = 0;
  const watch = setInterval(() => { peak = Math.max(peak, memoryOf(id)); }, 50);
  for (let at = 0; at < MANY; at += 1) {
    await choose(page, path);
    await KINDS[kind](page);
    await look(page);
    await page.click('[data-restart]:visible');
    await garbage.send('HeapProfiler.collectGarbage');
    after.push(memoryOf(id));
  }
  clearInterval(watch);
  return { after, peak };
}

for (const kind of Object.keys(KINDS)) {
  test(`the memory of the tab stays flat: photos of 12 megapixels, ${kind}`, { timeout: 1_800_000 }, async (context) => {
    const folder = mkdtempSync(join(tmpdir(), 'skincell-photo-'));
    const path = await drawn(folder);
    await visit(shared.browser, shared.folder.address, {}, async (page) => {
      await load(page);
      const { after, peak } = await lookedAgain(page, path, kind);
      const settled = after.slice(Math.min(KEPT, MANY >> 1));
      const [low, high] = [Math.min(...settled), Math.max(...settled)];
      const third = Math.ceil(settled.length / 3);
      const growth = median(settled.slice(-third)) - median(settled.slice(0, third));
      context.diagnostic(`${MANY} photos of 12 megapixels, ${kind}: private memory of the tab after each, of the last ${settled.length}, ${low.toFixed(1)} to ${high.toFixed(1)} MiB, ${growth.toFixed(1)} more in the last third than in the first; peak ${peak.toFixed(1)} MiB`);
      assert.ok(peak <= PEAK, `peak ${peak} MiB`);
      // The first photos tell nothing about later ones: the browser still optimises the engine.
      if (MANY > 2 * KEPT) assert.ok(growth <= FLAT, `${growth} MiB`);
    });
    rmSync(folder, { recursive: true });
  });
}

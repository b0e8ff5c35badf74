// A Chromium with a simulated camera, and helpers for the page's tests: a fresh page that fails on any
// script error, blocked resource or request to another host; axe-core; screenshots.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { repository, serve } from './service.mjs';

const axe = readFileSync(join(import.meta.dirname, 'node_modules/axe-core/axe.min.js'), 'utf8');
const pictures = process.env.SKINCELL_SCREENSHOTS;

/** Starts Debian's Chromium, or the one that CHROMIUM names. */
export function launch() {
  const known = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const executablePath = known.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('no Chromium: apt-get install chromium, or set CHROMIUM');
  const flags = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'];
  // Chromium's sandbox needs privileges that containers mostly lack.
  return chromium.launch({ executablePath, args: [...flags, '--no-sandbox'] });
}

/** A phone's screen. */
export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

/**
 * Starts one service and one browser for the tests of a file, and stops them at the end. Returns both, which are
 * there when a test runs, and `onPage`, which defines a test on a page of a fresh profile.
 */
export function suite() {
  const shared = {
    onPage: (name, options, run) => test(name, { timeout: 60_000 }, () => visit(shared.browser, shared.service.address, options, run)),
  };
  before(async () => {
    shared.service = await serve();
    shared.browser = await launch();
  });
  after(async () => {
    await shared.browser?.close();
    shared.service?.stop();
  });
  return shared;
}

/** A photo of tests/photos. */
export const photo = (name) => join(repository, 'tests/photos', name);

/** Opens the page in a separate browser profile and passes it to `test`. */
export async function visit(browser, address, options, test) {
  const context = await browser.newContext({ locale: 'en-GB', viewport: { width: 1200, height: 800 }, ...options });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const wrong = [];
  page.on('pageerror', (error) => wrong.push(`script error: ${error.message}`));
  page.on('request', (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol.startsWith('http') && origin !== new URL(address).origin) wrong.push(`a request to ${origin}`);
  });
  await page.exposeFunction('blocked', (what) => wrong.push(`blocked by the policy: ${what}`));
  await page.addInitScript(() => addEventListener('securitypolicyviolation', (event) => {
    window.blocked(`${event.violatedDirective} ${event.blockedURI}`);
  }));
  await page.goto(address);
  await page.waitForFunction(() => document.querySelector('#model').options.length > 0);
  try {
    await test(page);
    assert.deepEqual(wrong, []);
  } finally {
    await context.close();
  }
}

/** Chooses a photo and waits until it can be sent. */
export async function choose(page, file) {
  await page.setInputFiles('#file', file);
  const name = file.name ?? basename(file);
  await page.waitForFunction((start) => document.querySelector('#facts').textContent.startsWith(start), name);
  await page.locator('#look').waitFor();
}

/** Sends the chosen photo and waits for the ranked classes. */
export async function look(page) {
  await page.click('#look');
  await page.locator('#classes label').first().waitFor();
}

/** Whether an element is shown. */
export const shown = (page, selector) => page.locator(selector).isVisible();

/** The class at this rank, from 0, as the page names it. */
export const className = (page, rank) => page.locator('#classes label').nth(rank).locator('span').first().textContent();

/** The likeliest class. */
export const bestName = (page) => className(page, 0);

/** The name and the bytes of a file that a click saves. */
export async function saved(page, selector) {
  const saving = page.waitForEvent('download');
  await page.click(selector);
  const file = await saving;
  return [file.suggestedFilename(), readFileSync(await file.path())];
}

/** Fails on any finding of axe-core, and names each with its element. */
export async function assertAccessible(page, state) {
  // Evaluated by the debugger, because the page's policy blocks scripts of other origins.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const found = violations.flatMap(({ id, help, nodes }) => nodes.map((node) => `${id}: ${help} at ${node.target}`));
  assert.deepEqual(found, [], state);
  assert.ok(passes.length > 10, `axe-core looked at too little of ${state}`);
  return passes.length;
}

/** Writes a screenshot to the folder SKINCELL_SCREENSHOTS, if it is set. */
export async function picture(page, name, options = {}) {
  if (!pictures) return;
  await page.mouse.move(1, 1);
  // What stays at the top of the window would lie over the middle of the whole page.
  if (options.fullPage) await page.evaluate(() => scrollTo(0, 0));
  await page.waitForTimeout(250);
  const path = join(pictures, `page-${name}.jpg`);
  await page.screenshot({ path, type: 'jpeg', quality: 84, ...options });
}

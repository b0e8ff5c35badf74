// Helpers for the tests of "on this device": the page served by the service and by a plain file server, loading
// engine and model, and what an answer says.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { choose, launch, look, photo } from './browser.mjs';
import { repository, serve } from './service.mjs';
import { host, site } from './site.mjs';

export const PHOTOS = readdirSync(join(repository, 'tests/photos')).filter((name) => /\.(jpe?g|png|webp|gif|bmp)$/.test(name));
export const limit = { timeout: 300_000 };

const SERVICES = { both: { SKINCELL_PAGE: 'both' }, service: { SKINCELL_PAGE: 'device', SKINCELL_PREDICT: 'off' } };

/**
 * Starts, for the tests of a file, a browser, a plain file server (`folder`), and those services: one for both places
 * (`both`), one that answers no photo itself (`service`). Stops them at the end.
 */
export function deviceSuite(services) {
  const shared = {};
  before(async () => {
    shared.site = site('half');
    await Promise.all(services.map(async (name) => { shared[name] = await serve(SERVICES[name], shared.site); }));
    shared.folder = await host(shared.site);
    shared.browser = await launch();
  });
  after(async () => {
    await shared.browser?.close();
    for (const one of [shared.both, shared.service, shared.folder]) one?.stop();
  });
  return shared;
}

export const text = (page, selector) => page.locator(selector).first().textContent();

/** What the folder's index says. */
export const indexOf = (folder) => JSON.parse(readFileSync(join(folder, 'page/device/index.json')));

/** Records what the page and its service worker ask for: method, path and length of each body. */
export function recorded(page) {
  const requests = [];
  page.context().on('request', (request) => requests.push({
    method: request.method(), path: new URL(request.url()).pathname, body: request.postDataBuffer()?.length ?? 0,
  }));
  return requests;
}

/** The requests for the engine and for models among these. */
export const large = (requests) => requests.filter(({ path }) => /page\/models\/|device\/[0-9a-f]{64}/.test(path));

/** Waits until the page says that it needs no network. */
export const isReady = (page) => page.getByText('This page needs no network.', { exact: false }).waitFor();

/** Loads engine and model and waits until they, and the page, are kept. */
export async function load(page) {
  if (await page.locator('#loading-start').isVisible()) await page.click('#loading-start');
  await isReady(page);
  await page.evaluate(() => navigator.serviceWorker.ready);
}

export async function chooseDevice(page) {
  await page.check('[name="place"][value="device"]');
  await page.locator('#loading-start').waitFor();
}

/** Has a photo of tests/photos looked at, whole; returns milliseconds. */
export async function looked(page, name) {
  await choose(page, photo(name));
  if (await page.locator('#shrink').isVisible()) await page.uncheck('#shrink');
  const began = performance.now();
  await look(page);
  return performance.now() - began;
}

/** The answer to a photo by the page's own module, as numbers. */
export const answerOf = (page, name) => page.evaluate(async (base64) => {
  const device = await import('./page/device.js');
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return device.predict(new Blob([bytes]), document.querySelector('#model').value, () => {}).answer;
}, readFileSync(photo(name)).toString('base64'));

/** A service's answer to a photo. */
export async function servedAnswer(address, name) {
  const response = await fetch(`${address}predict?heatmap=maps`, { method: 'POST', body: readFileSync(photo(name)) });
  assert.equal(response.status, 200, name);
  return response.json();
}

/**
 * The largest differences of two answers to a photo: of a probability, in points of a per cent, and of a heatmap's
 * value, of 1. Fails if they differ in their likeliest class or in whether the photo is familiar; if `isBound`, also
 * if they differ in anything else.
 */
export function difference(ours, theirs, name, isBound = true) {
  const beside = (list) => new Map(list.map((entry) => [entry.index, entry]));
  const worst = { points: 0, map: 0 };
  const [results, maps] = [beside(ours.results), beside(ours.heatmap_maps)];
  assert.equal(ours.results[0].class, theirs.results[0].class, name);
  assert.equal(maps.size, theirs.heatmap_maps.length, name);
  for (const { index, probability } of theirs.results) {
    worst.points = Math.max(worst.points, Math.abs(results.get(index).probability - probability));
  }
  for (const { index, basis, values } of theirs.heatmap_maps) {
    const same = maps.get(index);
    if (isBound) assert.equal(same.basis, basis, `${name}, ${index}`);
    worst.map = Math.max(worst.map, ...values.map((value, at) => Math.abs(value - same.values[at])));
  }
  assert.equal(ours.familiarity?.is_familiar, theirs.familiarity?.is_familiar, name);
  assert.equal(ours.is_certain, theirs.is_certain, name);
  return worst;
}

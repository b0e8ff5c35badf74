// Keeps the page for visits without a network, once "on this device" was chosen. Engine and models are kept
// by device.js, which checks them. Nothing else passes through here: no photo is ever requested.

const PAGE = 'skincell-page-VERSION_OF_THE_PAGE';
const MODELS = 'skincell-models';
const INDEX = 'page/device/index.json';
const FILES = [
  './', 'page/style.css', 'page/icon.svg', 'page/app.webmanifest', 'page/main.js', 'page/words.js', 'page/photo.js',
  'page/crop.js', 'page/camera.js', 'page/heatmap.js', 'page/send.js', 'page/device.js', 'page/worker.js',
  'page/answer.js', 'page/report.js', 'page/visit.js',
];

const address = (path) => new URL(path, self.registration.scope).href;

self.addEventListener('install', (event) => {
  const keep = async () => {
    const cache = await caches.open(PAGE);
    await cache.addAll(FILES.map(address));
    // A service that no longer looks at photos on devices has none, and its page is kept all the same.
    await cache.add(address(INDEX)).catch(() => {});
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener('activate', (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith('skincell-') && name !== PAGE && name !== MODELS);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

/** What was kept, and meanwhile the newest from the host for the next visit. */
async function index(event) {
  const cache = await caches.open(PAGE);
  const newest = fetch(event.request).then(async (response) => {
    if (response.ok) await cache.put(event.request, response.clone());
    return response;
  });
  const kept = await cache.match(event.request);
  if (!kept) return newest;
  event.waitUntil(newest.catch(() => {}));
  return kept;
}

self.addEventListener('fetch', (event) => {
  const url = event.request.url.split(/[?#]/)[0].replace(/index\.html$/, '');
  if (event.request.method !== 'GET') return;
  if (url === address(INDEX)) event.respondWith(index(event));
  else if (FILES.some((path) => url === address(path))) {
    event.respondWith(caches.match(url, { cacheName: PAGE }).then((kept) => kept ?? fetch(event.request)));
  }
});

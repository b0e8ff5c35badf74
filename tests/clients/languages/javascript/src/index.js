import { loadByName } from 'wasi:nn/graph@0.2.0-rc-2024-10-28';
import { Tensor } from 'wasi:nn/tensor@0.2.0-rc-2024-10-28';

let marker = 'nothing';
const leaked = [];

/** The logits of one photo, from its prepared pixels: 1×3×224×224 numbers of 32 bits, little-endian. */
function infer(pixels) {
    const context = loadByName('skin').initExecutionContext();
    const image = new Tensor(Uint32Array.of(1, 3, 224, 224), 'FP32', pixels);
    const outputs = new Map(context.compute([['image', image]]));
    return outputs.get('logits').data();
}

async function handle(request) {
    const url = new URL(request.url);
    switch (url.pathname) {
        case '/javascript/infer':
            return new Response(infer(new Uint8Array(await request.arrayBuffer())));
        case '/javascript/marker': {
            const before = marker;
            marker = url.search;
            return new Response(before);
        }
        case '/javascript/leak':
            leaked.push(new Uint8Array(1 << 20).fill(1));
            return new Response(`${leaked.length}`);
        default:
            return new Response('Hello from JavaScript!', { headers: { 'content-type': 'text/plain' } });
    }
}

addEventListener('fetch', (event) => {
    event.respondWith(handle(event.request));
});

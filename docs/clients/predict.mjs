// Rank the classes of a photo with skincell. In a browser `file` is what an <input type="file"> holds; in
// Node 20 or later: node predict.mjs photo.jpg [address]

export async function predict(file, address, options = {}) {
  const form = new FormData();
  form.append('image', file);
  const response = await fetch(`${address}/predict?${new URLSearchParams(options)}`, { method: 'POST', body: form });
  const answer = await response.json();
  // Problems are RFC 9457: `detail` says what is wrong and what to do.
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

if (globalThis.process?.argv[1] === import.meta.filename) {
  const { openAsBlob } = await import('node:fs');
  const [photo, address = 'http://127.0.0.1:3000'] = process.argv.slice(2);
  const answer = await predict(await openAsBlob(photo), address, { top_k: 3, gradcam: false });
  for (const { class: name, probability } of answer.results) console.log(`${probability.toFixed(2)} %  ${name}`);
}

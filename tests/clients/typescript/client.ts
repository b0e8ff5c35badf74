// A program as a user would write it over generated types: asks which models there are, sends a photo with
// options, two photos at once, and a tensor, and prints what `generated.py` expects.

import { readFile } from 'node:fs/promises';
import createClient from 'openapi-fetch';
import type { components, paths } from './generated/api.ts';

type Prediction = components['schemas']['Prediction'];

const [address, path] = process.argv.slice(2);
if (!address || !path) throw new Error('usage: client.js ADDRESS PHOTO');
const client = createClient<paths>({ baseUrl: address });

function fail(problem: components['schemas']['Problem']): never {
  throw new Error(`${problem.type}: ${problem.detail}`);
}

/** Posts a form; a generated client knows its fields, and how they are sent is the caller's. */
async function predict(photos: Blob[], query: paths['/predict']['post']['parameters']['query']) {
  const { data, error } = await client.POST('/predict', {
    params: { query },
    body: { image: '' },
    bodySerializer() {
      const form = new FormData();
      photos.forEach((photo, index) => form.append('image', photo, `${index}.jpg`));
      return form;
    },
  });
  return data ?? fail(error);
}

const isOne = (answer: Prediction | components['schemas']['Predictions']): answer is Prediction => 'results' in answer;

const photo = new Blob([await readFile(path)], { type: 'image/jpeg' });
const { data: listing } = await client.GET('/models');
console.log(`models: ${listing?.models.map((model) => model.name).join(', ')}`);

const one = await predict([photo], { top_k: 3, gradcam: true });
if (typeof one === 'string' || !isOne(one)) throw new Error('one photo has one answer');
const [best] = one.results;
console.log(`${best?.display}: ${best?.probability.toFixed(3)} of ${one.results.length}`);

const several = await predict([photo, photo], {});
if (typeof several === 'string' || isOne(several)) throw new Error('two photos have two answers');
console.log(`several: ${several.answered} answered, ${several.refused} refused`);

const { error: problem } = await client.POST('/predict', {
  body: { image: '' },
  headers: { 'Content-Type': 'image/jpeg' },
  bodySerializer: () => 'only words',
});
console.log(`problem: ${problem?.type}`);

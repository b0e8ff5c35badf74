// The page: from a chosen photo to its answer. It has one state at a time; elements are shown in the states
// listed in their data-in. Words, photo, crop, heatmap, camera and requests are separate modules.

import * as camera from './camera.js';
import * as crop from './crop.js';
import * as device from './device.js';
import * as heatmap from './heatmap.js';
import * as photos from './photo.js';
import { curl, listModels, predict, Problem } from './send.js';
import { className, language, milliseconds, percent, problemWords, say, size, speak } from './words.js';

const at = (id) => document.getElementById(id);
let state = 'empty';
let photo = null;
let models = [];
let answer = null;
let chosen = null;
let problem = null;
let stop = () => {};

// Where photos are looked at: the service says where it may be, and the user chooses if it says both.
const PLACE = 'skincell-place';
const mayBe = document.body.dataset.page;
let place = mayBe === 'both' ? remembered() ?? 'server' : mayBe;
let loading = null;

// States

function enter(next) {
  state = next;
  document.body.dataset.state = next;
  for (const element of document.querySelectorAll('[data-in]')) {
    element.hidden = !element.dataset.in.split(' ').includes(state);
  }
  at('form').inert = state === 'busy';
  speakAll();
}

/** Updates all texts after a change of state or language. */
function speakAll() {
  document.documentElement.lang = language;
  document.title = `skincell: ${say('title')}`;
  for (const element of document.querySelectorAll('[data-words]')) element.textContent = say(element.dataset.words);
  for (const element of document.querySelectorAll('[data-label]')) element.setAttribute('aria-label', say(element.dataset.label));
  for (const button of document.querySelectorAll('[data-language]')) {
    button.setAttribute('aria-pressed', String(button.dataset.language === language));
  }
  showNotice();
  showProblem();
  showPlace();
  if (photo) showPhoto();
  if (answer) showAnswer();
}

function showNotice() {
  const name = answer?.model.name ?? at('model').value;
  at('model-notice').textContent = models.find((model) => model.name === name)?.notice ?? '';
}

function fail(error) {
  problem = error instanceof Problem ? error : new Problem('other', error.message);
  at('token-row').hidden = problem.kind !== 'token' && !at('token').value;
  showProblem();
  at('problem').scrollIntoView({ block: 'nearest' });
}

function showProblem() {
  at('problem').hidden = !problem;
  if (!problem) return;
  const [title, advice] = problemWords(problem.kind, { seconds: problem.seconds });
  at('problem-title').textContent = title;
  at('problem-text').textContent = advice;
  at('problem-detail').textContent = problem.message;
  at('use-server').hidden = place === 'server' || mayBe !== 'both';
}

// Where photos are looked at

function remembered() {
  try { return localStorage.getItem(PLACE); } catch { return null; }
}

/** Only a page loaded anew may send again, once the device was chosen. */
function choosePlace(next) {
  try { localStorage.setItem(PLACE, next); } catch { /* then the choice lasts until the page is closed */ }
  if (next === 'server' && place === 'device') return location.reload();
  place = next;
  problem = null;
  showModels().catch(fail);
}

function showPlace() {
  const isDevice = place === 'device';
  at('place').hidden = mayBe !== 'both';
  for (const input of document.querySelectorAll('[name="place"]')) input.checked = input.value === place;
  at('privacy').textContent = say(isDevice ? 'privacyDevice' : 'privacy');
  at('prove').hidden = !isDevice;
  at('curl').hidden = isDevice;
  at('loading').hidden = !isDevice || !loading;
  if (!loading) return;
  at('loading-start').hidden = loading.state !== 'missing';
  at('loading-share').hidden = loading.state !== 'loading';
  at('loading-share').value = loading.share * 100;
  const key = { missing: 'loadFirst', loading: 'loadingModel', ready: 'loaded' }[loading.state];
  at('loading-text').textContent = say(key, { size: size(loading.bytes), percent: percent(loading.share * 100, 0) });
}

/** Shows what still has to be loaded for the chosen model. */
async function showMissing() {
  const bytes = await device.missing(at('model').value);
  loading = { state: bytes ? 'missing' : 'ready', bytes, share: 0 };
  showPlace();
}

async function loadModel() {
  loading = { ...loading, state: 'loading' };
  showPlace();
  try {
    await device.load(at('model').value, (share) => { loading.share = share; showPlace(); }).ready;
    loading.state = 'ready';
  } catch (error) {
    loading.state = 'missing';
    if (error.name !== 'AbortError') fail(error);
  }
  showPlace();
}

/** Shows that the browser refuses to send even one byte. */
async function prove() {
  const refusal = await device.prove();
  at('proof').textContent = say(refusal ? 'refused' : 'notRefused', { refusal });
}

// A photo before it is sent

async function take(file) {
  if (!file || state === 'busy') return;
  [problem, answer, chosen] = [null, null, null];
  photo?.bitmap?.close();
  photo = await photos.open(file);
  enter('edit');
  at('edit-title').focus();
}

function restart() {
  [photo, answer, problem] = [null, null, null];
  enter('empty');
  at('choose').focus();
}

function showPhoto() {
  const isShown = Boolean(photo.bitmap);
  at('unshown').hidden = isShown;
  at('photo').hidden = !isShown;
  at('tools').hidden = !isShown || state !== 'edit';
  at('crop').hidden = at('tools').hidden;
  at('crop-hint').hidden = !isShown;
  at('photo').setAttribute('aria-label', say('photoNamed', { name: photo.name }));
  const [width, height] = isShown ? photos.croppedSize(photo) : [0, 0];
  at('shrink-row').hidden = width * height <= photos.MOST_PIXELS;
  const facts = { name: photo.name, width, height, size: size(photo.file.size) };
  at('facts').textContent = say(isShown ? 'facts' : 'factsUnshown', facts);
  if (!isShown) return at('stage').style.setProperty('--ratio', 1.5);
  // The whole photo is shown during cropping, afterwards only the part that was sent.
  const seen = state === 'edit' ? { x: 0, y: 0, width: 1, height: 1 } : photo.crop;
  const [fullWidth, fullHeight] = photos.turnedSize(photo);
  const longest = Math.max(fullWidth * seen.width, fullHeight * seen.height);
  photos.draw(photo, at('photo'), seen, Math.min(1, 1600 / longest));
  at('stage').style.setProperty('--ratio', (fullWidth * seen.width) / (fullHeight * seen.height));
  showCrop();
}

function showCrop() {
  const isWhole = photos.isWhole(photo);
  crop.place(at('crop'), photo.crop, isWhole);
  at('whole').disabled = isWhole;
}

function cropTo(next) {
  photo.crop = next;
  showCrop();
  const [width, height] = photos.croppedSize(photo);
  at('shrink-row').hidden = width * height <= photos.MOST_PIXELS;
  at('facts').textContent = say('facts', { name: photo.name, width, height, size: size(photo.file.size) });
  const parts = { width: Math.round(next.width * 100), height: Math.round(next.height * 100) };
  at('status').textContent = say('cropSays', parts);
}

function turn(quarters) {
  photos.turn(photo, quarters);
  showPhoto();
}

// Sending

async function look() {
  if (state !== 'edit') return;
  problem = null;
  enter('busy');
  progress('preparing');
  at('cancel').focus();
  let isStopped = false;
  stop = () => { isStopped = true; };
  try {
    const post = async (mustEncode) => {
      const file = await photos.toSend(photo, at('shrink').checked, mustEncode);
      if (isStopped) return null;
      const request = place === 'device'
        ? device.predict(file, at('model').value, (share) => (share < 1 ? progress('loadingModel', share * 100) : progress('looking')))
        : predict(file, photo.name, at('model').value, at('token').value, sent);
      stop = () => { isStopped = true; request.stop(); };
      return request.answer;
    };
    // If this browser can show a file that the service cannot decode, it is sent again as a JPEG.
    answer = await post(false).catch((error) => {
      if (error.mayEncode && photo.bitmap) return post(true);
      throw error;
    });
    if (!answer) return cancelled();
    chosen = answer.heatmap_maps?.[0].index ?? null;
    enter('answer');
    at('answer-title').focus();
    const best = answer.results[0];
    const said = { class: className(best), percent: share(best), count: answer.results.length };
    // What is in doubt is announced with the heading, which has the focus, and the class is not.
    at('status').textContent = doubt() ? doubtWords() : say('answerSays', said);
  } catch (error) {
    enter('edit');
    fail(error);
    at('look').focus();
  }
}

function cancelled() {
  enter('edit');
  at('status').textContent = say('cancelled');
  at('look').focus();
}

function sent(share) {
  if (share < 1) progress('sending', share * 100);
  else progress('looking');
}

function progress(key, value) {
  const words = say(key, { percent: percent(value ?? 0, 0) });
  at('stage-of-work').textContent = words;
  if (value === undefined) at('progress').removeAttribute('value');
  else at('progress').value = value;
  // Announced once per stage, not for every per cent.
  if (at('status').dataset.stage !== key) at('status').textContent = words;
  at('status').dataset.stage = key;
}

// The answer

/** Why the classes should not be relied on: 'unfamiliar', 'unsure' or null. */
function doubt() {
  if (answer.familiarity?.is_familiar === false) return 'unfamiliar';
  return answer.is_certain === false ? 'unsure' : null;
}

function doubtWords() {
  return say(`${doubt()}More`, { basis: answer.familiarity?.basis });
}

/**
 * A class's percentage. If the model knows how sure it is, it is in whole per cent, and neither 0 nor 100: more would
 * be worth nothing.
 */
function share({ probability }) {
  if (answer.is_certain === undefined) return percent(probability);
  if (probability < 1) return `< ${percent(1, 0)}`;
  return probability > 99 ? `> ${percent(99, 0)}` : percent(probability, 0);
}

function showDoubt() {
  const [why, panel] = [doubt(), at('classes').parentElement];
  for (const name of ['unfamiliar', 'unsure']) panel.classList.toggle(name, why === name);
  at('answer-title').textContent = say(why ?? 'answer');
  at('doubt').hidden = !why && !answer.familiarity;
  at('doubt').className = why ? '' : 'quiet plain';
  at('doubt').textContent = why ? doubtWords() : say('familiarMore');
}

function showAnswer() {
  const maps = answer.heatmap_maps ?? [];
  showDoubt();
  at('classes').replaceChildren(...answer.results.map((result) => row(result, maps)));
  at('missing').hidden = maps.length > 0;
  at('missing').textContent = say('noHeatmap', { why: answer.heatmap_missing });
  const rounded = Object.entries(answer.timing_ms).map(([name, value]) => [name, milliseconds(value)]);
  at('timing').textContent = say(place === 'device' ? 'timingDevice' : 'timing', Object.fromEntries(rounded));
  at('unkept').hidden = answer.isKept !== false;
  at('copied').textContent = '';
  showMap();
}

function row(result, maps) {
  const label = document.createElement('label');
  const input = document.createElement('input');
  const name = document.createElement('span');
  const shown = document.createElement('span');
  const bar = document.createElement('i');
  Object.assign(input, { type: 'radio', name: 'class', value: result.index, checked: result.index === chosen });
  input.disabled = !maps.some((map) => map.index === result.index);
  input.addEventListener('change', () => { chosen = result.index; showMap(); });
  name.textContent = className(result);
  shown.textContent = share(result);
  shown.className = 'percent';
  bar.style.setProperty('--share', `${result.probability}%`);
  label.append(input, name, shown, bar);
  return label;
}

function showMap() {
  const map = answer.heatmap_maps?.find((entry) => entry.index === chosen);
  at('layer').hidden = !map || state !== 'answer';
  at('heat').hidden = at('layer').hidden;
  at('download').hidden = !photo.bitmap;
  if (!map) return;
  const name = chosenName();
  if (answer.heatmap_region) heatmap.paintPart(map, at('heat'), answer.heatmap_region);
  else heatmap.paint(map, at('heat'));
  at('heat').style.opacity = at('opacity').value / 100;
  at('basis').textContent = say(map.basis === 'logit' ? 'basisLogit' : 'basisProbability', { class: name });
  at('photo').setAttribute('aria-label', say('photoWithHeat', { name: photo.name, class: name }));
}

function chosenName() {
  const result = answer.results.find((entry) => entry.index === chosen) ?? answer.results[0];
  return className(result);
}

/** The photo with its heatmap as a PNG, with a caption. */
function picture() {
  const canvas = document.createElement('canvas');
  const [shown, context] = [at('photo'), canvas.getContext('2d')];
  const width = Math.max(shown.width, 640);
  const height = Math.round((width / shown.width) * shown.height);
  const line = Math.max(22, Math.round(width / 36));
  canvas.width = width;
  canvas.height = height + 3 * line;
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, canvas.height);
  context.drawImage(shown, 0, 0, width, height);
  context.globalAlpha = at('heat').hidden ? 0 : at('opacity').value / 100;
  context.drawImage(at('heat'), 0, 0, width, height);
  context.globalAlpha = 1;
  context.fillStyle = '#20292b';
  context.font = `600 ${Math.round(line * 0.75)}px system-ui, sans-serif`;
  const result = answer.results.find((entry) => entry.index === chosen) ?? answer.results[0];
  const caption = doubt() === 'unfamiliar' ? say('unfamiliar') : `${className(result)}: ${share(result)}`;
  context.fillText(caption, line / 2, height + line * 1.15, width - line);
  context.font = `${Math.round(line * 0.65)}px system-ui, sans-serif`;
  context.fillText(say('notice'), line / 2, height + line * 2.3, width - line);
  return canvas;
}

function download() {
  picture().toBlob((blob) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${photo.name.replace(/\.[^.]*$/, '')}-heatmap.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
}

async function copyCurl() {
  const command = curl(photo.name, at('model').value, chosen);
  try {
    await navigator.clipboard.writeText(command);
    at('copied').textContent = say('copied');
  } catch {
    // Without https there is no clipboard, so the command is shown for copying by hand.
    at('copied').textContent = command;
  }
}

// Wiring

async function showModels() {
  const listing = place === 'device' ? await device.open() : await listModels(at('token').value);
  models = listing.models.filter((model) => !model.error);
  at('model').replaceChildren(...models.map((model) => new Option(model.title || model.name, model.name)));
  if (listing.default) at('model').value = listing.default;
  at('model-row').hidden = models.length < 2;
  showNotice();
  if (place === 'device') await showMissing();
  showPlace();
}

async function openCamera() {
  problem = null;
  showProblem();
  if (!camera.isHere()) return at('file-camera').click();
  try {
    await camera.open();
  } catch (error) {
    fail(new Problem('camera', error.message));
  }
}

for (const button of document.querySelectorAll('[data-language]')) {
  button.addEventListener('click', () => { speak(button.dataset.language); speakAll(); });
}
for (const input of [at('file'), at('file-camera')]) {
  input.addEventListener('change', () => { take(input.files[0]); input.value = ''; });
}
for (const button of document.querySelectorAll('[data-restart]')) button.addEventListener('click', restart);
const clicks = {
  choose: () => at('file').click(),
  'camera-open': openCamera,
  'turn-left': () => turn(-1),
  'turn-right': () => turn(1),
  whole: () => { photos.uncrop(photo); cropTo(photo.crop); },
  cancel: () => stop(),
  download,
  curl: copyCurl,
  prove,
  'loading-start': loadModel,
  'use-server': () => choosePlace('server'),
};
for (const [id, act] of Object.entries(clicks)) at(id).addEventListener('click', act);
at('form').addEventListener('submit', (event) => { event.preventDefault(); look(); });
at('opacity').addEventListener('input', () => { at('heat').style.opacity = at('opacity').value / 100; });
at('model').addEventListener('change', () => {
  showNotice();
  if (place === 'device') showMissing();
});
for (const input of document.querySelectorAll('[name="place"]')) {
  input.addEventListener('change', () => choosePlace(input.value));
}
at('token').addEventListener('change', () => showModels().catch(fail));
crop.wire(at('crop'), () => photo.crop, cropTo);
camera.wire(take, (error) => fail(new Problem('camera', error.message)));

document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((entry) => entry.type.startsWith('image/'));
  if (file) take(file);
});
for (const type of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle('over', type === 'dragover');
    if (type === 'drop') take(event.dataTransfer.files[0]);
  });
}

heatmap.paintScale(at('legend'));
enter('empty');
showModels().catch((error) => fail(error instanceof Problem ? error : new Problem('offline', error.message)));

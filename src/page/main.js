// The page: from a chosen photo to its answer. It has one state at a time; elements are shown in the states
// listed in their data-in. Words, photo, crop, heatmap, camera and requests are separate modules.

import { doubt, doubtWords, row, share, showDoubt, timing } from './answer.js';
import * as camera from './camera.js';
import * as crop from './crop.js';
import * as device from './device.js';
import * as heatmap from './heatmap.js';
import * as photos from './photo.js';
import { copy, picture, save } from './report.js';
import { curl, listModels, predict, Problem } from './send.js';
import * as visit from './visit.js';
import { className, day, language, percent, problemWords, say, size, speak } from './words.js';

const at = (id) => document.getElementById(id);
let state = 'empty';
let photo = null;
let models = [];
let answer = null;
let chosen = null;
let problem = null;
// The result of this visit that is shown, if it is one, and the place in a batch that is being sent.
let current = null;
let batch = null;
let stop = () => {};
// The photo that is being opened, if one is: of several only the last one chosen is shown.
let opening = null;

// Where photos are looked at: the service says where it may be, and the user chooses if it says both.
const mayBe = document.body.dataset.page;
let place = mayBe === 'both' ? device.remembered() ?? 'server' : mayBe;
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
  showVisit();
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
  at('problem').classList.toggle('doubt', problem.kind === 'unfamiliar');
  at('problem-title').textContent = title;
  at('problem-text').textContent = advice;
  at('problem-detail').textContent = problem.message;
  at('use-server').hidden = place === 'server' || mayBe !== 'both';
}

// Where photos are looked at

/** Only a page loaded anew may send again, once the device was chosen. */
function choosePlace(next) {
  device.remember(next);
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
  const key = { missing: 'loadFirst', loading: 'loadingModel', ready: 'loaded', unkept: 'unkept' }[loading.state];
  at('loading-text').textContent = say(key, { size: size(loading.bytes), percent: percent(loading.share * 100, 0) });
}

/** Shows what still has to be loaded for the chosen model. */
async function showMissing() {
  const bytes = await device.missing(at('model').value);
  loading = { state: bytes ? 'missing' : await device.registered ? 'ready' : 'unkept', bytes, share: 0 };
  showPlace();
}

async function loadModel() {
  loading = { ...loading, state: 'loading' };
  showPlace();
  try {
    const { isKept } = await device.load(at('model').value, (share) => { loading.share = share; showPlace(); }).ready;
    loading.state = isKept ? 'ready' : 'unkept';
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

async function take(files) {
  const list = [...files];
  if (!list.length || state === 'busy') return;
  [problem, answer, chosen, current] = [null, null, null, null];
  if (list.length > 1) return lookAtAll(list);
  if (!await replace(() => opened(list[0]))) return;
  enter('edit');
  at('edit-title').focus();
  at('stage').scrollIntoView();
}

/** What is sent shrunk is made of the shown photo; on the device it is looked at whole. */
const opened = (file) => (place === 'device' ? photos.open(file, photos.SHOWN_PIXELS, true) : photos.open(file, photos.MOST_PIXELS));

/** Opens a photo in place of the shown one. Returns whether it is shown now; not if another was chosen meanwhile. */
async function replace(open) {
  letGo();
  const mine = open();
  opening = mine;
  const next = await mine;
  if (opening !== mine) return photos.close(next);
  opening = null;
  photo = next;
  return true;
}

/** Gives the shown photo's memory back, before another one takes as much. */
function letGo() {
  opening = null;
  photos.close(photo);
  for (const id of ['photo', 'heat']) at(id).width = 0;
}

function restart() {
  letGo();
  [photo, answer, problem, current] = [null, null, null, null];
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
  showShrink(width, height);
  const facts = { name: photo.name, width, height, size: size(photo.file.size) };
  at('facts').textContent = say(isShown ? 'facts' : 'factsUnshown', facts);
  if (!isShown) return at('stage').style.setProperty('--ratio', 1.5);
  // The whole photo is shown during cropping, afterwards only the part that was sent.
  const seen = state === 'edit' ? { x: 0, y: 0, width: 1, height: 1 } : photo.crop;
  const [fullWidth, fullHeight] = photos.turnedSize(photo);
  photos.show(photo, at('photo'), seen);
  at('stage').style.setProperty('--ratio', (fullWidth * seen.width) / (fullHeight * seen.height));
  showCrop();
}

function showShrink(width, height) {
  const by = photos.shrinking(photo);
  at('shrink-row').hidden = by === 1;
  at('shrink').hidden = photos.mustShrink(photo);
  at('shrink-words').textContent = say('shrink', { from: `${width} × ${height}`, to: `${Math.round(width * by)} × ${Math.round(height * by)}` });
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
  showShrink(width, height);
  at('facts').textContent = say('facts', { name: photo.name, width, height, size: size(photo.file.size) });
  const parts = { width: Math.round(next.width * 100), height: Math.round(next.height * 100) };
  at('status').textContent = say('cropSays', parts);
}

function turn(quarters) {
  photos.turn(photo, quarters);
  showPhoto();
}

// Sending

/** The answer to the photo; null if cancelled. */
async function ask() {
  let isStopped = false;
  stop = () => { isStopped = true; };
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
  return post(false).catch((error) => {
    if (error.mayEncode && photo.bitmap) return post(true);
    throw error;
  });
}

async function look() {
  if (state !== 'edit' || opening) return;
  problem = null;
  enter('busy');
  progress('preparing');
  at('cancel').focus();
  try {
    const found = await ask();
    if (!found) return cancelled();
    keep({ answer: found });
    showResult();
  } catch (error) {
    enter('edit');
    fail(error);
    at('look').focus();
  }
}

/** Sends several photos one after another, whole, and shows the first result. */
async function lookAtAll(files) {
  const first = visit.results.at(-1);
  // Nothing else may be chosen while the first one is opened.
  state = 'busy';
  for (const [index, file] of files.entries()) {
    batch = { at: index + 1, count: files.length };
    letGo();
    photo = await opened(file);
    enter('busy');
    progress('preparing');
    at('cancel').focus();
    try {
      const found = await ask();
      if (!found) break;
      keep({ answer: found });
    } catch (error) {
      if (error.kind === 'token') {
        batch = null;
        enter('edit');
        return fail(error);
      }
      keep({ problem: { kind: error.kind ?? 'other', seconds: error.seconds, message: error.message } });
    }
  }
  batch = null;
  const added = visit.results.slice(visit.results.indexOf(first) + 1);
  const shown = added.find((result) => result.answer) ?? added[0];
  if (shown) return open(shown);
  restart();
  at('status').textContent = say('cancelled');
}

/** Keeps a result of this photo for this visit. */
function keep(result) {
  const name = result.answer?.model.name ?? at('model').value;
  const title = models.find((model) => model.name === name)?.title || name;
  current = { name: photo.name, date: Date.now(), title, place, picture: photo.bitmap && visit.small(at('photo')), ...result };
  visit.add(current);
  if (result.answer && loading) loading.state = result.answer.isKept ? 'ready' : 'unkept';
}

/** Shows a kept result. */
async function open(result) {
  if (!await replace(() => visit.photoOf(result))) return;
  current = result;
  problem = null;
  if (result.answer) return showResult();
  answer = null;
  enter('empty');
  fail(new Problem(result.problem.kind, `${result.name}: ${result.problem.message}`, result.problem.seconds));
}

function showResult() {
  answer = current.answer;
  chosen = answer.heatmap_maps?.[0].index ?? null;
  for (const id of ['zoom', 'compare']) at(id).value = at(id).min;
  heatmap.showLayers(at);
  enter('answer');
  at('answer-title').focus();
  const best = answer.results[0];
  const said = { class: className(best), percent: share(answer, best), count: answer.results.length };
  // What is in doubt is announced with the heading, which has the focus, and the class is not.
  at('status').textContent = doubt(answer) ? doubtWords(answer) : say('answerSays', said);
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
  const several = batch ? `${say('ofSeveral', batch)} ` : '';
  const words = several + say(key, { percent: percent(value ?? 0, 0) });
  at('stage-of-work').textContent = words;
  if (value === undefined) at('progress').removeAttribute('value');
  else at('progress').value = value;
  // Announced once per stage, not for every per cent.
  if (at('status').dataset.stage !== key) at('status').textContent = words;
  at('status').dataset.stage = key;
}

// The answer

function showAnswer() {
  const maps = answer.heatmap_maps ?? [];
  showDoubt(answer, at);
  const rows = answer.results.map((result) => row(answer, result, chosen, (index) => { chosen = index; showMap(); }));
  at('classes').replaceChildren(...rows);
  at('missing').hidden = maps.length > 0;
  at('missing').textContent = say('noHeatmap', { why: answer.heatmap_missing });
  at('timing').textContent = timing(answer, current.place);
  at('report').textContent = reportLine();
  at('unkept').hidden = answer.isKept !== false;
  at('copied').textContent = '';
  showMap();
}

function showMap() {
  const map = answer.heatmap_maps?.find((entry) => entry.index === chosen);
  at('layer').hidden = !map || !photo.bitmap || state !== 'answer';
  at('heat').hidden = at('layer').hidden;
  at('download').hidden = !photo.bitmap;
  if (!map) return;
  const name = className(chosenResult());
  if (answer.heatmap_region) heatmap.paintPart(map, at('heat'), answer.heatmap_region);
  else heatmap.paint(map, at('heat'));
  heatmap.showLayers(at);
  at('basis').textContent = say(map.basis === 'logit' ? 'basisLogit' : 'basisProbability', { class: name });
  at('photo').setAttribute('aria-label', say('photoWithHeat', { name: photo.name, class: name }));
}

/** Which model looked at which photo, and when. */
function reportLine() {
  return say('report', { name: current.name, title: current.title, date: day(current.date) });
}

function chosenResult() {
  return answer.results.find((entry) => entry.index === chosen) ?? answer.results[0];
}

function download() {
  const result = chosenResult();
  const caption = doubt(answer) === 'unfamiliar' ? say('unfamiliar') : `${className(result)}: ${share(answer, result)}`;
  const lines = [caption, reportLine(), say('notice'), answer.model.notice];
  const opacity = at('heat').hidden ? 0 : at('opacity').value / 100;
  picture(at('photo'), at('heat'), opacity, lines)
    .toBlob((blob) => save(blob, `${photo.name.replace(/\.[^.]*$/, '')}-heatmap.png`));
}

// The photos of this visit

function showVisit() {
  at('visit').hidden = !visit.results.length || state === 'busy';
  at('strip').replaceChildren(...visit.strip(state === 'answer' ? current : null, open));
}

function forgetAll() {
  visit.forget();
  restart();
}

/** Examples are loaded when they are asked for. */
async function example(number) {
  const name = `example-${number}.jpg`;
  const response = await fetch(`page/${name}`).catch((error) => fail(new Problem('offline', error.message)));
  if (response) take([new File([await response.blob()], name, { type: 'image/jpeg' })]);
}

async function copyCurl() {
  const command = curl(photo.name, at('model').value, chosen);
  // Without https there is no clipboard, so the command is shown for copying by hand.
  at('copied').textContent = await copy(command) ? say('copied') : command;
}

// Wiring

async function showModels() {
  at('shrink').checked = place !== 'device';
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
  input.addEventListener('change', () => { take(input.files); input.value = ''; });
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
  table: () => save(new Blob([visit.table()], { type: 'text/csv' }), 'skincell.csv'),
  forget: forgetAll,
  print: () => window.print(),
  prove,
  'loading-start': loadModel,
  'use-server': () => choosePlace('server'),
};
for (const [id, act] of Object.entries(clicks)) at(id).addEventListener('click', act);
at('form').addEventListener('submit', (event) => { event.preventDefault(); look(); });
for (const id of ['opacity', 'compare', 'zoom']) at(id).addEventListener('input', () => heatmap.showLayers(at));
for (const button of document.querySelectorAll('[data-example]')) {
  button.addEventListener('click', () => example(button.dataset.example));
}
at('model').addEventListener('change', () => {
  showNotice();
  if (place === 'device') showMissing();
});
for (const input of document.querySelectorAll('[name="place"]')) {
  input.addEventListener('change', () => choosePlace(input.value));
}
at('token').addEventListener('change', () => showModels().catch(fail));
crop.wire(at('crop'), () => photo.crop, cropTo);
camera.wire((file) => take([file]), (error) => fail(new Problem('camera', error.message)));
photos.wire(take);

heatmap.paintScale(at('legend'));
enter('empty');
at('unstarted').remove();
showModels().catch((error) => fail(error instanceof Problem ? error : new Problem('offline', error.message)));

// Requests to the service: the models, and the answer to a photo; and its problems.

/** Kinds of problems that people can do something about, by the name of their RFC 9457 type. */
const KINDS = {
  photo: ['not-an-image', 'unsupported-image-feature', 'missing-image', 'no-body', 'unsupported-content-type', 'several-photos'],
  heic: ['heic'],
  avif: ['avif'],
  unfamiliar: ['unfamiliar-photo'],
  damaged: ['truncated-image', 'broken-image', 'empty-image', 'too-much-metadata'],
  large: ['body-too-large', 'too-many-pixels', 'image-needs-too-much-memory', 'out-of-memory'],
  torn: ['body-interrupted', 'body-too-slow', 'bad-form'],
  busy: ['busy', 'draining', 'too-many-requests', 'rate-limited'],
  slow: ['inference-timeout', 'deadline'],
  model: ['unknown-model', 'model-not-granted', 'model-unavailable', 'unknown-class'],
  token: ['unauthorized', 'missing-token', 'wrong-token'],
};

/** Problems with formats and features that a browser may still decode. A damaged file is not among them. */
const MAY_ENCODE = ['not-an-image', 'heic', 'avif', 'unsupported-image-feature', 'image-needs-too-much-memory'];

/** A problem: its kind, and the service's own message. */
export class Problem extends Error {
  constructor(kind, detail, seconds, mayEncode = false) {
    super(detail);
    Object.assign(this, { kind, seconds, mayEncode });
  }
}

/** The problem in an answer that is not one to a photo. */
export function problemOf(status, body, retryAfter) {
  const name = String(body?.type ?? '').split(':').pop();
  const known = Object.keys(KINDS).find((kind) => KINDS[kind].includes(name));
  const kind = known ?? (status === 401 ? 'token' : status === 429 || status === 503 ? 'busy' : status >= 500 ? 'fault' : 'other');
  const detail = [body?.detail ?? body?.title ?? `HTTP ${status}`, body?.request_id && `(${body.request_id})`];
  return new Problem(kind, detail.filter(Boolean).join(' '), retryAfter ?? '10', MAY_ENCODE.includes(name));
}

/** All models, and the default one. */
export async function listModels(token) {
  const response = await fetch('models', { headers: authorization(token) });
  if (!response.ok) throw problemOf(response.status, await response.json().catch(() => null), response.headers.get('retry-after'));
  return response.json();
}

/** Posts a photo. Returns a promise of the answer and a function to cancel; calls `sent` with the progress, 0 to 1. */
export function predict(file, name, model, token, sent) {
  const request = new XMLHttpRequest();
  const form = new FormData();
  form.append('image', file, name);
  const query = new URLSearchParams({ heatmap: 'maps', ...(model && { model }) });
  request.open('POST', `predict?${query}`);
  request.responseType = 'json';
  request.setRequestHeader('accept', 'application/json');
  for (const [header, value] of Object.entries(authorization(token))) request.setRequestHeader(header, value);
  // fetch does not report upload progress.
  request.upload.addEventListener('progress', (event) => event.lengthComputable && sent(event.loaded / event.total));
  request.upload.addEventListener('load', () => sent(1));
  const answer = new Promise((done, fail) => {
    request.addEventListener('load', () => {
      const { status, response } = request;
      if (status === 200 && response?.results) done(response);
      else fail(problemOf(status, response, request.getResponseHeader('retry-after')));
    });
    request.addEventListener('error', () => fail(new Problem('offline', 'No answer came.')));
    request.addEventListener('abort', () => done(null));
    request.send(form);
  });
  return { answer, stop: () => request.abort() };
}

function authorization(token) {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** A curl command for the same request with the file on the user's device. */
export function curl(name, model, chosen) {
  const query = new URLSearchParams({ ...(model && { model }), ...(chosen !== null && { class: chosen }) });
  const address = new URL(`predict?${query}`, location.href).href;
  return `curl --data-binary @${quoted(name)} -H 'Content-Type: application/octet-stream' ${quoted(address)}`;
}

// Quotes any text for a POSIX shell.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

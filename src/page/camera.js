// The camera: a viewfinder in a dialog, or the phone's own camera app if the page may not use the camera.

const at = (id) => document.getElementById(id);
let stream = null;
let facing = 'environment';

/** Whether this page may use a camera: only over https or on localhost. */
export const isHere = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Connects the dialog; `take` receives each photo as a file, `fail` the browser's error. */
export function wire(take, fail) {
  const dialog = at('camera');
  at('shutter').addEventListener('click', async () => {
    const photo = await still(at('viewfinder'));
    dialog.close();
    take(photo);
  });
  at('camera-turn').addEventListener('click', () => {
    facing = facing === 'user' ? 'environment' : 'user';
    start().catch((error) => { dialog.close(); fail(error); });
  });
  at('camera-close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', stop);
}

/** Opens the viewfinder. */
export async function open() {
  await start();
  at('camera').showModal();
}

async function start() {
  stop();
  const video = { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1440 } };
  stream = await navigator.mediaDevices.getUserMedia({ video });
  at('viewfinder').srcObject = stream;
  await at('viewfinder').play();
}

// Without this the camera's light would stay on.
function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
}

function still(video) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d').drawImage(video, 0, 0);
  return new Promise((done) => {
    canvas.toBlob((blob) => done(new File([blob], 'camera.jpg', { type: blob.type })), 'image/jpeg', 0.92);
  });
}

"""Shows a picture in Chromium, without a window, and reads the pixels back. Debian's Chromium, or the one that the
variable CHROMIUM names. It leaves out animations: the first frame counts."""

import base64
import io
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from PIL import Image

PAGE = """<body><script>
const image = new Image();
image.onerror = () => { document.body.textContent = 'not shown'; };
image.onload = () => {
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  document.body.textContent = canvas.toDataURL('image/png');
};
image.src = 'data:application/octet-stream;base64,%s';
</script>"""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--dump-dom"]


def shown(path):
    """The picture as Chromium shows it on white, in RGB; None if it does not."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not program:
        raise SystemExit("no Chromium: apt-get install chromium, or set CHROMIUM")
    with tempfile.TemporaryDirectory(prefix="skincell-browser-") as folder:
        page = pathlib.Path(folder, "page.html")
        page.write_text(PAGE % base64.b64encode(pathlib.Path(path).read_bytes()).decode())
        command = [program, *FLAGS, f"--user-data-dir={folder}/profile", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", done.stdout)
    return Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB") if found else None

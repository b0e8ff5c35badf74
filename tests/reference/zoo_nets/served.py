"""Prepares and serves a model with `skincell`; returns the answers to photos by each engine in turn."""

import contextlib
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[3]
BINARY = os.environ.get("SKINCELL", str(ROOT / "target/release/skincell"))
COMPONENT = ROOT / "target/wasm32-wasip2/release/skincell.wasm"
PHOTOS = ["drawn-acne-1.jpg", "skin.jpg", "coffee.webp"]
CLASSES = 7

MANIFEST = """spin_manifest_version = 2
[application]
name = "zoo"
[[trigger.http]]
route = "/..."
component = "skincell"
[component.skincell]
source = "{component}"
files = ["models/*/card.json"]
ai_models = ["net"]
[component.skincell.environment]
SKINCELL_MODEL = "net"
ENABLE_GRADCAM = "true"
[component.skincell.tool.skincell]
models = "models"
"""


class Refused(Exception):
    """`model prepare` refused the model; holds the reason."""


def photos(width, height):
    """The photos at the input's size, uint8 [height, width, 3], so that the service does not resize them."""
    opened = (Image.open(ROOT / "tests/photos" / name).convert("RGB") for name in PHOTOS)
    return [np.asarray(photo.resize((width, height), Image.LANCZOS)) for photo in opened]


def prepare(file, folder, flags):
    """Prepares a model as folder/models/net; returns its card and the printed report."""
    labels = ",".join(f"class {i}" for i in range(CLASSES))
    command = [BINARY, "model", "prepare", file, "--labels", labels, "-o", folder / "models/net", "--force", *flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(done.stderr.strip().removeprefix("error: "))
    return json.loads((folder / "models/net/card.json").read_text()), done.stdout


def engines(folder):
    """The engines that can run the folder, beginning with the default one."""
    packed = ["cellnet"] if (folder / "models/net/model.cell").exists() else []
    library = ["onnxruntime"] if os.environ.get("ORT_DYLIB_PATH") else []
    return [*packed, *library, "rten"]


@contextlib.contextmanager
def served(folder, engine, cache):
    """Serves the folder with one engine; yields a function from a photo to the answer's JSON."""
    manifest = folder / "spin.toml"
    manifest.write_text(MANIFEST.format(component=COMPONENT))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [BINARY, "up", "-f", str(manifest), "--listen", f"127.0.0.1:{port}", "--threads", "1", "--engine", engine,
               "--cache-dir", str(cache), "--request-timeout", "120s"]
    with open(folder / "log", "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/healthz", timeout=1):
                break
            if child.poll() is not None:
                raise RuntimeError((folder / "log").read_text()[-500:])
            time.sleep(0.1)
        yield lambda photo: ask(address, photo)
    finally:
        child.terminate()
        child.wait()


def ask(address, photo):
    """The answer to one photo: all classes, and their maps as numbers."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    request = urllib.request.Request(f"{address}/predict?heatmap=maps&top_k={CLASSES}", data=file.getvalue(),
                                     headers={"Content-Type": "image/png"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=180))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode()[:500]}") from None

"""Installs the software that skincell is compared with into `bench/.env`, from PyPI and Rust's registry.

    python3 bench/setup.py [python] [keras] [model] [wasmtime]     all if none is named

python    FastAPI, uvicorn, ONNX Runtime and OpenVINO, in a virtual environment
keras     TensorFlow, Keras and gunicorn, in another
model     EfficientNetV2-S, 300x300, 7 classes, seeded weights: for Keras, as ONNX, prepared for skincell
          and packed, and as OpenVINO's own files; the same weights in all of them
wasmtime  `wasmtime serve` with wasi-nn, built from source: half an hour on two cores

A step that was done before is skipped; delete its folder in `bench/.env` to repeat it. `model` needs
`python`, `keras` and the release build of skincell.
"""

import json
import os
import shutil
import subprocess
import sys

from peers import APP, COMPONENT, ENV, KERAS, MODEL, ONNX, OPENVINO, PYTHON, SAVED, WASMTIME
from service import BINARY, ROOT

WASMTIME_VERSION = "48.0.8"  # the runner's own
WASMTIME_FEATURES = (
    "run,serve,wasi-nn,wasi-http,wasi-config,cranelift,cache,component-model,component-model-async,"
    "parallel-compilation,pooling-allocator,threads,demangle,logging,compile,gc,gc-null"
)
LABELS = ROOT / "models" / "labels" / "skin.txt"


def run(*command, **options):
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)


def environment(folder, requirements):
    """A virtual environment with these requirements; an incomplete one is made again."""
    done = folder / "done"
    if done.exists() and done.read_text() == requirements.read_text():
        return
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    done.write_text(requirements.read_text())


def python():
    environment(PYTHON, ROOT / "bench" / "peers" / "requirements.txt")
    # The crate openvino looks for a name without a version, which the wheel does not have.
    libraries = ENV / "openvino-libs"
    libraries.mkdir(exist_ok=True)
    for real in PYTHON.glob("lib/python3*/site-packages/openvino/libs/lib*.so*"):
        for link in {libraries / real.name, libraries / (real.name.split(".so")[0] + ".so")}:
            link.unlink(missing_ok=True)
            link.symlink_to(real)


def keras():
    environment(KERAS, ROOT / "bench" / "peers" / "keras-requirements.txt")


def model():
    """The model in the format of every server."""
    if not (SAVED.exists() and ONNX.exists()):
        run(KERAS / "bin" / "python", ROOT / "bench" / "gradcam.py", "make", SAVED.parent,
            env=os.environ | {"SKINCELL": str(BINARY)})  # fmt: skip
    folder = APP / "models" / MODEL
    if not (folder / "model.cell").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        run(BINARY, "model", "prepare", ONNX, "--labels", LABELS, "-o", folder, "--force")
    manifest = (ROOT / "spin.toml").read_text()
    wasm = str(COMPONENT.relative_to(ROOT))
    for old, new in [(wasm, str(COMPONENT)), ('["skin", "imagenet"]', f'["{MODEL}"]'),
                     ('SKINCELL_MODEL = "skin"', f'SKINCELL_MODEL = "{MODEL}"')]:  # fmt: skip
        assert old in manifest, old
        manifest = manifest.replace(old, new)
    (APP / "spin.toml").write_text(manifest)
    for_openvino(folder)


CONVERT = """
import json, sys, openvino
model = openvino.convert_model(sys.argv[1])
openvino.save_model(model, sys.argv[2] + "/model.xml", compress_to_fp16=False)
print(json.dumps([output.get_any_name() for output in model.outputs]))
"""


def for_openvino(prepared):
    """The prepared graph as OpenVINO's files. The card gives the outputs by number, because wasi-nn over
    OpenVINO names them so."""
    folder = OPENVINO / MODEL
    if (folder / "card.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [PYTHON / "bin" / "python", "-c", CONVERT, prepared / "model.onnx", folder]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    names = json.loads(done.stdout.splitlines()[-1])
    card = json.loads((prepared / "card.json").read_text())
    for part in (card["output"], card["gradcam"]):
        key = "name" if part is card["output"] else "output"
        part[key] = str(names.index(part[key]))
    (folder / "card.json").write_text(json.dumps(card, indent=1))


def wasmtime():
    if not WASMTIME.exists():
        run("cargo", "install", "wasmtime-cli", "--version", WASMTIME_VERSION, "--locked", "--root",
            WASMTIME.parents[1], "--no-default-features", "--features", WASMTIME_FEATURES,
            env=os.environ | {"CARGO_TARGET_DIR": str(ENV / "wasmtime-target")})  # fmt: skip
        shutil.rmtree(ENV / "wasmtime-target", ignore_errors=True)


def main():
    steps = {"python": python, "keras": keras, "model": model, "wasmtime": wasmtime}
    asked = sys.argv[1:] or list(steps)
    if any(word not in steps for word in asked):
        raise SystemExit(__doc__)
    ENV.mkdir(exist_ok=True)
    for word in steps:
        if word in asked:
            steps[word]()
            print(f"{word}: there", flush=True)


if __name__ == "__main__":
    main()

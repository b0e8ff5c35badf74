"""Engines by themselves, one run for each line, so that a bench can let them take turns with a service.

cellnet and rten are the examples `cell` and `rten_serve` of the crate cellnet, ONNX Runtime is its own Python
package: `cargo build --release -p cellnet --examples --features pack`, `python3 bench/setup.py python`.
"""

import array
import random
import subprocess
import tempfile

from peers import APP, MODEL, PYTHON
from service import ROOT

EXAMPLES = ROOT / "target" / "release" / "examples"
FOLDER = APP / "models" / MODEL
ELEMENTS = 300 * 300 * 3


class Bare:
    """A process that runs the model once when asked."""

    def __init__(self, engine, threads, folder=FOLDER):
        random.seed(1)
        self.photo = tempfile.NamedTemporaryFile(suffix=".bin")
        array.array("f", (random.uniform(0, 255) for _ in range(ELEMENTS))).tofile(self.photo)
        self.photo.flush()
        commands = {
            "cellnet": [EXAMPLES / "cell", "serve", folder / "model.cell", self.photo.name, "--threads", threads],
            "rten": [EXAMPLES / "rten_serve", folder / "model.onnx", self.photo.name, "--threads", threads],
            "onnxruntime": [PYTHON / "bin" / "python", ROOT / "bench" / "peers" / "onnxruntime_serve.py",
                            folder / "model.onnx", threads],
        }  # fmt: skip
        command = [str(word) for word in commands[engine]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def run(self):
        """Milliseconds of one run, and whatever else its line says."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().split()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended")
        return float(line[0]), *map(int, line[1:])

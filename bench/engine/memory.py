"""Measures the memory of a process that runs a `model.cell`, and its start-up time.

    python memory.py CELL_BINARY MODEL.onnx [--threads 1] [--keep]

Prints private memory (RssAnon) in excess of the same process before it opened the model, mapped file pages
(RssFile), time to open, the first run relative to the steady median (page cache warm), and the file's size
relative to the raw weights. The process is started several times and medians decide. Exits with 1 if a figure
exceeds its promise. Needs `numpy` and `onnx`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from results import Results
from served import Waiting, status

# Limits: MiB of private memory, milliseconds to open, first run over steady run, file over weights.
PRIVATE, OPEN, FIRST, FILE = 12.0, 5.0, 1.5, 1.12
STARTS = 7


def one_process(command):
    """Milliseconds to open, of the first run, of a steady one; private MiB above empty, file MiB."""
    process = Waiting(command)
    opened = process.run()
    times = [process.run() for _ in range(15)]
    private, file = process.private(), status(process.process.pid, "RssFile")
    process.close()
    return opened, times[0], float(np.median(times[3:])), private, file


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cell")
    parser.add_argument("model")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    graph = onnx.load(args.model).graph
    raw = sum(4 * int(np.prod(i.dims)) for i in graph.initializer if i.data_type == 1)
    dims = [d.dim_value or 1 for d in graph.input[0].type.tensor_type.shape.dim]
    with tempfile.TemporaryDirectory() as folder:
        cell, photo = Path(folder) / "model.cell", Path(folder) / "input.bin"
        subprocess.run([args.cell, "pack", args.model, str(cell)], check=True,
                       stdout=subprocess.DEVNULL)
        np.random.default_rng(1).uniform(-1, 1, dims).astype(np.float32).tofile(photo)
        command = [args.cell, "serve", str(cell), str(photo), "--threads", args.threads, "--wait"]
        seen = [one_process(command) for _ in range(STARTS)]
        size = cell.stat().st_size
    opened, first, steady, private, file = np.median(seen, axis=0)
    model, results = Path(args.model).stem, Results(args.keep)
    results.add("2", f"{model}: private memory above an empty process", private, PRIVATE, "MiB",
                f"pages of the file {file:.1f} MiB")
    results.add("2", f"{model}: file beside the raw weights", size / raw, FILE, note=f"{size / 1e6:.2f} MB")
    results.add("2", f"{model}: time to open", opened, OPEN, "ms")
    results.add("2", f"{model}: first run beside a steady one, page cache warm",
                float(np.median([s[1] / s[2] for s in seen])), FIRST, note=f"{first:.1f} and {steady:.1f} ms")
    sys.exit(results.end())


if __name__ == "__main__":
    main()

"""Compares cellnet with rten, both compiled to Wasm and run by wasmtime, alternating.

    python wasm.py WASI_RUN CELL_BINARY CELL.wasm RTEN_SERVE.wasm MODEL.onnx ... [--rounds 10] [--keep]

WASI_RUN is `wasi-run` of `portable/host`; the Wasm files are the examples of the crate, built by `cargo build
--release --target wasm32-wasip2 -p cellnet --features beside-rten --example cell --example rten_serve`.
CELL_BINARY, the native example, packs. Both use one thread (Wasm has no more) on the same core. Exits with 1
if the ratio exceeds its promise. Needs `numpy`, `onnx` and `onnxruntime` (for the shape of the input).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from compare import make_input, name_of, runtime
from results import Results
from served import Serve, take_turns

# Largest promised ratio to rten's time.
RATIO = 0.4


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wasi_run")
    parser.add_argument("cell_binary")
    parser.add_argument("cell_wasm")
    parser.add_argument("rten_wasm")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    results = Results(args.keep)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for model in map(Path, args.models):
        with tempfile.TemporaryDirectory() as folder:
            cell = Path(folder) / "model.cell"
            subprocess.run([args.cell_binary, "pack", model, cell], check=True, stdout=subprocess.DEVNULL)
            _, _, path = make_input(runtime(str(model), 1), folder)
            host = [args.wasi_run, "--dir", folder, "--dir", str(model.parent.resolve())]
            serves = {
                "cellnet": Serve([*host, args.cell_wasm, "serve", str(cell), str(path)]),
                "rten": Serve([*host, args.rten_wasm, str(model.resolve()), str(path)]),
            }
            times, cpu = take_turns(serves, args.rounds)
            for serve in serves.values():
                serve.close()
            p50 = {engine: np.median(t) for engine, t in times.items()}
            own = {engine: np.median(t) for engine, t in cpu.items()}
            note = f"{p50['cellnet']:.0f} and {p50['rten']:.0f} ms, on the processor {own['cellnet'] / own['rten']:.2f} x"
            results.add("6", f"{name_of(model)}: time beside rten, both in Wasm", p50["cellnet"] / p50["rten"],
                        RATIO, note=note)
    sys.exit(results.end())


if __name__ == "__main__":
    main()

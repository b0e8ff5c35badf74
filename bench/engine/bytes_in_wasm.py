"""Compares bytes with floats in Wasm, and with floats natively, alternating; and the baked component's size.

    python bytes_in_wasm.py WASI_RUN CELL_BINARY CELL.wasm FLOAT.cell BYTES.cell INPUT.bin [--before OTHER.wasm]
        [--small] [--bake SKINCELL PORTABLE.wasm] [--rounds 10] [--keep]

WASI_RUN is `wasi-run` of `portable/host`, CELL_BINARY and CELL.wasm the example `cell`, built natively and for
`wasm32-wasip2`. FLOAT.cell and BYTES.cell are one network in both precisions (`cell pack`), INPUT.bin is what
`compare.py` writes for it. All use one thread on the same core. Times are the least of all rounds, and beside them
the processor's own, because a machine is seldom quiet. `--before` is the same example of an earlier commit, whose
floats the bytes are promised against; without it they are those of CELL.wasm. `--small` promises by the native
time instead, as for `models/skin`. Exits with 1 if a promise is broken.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from results import Results
from served import Serve, take_turns

# Largest promised ratios: bytes to floats in Wasm, floats to those before, a small network to its native floats.
BYTES, FLOATS, NATIVE = 0.6, 0.8, 1.6
# Largest promised megabytes of the baked component of a V2-S.
BAKED = 27.0


def baked(skincell, portable, cell):
    """Megabytes of a component with this model."""
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model", Path(folder) / "baked.wasm"
        model.mkdir()
        (model / "model.cell").symlink_to(Path(cell).resolve())
        words = [skincell, "model", "bake", "--no-pack", model, "--provider", portable, "-o", out]
        subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
        return out.stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser()
    for name in ("wasi_run", "cell_binary", "cell_wasm", "float_cell", "bytes_cell", "input"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--bake", nargs=2, metavar=("SKINCELL", "PORTABLE"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    results = Results(args.keep)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    files = [path.resolve() for path in (args.float_cell, args.bytes_cell, args.input)]
    folders = sorted({str(path.parent) for path in files})
    host = [args.wasi_run, *(word for folder in folders for word in ("--dir", folder))]
    ways = {
        "floats, native": [args.cell_binary, "serve", files[0], files[2]],
        "bytes, native": [args.cell_binary, "serve", files[1], files[2]],
        "floats": [*host, args.cell_wasm, "serve", files[0], files[2]],
        "bytes": [*host, args.cell_wasm, "serve", files[1], files[2]],
    }
    if args.before:
        ways["floats before"] = [*host, args.before, "serve", files[0], files[2]]
        ways["bytes before"] = [*host, args.before, "serve", files[1], files[2]]
    ways = {way: Serve(list(map(str, command))) for way, command in ways.items()}
    times, own = take_turns(ways, args.rounds)
    least = {way: min(all_of) for way, all_of in times.items()}
    own = {way: np.mean(all_of) for way, all_of in own.items()}
    for serve in ways.values():
        serve.close()
    name = args.bytes_cell.parent.name
    for way in ways:
        print(f"  {name}, {way}: {least[way]:.1f} ms, {own[way]:.1f} ms of the processor")
    floats = "floats before" if args.before else "floats"

    def add(what, way, other, limit):
        note = f"{least[way]:.1f} and {least[other]:.1f} ms, on the processor {own[way] / own[other]:.2f} x"
        results.add("5", f"{name}, in Wasm: {what}", least[way] / least[other], limit, note=note)

    add("bytes beside floats", "bytes", floats, None if args.small else BYTES)
    if args.before:
        add("floats beside those before", "floats", "floats before", None if args.small else FLOATS)
    add("bytes beside native floats", "bytes", "floats, native", NATIVE if args.small else None)
    if args.bake:
        size = baked(*args.bake, args.bytes_cell)
        results.add("5", f"{name}: baked component", size, None if args.small else BAKED, "MB")
    sys.exit(results.end())


if __name__ == "__main__":
    main()

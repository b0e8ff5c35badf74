"""Compares a graph of 8-bit integers with the float32 graph it was made from, in cellnet, and with ONNX Runtime.

    python int8.py CELL FLOAT.onnx INT8.onnx [--rounds 30] [--photos FOLDER] [--isa NAME]

CELL is the built example `cell`; INT8.onnx comes from `skincell model quantize --to int8`. The engines run in
turns, one thread, all on the same core, on seeded noise: cellnet on both graphs, ONNX Runtime on INT8.onnx.
With `--photos`, each picture of the folder, scaled to the input and normalised by the `card.json` beside
FLOAT.onnx (NCHW, float32), is answered by cellnet on both graphs, and by ONNX Runtime on INT8.onnx with and
without its graph optimizations: the two orders of rounding show how far equal arithmetic can be apart, because
a value between two bytes becomes either. Needs numpy, onnxruntime and Pillow.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

from compare import BETWEEN, make_input, runtime, softmax
from half import outputs
from served import Serve


def plain(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def timed(cell, packed, session, rounds, isa, folder):
    name, value, path = make_input(session, folder)
    more = ["--isa", isa] if isa else []
    servers = {kind: Serve([cell, "serve", str(file), str(path), *more]) for kind, file in packed.items()}
    times = {kind: [] for kind in (*servers, "ONNX Runtime, int8")}
    for turn in range(rounds + 3):
        for kind, server in servers.items():
            times[kind].append(server.run())
        begin = time.perf_counter()
        session.run(None, {name: value})
        times["ONNX Runtime, int8"].append((time.perf_counter() - begin) * 1e3)
        time.sleep(BETWEEN)
    for server in servers.values():
        server.close()
    found = {kind: statistics.median(all_of[3:]) for kind, all_of in times.items()}
    for kind, milliseconds in found.items():
        least = min(times[kind][3:])
        print(f"  {kind}: {milliseconds:.2f} ms, at least {least:.2f}, {milliseconds / found['float32']:.3f} x float32")


def photos_of(folder, card):
    for photo in sorted(folder.rglob("*")):
        if photo.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            image = Image.open(photo).convert("RGB").resize((card["width"], card["height"]), Image.BILINEAR)
            values = (np.asarray(image, np.float32) - card["mean"]) / card["std"]
            yield np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


class Apart:
    """How far the answers of two engines are apart, over all photos."""

    def __init__(self):
        self.same, self.count, self.points, self.maps = 0, 0, 0.0, []

    def add(self, a, b):
        p, q = softmax(a["logits"]), softmax(b["logits"])
        top = p.argmax()
        self.same, self.count = self.same + int(top == q.argmax()), self.count + 1
        self.points = max(self.points, 100 * np.abs(p - q).max())
        maps = [np.maximum(of["cam"].reshape(p.size, -1)[top], 0) for of in (a, b) if "cam" in of]
        if len(maps) == 2 and all(each.std() > 0 for each in maps):
            self.maps.append(np.corrcoef(*maps)[0, 1])

    def __str__(self):
        maps = f", heatmaps correlate {np.mean(self.maps):.4f} in the mean, {min(self.maps):.4f} at least"
        return (f"{self.same} of {self.count} the same class, probabilities change by at most "
                f"{self.points:.2f} points{maps if self.maps else ''}")


def answered(cell, packed, graph, photos, card, isa, folder):
    sessions = {"ONNX Runtime": runtime(graph, 1), "ONNX Runtime, plain": plain(graph)}
    pairs = [("float32", "int8"), ("ONNX Runtime", "int8"), ("ONNX Runtime", "ONNX Runtime, plain")]
    apart = {pair: Apart() for pair in pairs}
    for values in photos_of(photos, card):
        given = folder / "photo.bin"
        values.tofile(given)
        found = {kind: outputs(cell, file, given, folder / kind, isa) for kind, file in packed.items()}
        for kind, session in sessions.items():
            names = [o.name for o in session.get_outputs()]
            results = session.run(names, {session.get_inputs()[0].name: values})
            found[kind] = {name: np.asarray(result).ravel() for name, result in zip(names, results)}
        for (a, b), each in apart.items():
            each.add(found[a], found[b])
    for (a, b), each in apart.items():
        print(f"  {b} beside {a}: {each}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell")
    parser.add_argument("float32")
    parser.add_argument("int8")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--isa")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        packed = {kind: folder / f"{kind}.cell" for kind in ("float32", "int8")}
        for kind, more in (("float32", []), ("int8", ["half"])):
            subprocess.run([args.cell, "pack", getattr(args, kind), packed[kind], "all", *more], check=True,
                           stdout=subprocess.DEVNULL)
        sizes = {kind: file.stat().st_size for kind, file in packed.items()}
        print(f"{args.int8}: {sizes['int8']} bytes packed, {sizes['int8'] / sizes['float32']:.3f} x float32")
        timed(args.cell, packed, runtime(args.int8, 1), args.rounds, args.isa, folder)
        if args.photos:
            card = json.loads(Path(args.float32).with_name("card.json").read_text())["input"]
            answered(args.cell, packed, args.int8, args.photos, card, args.isa, folder)


if __name__ == "__main__":
    main()

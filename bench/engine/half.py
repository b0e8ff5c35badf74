"""Compares weights of 16 bits with float32 in cellnet: size of the file, time, answers.

    python half.py CELL MODEL.onnx [MODEL.onnx ...] [--runs 30] [--photos FOLDER [--fp16]]

CELL is the built example `cell`. Both files are packed from the same graph and run in turns, one thread, on
seeded noise. Time is the ratio of the two medians. With `--photos`, each picture of the folder, scaled to the
input and normalised by the `card.json` beside the model (NCHW, float32), is answered by both too. `--fp16` also
converts the graph to half precision as onnxconverter-common does, whole (like PyTorch's `.half()`) and with inputs
and outputs in float32, and compares cellnet on that file with ONNX Runtime on it.
Needs numpy, onnx and Pillow; `--fp16` needs onnxruntime and its `sympy`. Exits with 1 if a figure is above what is promised.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

FILE, TIME, POINTS, HEATMAP = 0.56, 1.03, 0.1, 0.9999


def outputs(cell, packed, given, folder, isa=None):
    folder.mkdir(exist_ok=True)
    subprocess.run([cell, "run", packed, given, folder, *(["--isa", isa] if isa else [])], check=True)
    return {p.stem: np.fromfile(p, np.float32) for p in sorted(folder.iterdir())}


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def tensors_of(model, photos):
    card = json.loads(Path(model).with_name("card.json").read_text())["input"]
    for photo in sorted(photos.rglob("*")):
        if photo.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            image = Image.open(photo).convert("RGB").resize((card["width"], card["height"]), Image.BILINEAR)
            values = (np.asarray(image, np.float32) - card["mean"]) / card["std"]
            yield np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def answers(cell, model, engines, photos, folder):
    """Compares two engines by the worst change of a probability in points, and of the likeliest class's map as a
    correlation. An engine is a packed file, or a session of ONNX Runtime on half precision."""
    points, least, count = 0.0, 1.0, 0
    for values in tensors_of(model, photos):
        given = folder / "photo.bin"
        values.tofile(given)
        found = []
        for name, engine in engines.items():
            if isinstance(engine, Path):
                found.append(outputs(cell, engine, given, folder / name))
            else:
                names, entry = [o.name for o in engine.get_outputs()], engine.get_inputs()[0]
                values = values.astype(np.float16 if entry.type == "tensor(float16)" else np.float32)
                results = engine.run(names, {entry.name: values})
                found.append({name: np.asarray(each, np.float32).ravel() for name, each in zip(names, results)})
        p, q = (softmax(each["logits"]) for each in found)
        points, count = max(points, 100 * np.abs(p - q).max()), count + 1
        maps = [np.maximum(of["cam"].reshape(len(p), -1)[p.argmax()], 0) for of in found]
        if all(each.std() > 0 for each in maps):
            least = min(least, np.corrcoef(*maps)[0, 1])
    print(f"  {count} photos, {' beside '.join(reversed(engines))}: probabilities change by at most {points:.3f} points, "
          f"heatmaps correlate {least:.6f} at least")
    return points, least


def in_half_precision(cell, model, photos, folder):
    """Compares cellnet on files in half precision with ONNX Runtime on them, and with cellnet on the float32 file."""
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16

    right = True
    for kind, keeps in (("whole", False), ("inside", True)):
        file, packed = folder / f"{kind}.onnx", folder / f"{kind}.cell"
        onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=keeps), file)
        subprocess.run([cell, "pack", file, packed], check=True, stdout=subprocess.DEVNULL)
        print(f"  fp16 {kind}: {file.stat().st_size} bytes, packed {packed.stat().st_size}")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        points, _ = answers(cell, model, {"ONNX Runtime": session, "cellnet": packed}, photos, folder)
        right = right and points <= POINTS
        answers(cell, model, {"float32": folder / "single.cell", "cellnet": packed}, photos, folder)
    return right


def compare(cell, model, photos, fp16, runs, folder):
    graph = onnx.load(model).graph
    raw = sum(numpy_helper.to_array(t).nbytes for t in graph.initializer)
    dims = [d.dim_value or 1 for d in graph.input[0].type.tensor_type.shape.dim]
    given = folder / "input.bin"
    np.random.default_rng(1).uniform(-1, 1, dims).astype(np.float32).tofile(given)
    packed = {name: folder / f"{name}.cell" for name in ("single", "half")}
    for name, path in packed.items():
        more = ["half"] if name == "half" else []
        subprocess.run([cell, "pack", model, path, "all", *more], check=True, stdout=subprocess.DEVNULL)
    found = {name: outputs(cell, path, given, folder / name) for name, path in packed.items()}
    servers = {name: subprocess.Popen([cell, "serve", path, given], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True) for name, path in packed.items()}
    times = {name: [] for name in packed}
    for turn in range(runs + 3):
        for name, server in servers.items():
            server.stdin.write("\n")
            server.stdin.flush()
            milliseconds = float(server.stdout.readline())
            if turn >= 3:
                times[name].append(milliseconds)
    for server in servers.values():
        server.stdin.close()
        server.wait()
    single, half = (statistics.median(times[name]) for name in ("single", "half"))
    size = packed["half"].stat().st_size / raw
    print(f"{model}: file {size:.3f} of the raw weights, time {half / single:.3f} x "
          f"({single:.2f} -> {half:.2f} ms, median of {runs})")
    for name, values in found["single"].items():
        off = np.abs(values - found["half"][name]).max() / max(np.abs(values).max(), 1e-30)
        print(f"  {name}: differs by {off:.1e} of its largest")
    same = True
    if photos:
        points, least = answers(cell, model, packed, photos, folder)
        same = points <= POINTS and least >= HEATMAP
        same = (not fp16 or in_half_precision(cell, model, photos, folder)) and same
    return same and size <= FILE and half / single <= TIME


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cell")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--fp16", action="store_true", help="compare with ONNX Runtime on half precision too")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    kept = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            kept.append(compare(arguments.cell, model, arguments.photos, arguments.fp16, arguments.runs,
                                Path(folder)))
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()

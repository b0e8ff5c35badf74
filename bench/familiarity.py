"""Measures what the familiarity output of a model costs, and whether all engines give the same score.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 -m venv .venv && .venv/bin/pip install onnx
    .venv/bin/python bench/familiarity.py [--model models/skin] [--rounds 20] [--turns 5]

A copy of the model without the output is made, and the other copy is written by the same means. Both are run in turns,
each time in a process of its own, on one thread; the time is the fastest run of all turns, which other load on the
machine disturbs least, and private memory the median. The scores of the photos in tests/photos come from
`skincell classify` with each engine. If ORT_DYLIB_PATH names a library, ONNX Runtime is among the engines. It leaves out
inference in Wasm. Exits with 1 above 1 % of the run, 200 KB of files, 0.2 MiB of
private memory, or where engines differ by more than 1e-3 or in the decision.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

import onnx

import portable
from service import BINARY, ROOT, machine

PREFIX = "familiarity/"
MOST_TIME, MOST_BYTES, MOST_KB, MOST_DIFFERENCE = 1.01, 200_000, 205, 1e-3
PHOTOS = ROOT / "tests" / "photos"
FILES = ("model.onnx", "model.onnx.data")


def skincell(*words, expect=(0,)):
    done = subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in expect:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def copy(model, out, keep):
    """Writes the model to `out`, with its familiarity or without."""
    out.mkdir(parents=True)
    card, graph = json.loads((model / "card.json").read_text()), onnx.load(model / "model.onnx")
    if not keep:
        output = card.pop("familiarity")["output"]
        card.pop("calibration", None)
        kept = [value for value in graph.graph.output if value.name != output]
        nodes = [node for node in graph.graph.node if not any(name.startswith(PREFIX) or name == output for name in node.output)]
        used = {name for node in nodes for name in node.input}
        weights = [tensor for tensor in graph.graph.initializer if tensor.name in used]
        for field, values in (("output", kept), ("node", nodes), ("initializer", weights)):
            graph.graph.ClearField(field)
            getattr(graph.graph, field).extend(values)
    onnx.save(graph, out / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    (out / "card.json").write_text(json.dumps(card))
    skincell("model", "pack", out)
    return out


def price(ways, engine, rounds, turns):
    """(milliseconds, kB of private memory) of each way."""
    found = {name: [] for name in ways}
    for _ in range(turns):
        for name, folder in ways.items():
            words = ["model", "measure", "--inside", folder, PHOTOS / "drawn-eczema-1.jpg", "--engine", engine, "--rounds", rounds]
            library = os.environ.get("ORT_DYLIB_PATH")
            found[name].append(json.loads(skincell(*words, *(["--engine-lib", library] if engine == "onnxruntime" else []))))
    return {name: (min(one["fastest_ms"] for one in all_), statistics.median(one["private_kb"] for one in all_))
            for name, all_ in found.items()}


def scores(app, model, engine):
    """The familiarity score of each photo in tests/photos by a native engine."""
    library = os.environ.get("ORT_DYLIB_PATH")
    extra = ["--engine-lib", library] if engine == "onnxruntime" else []
    lines = skincell("classify", PHOTOS, "--json", "--from", app, "--model", model.name, "--engine", engine, *extra, expect=(0, 1)).splitlines()
    answers = [json.loads(line) for line in lines]
    return {pathlib.Path(a["photo"]).name: a["familiarity"]["score"] for a in answers if "familiarity" in a}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "skin")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    model, broken, reference = options.model.resolve(), [], None

    def judge(text, good):
        print(text if good else f"{text}   ABOVE TARGET", flush=True)
        broken.extend([] if good else [text])

    def compare(engine, found):
        nonlocal reference
        reference = reference or found
        worst = max(abs(found[name] - reference[name]) / max(1, reference[name]) for name in found)
        differ = [name for name in found if (found[name] <= 1) != (reference[name] <= 1)]
        judge(f"{engine:<18} {len(found)} photos: scores differ by at most {worst:.1e}, {len(differ)} decisions differ",
              worst <= MOST_DIFFERENCE and not differ)

    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        ways = {name: copy(model, work / name / model.name, name == "with") for name in ("without", "with")}
        app = portable.native(work, ways["with"])
        for files in (FILES, ("model.cell",)):
            more = sum((ways["with"] / f).stat().st_size - (ways["without"] / f).stat().st_size for f in files)
            judge(f"{' + '.join(files):<28} {more:+,} bytes", more <= MOST_BYTES)
        for engine in ["cellnet", "rten"] + (["onnxruntime"] if os.environ.get("ORT_DYLIB_PATH") else []):
            found = price(ways, engine, options.rounds, options.turns)
            (before, kb), (after, more) = found["without"], found["with"]
            judge(f"{engine:<18} {before:.3f} -> {after:.3f} ms ({after / before - 1:+.2%}), private {more - kb:+.0f} kB",
                  after <= before * MOST_TIME and more - kb <= MOST_KB)
            compare(engine, scores(app, model, engine))
    raise SystemExit("above target: " + "; ".join(broken) if broken else 0)


if __name__ == "__main__":
    main()

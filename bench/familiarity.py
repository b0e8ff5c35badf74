"""Measures what the familiarity output of a model costs, and whether all engines give the same score.

    cargo build --release && cargo build --release -p skincell-portable-host --example instances
    cargo build --release --target wasm32-wasip2 -p skincell          (and -p skincell-portable)
    python3 -m venv .venv && .venv/bin/pip install onnx
    .venv/bin/python bench/familiarity.py [--model models/skin] [--rounds 10] [--turns 60]

A copy of the model without the output is made, and the other copy is written by the same means. Both are run in turns,
each time in a process of its own, on one thread. Where a process's memory lies changes its time by a few per cent, so
that the price is the median, over the turns, of the ratio of the fastest runs of the turn's two processes; which of
them is first alternates. Private memory is the median. The scores of the photos in tests/photos come from
`skincell classify` with each engine. If ORT_DYLIB_PATH names a library, ONNX Runtime is among the engines.

In Wasm, each copy is composed with the component as `portable.py` does it, by cellnet and by rten, with the model in a
mounted file or baked. Both copies answer in turns, each time by a fresh instance; the price is the median, over the
turns, of the ratio of the fastest `inference` of the turn's answers, which includes the instance's load of the model,
and private memory that of one of eight instances kept after their answer. The scores are those of the answers.

Exits with 1 above 1 % of the run, 200 KB of files, 0.2 MiB of private memory, or where engines differ by more than
1e-3, or in the decision. Answers round scores to 1e-3, so that a difference of 1e-3 may be one of rounding.
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
from before import in_turns
from service import BINARY, ROOT, machine

PREFIX = "familiarity/"
MOST_TIME, MOST_BYTES, MOST_KB = 1.01, 200_000, 205
HOLDS = 5  # times that instances are kept in Wasm, for their private memory
MOST_DIFFERENCE = 1e-3 + 1e-9  # the sum is for what binary fractions leave of a decimal one
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


def summed_up(times, private):
    """The median time in ms and kB of private memory with the output and without, and the median ratio of a turn."""
    ratios = [after / before for before, after in zip(times["without"], times["with"], strict=True)]
    return {
        "ms": {name: statistics.median(all_) for name, all_ in times.items()},
        "kb": {name: statistics.median(all_) for name, all_ in private.items()},
        "ratio": statistics.median(ratios),
    }


def price(ways, engine, rounds, turns):
    """What `summed_up` returns, of a native engine."""
    times, private = {name: [] for name in ways}, {name: [] for name in ways}
    for turn in range(turns):
        for name, folder in in_turns(ways, turn):
            words = ["model", "measure", "--inside", folder, PHOTOS / "drawn-eczema-1.jpg", "--engine", engine, "--rounds", rounds]
            library = os.environ.get("ORT_DYLIB_PATH")
            found = json.loads(skincell(*words, *(["--engine-lib", library] if engine == "onnxruntime" else [])))
            times[name].append(found["fastest_ms"])
            private[name].append(found["private_kb"])
    return summed_up(times, private)


def scores(app, model, engine):
    """The familiarity score of each photo in tests/photos by a native engine."""
    library = os.environ.get("ORT_DYLIB_PATH")
    extra = ["--engine-lib", library] if engine == "onnxruntime" else []
    lines = skincell("classify", PHOTOS, "--json", "--from", app, "--model", model.name, "--engine", engine, *extra, expect=(0, 1)).splitlines()
    answers = [json.loads(line) for line in lines]
    return {pathlib.Path(a["photo"]).name: a["familiarity"]["score"] for a in answers if "familiarity" in a}


class Portable:
    """The copies `ways` in Wasm, each in a process of its own per way to compose it."""

    def __init__(self, work, ways):
        self.model = ways["with"].name
        self.running = {}
        for copy_, folder in ways.items():
            for kind, component, sees in portable.compositions(work / f"wasm-{copy_}", folder, ("skincell",)):
                self.running.setdefault(kind, {})[copy_] = portable.Instances(component, sees)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for both in self.running.values():
            for instances in both.values():
                instances.close()

    def ask(self, instances, photo):
        return json.loads(instances.say("ask", f"/predict?model={self.model}", photo)["body"])

    def price(self, kind, rounds, turns):
        """As the function `price`."""
        photo, running = PHOTOS / "drawn-eczema-1.jpg", self.running[kind]
        times, private = {name: [] for name in running}, {name: [] for name in running}
        for instances in running.values():
            self.ask(instances, photo)  # fills caches
        for turn in range(turns):
            asked = {name: [] for name in running}
            for _ in range(rounds):
                for name, instances in in_turns(running, turn):
                    asked[name].append(self.ask(instances, photo)["timing_ms"]["inference"])
            for name, all_ in asked.items():
                times[name].append(min(all_))
        for name, instances in list(running.items()) * HOLDS:
            held = instances.say("hold", portable.HELD, f"/predict?model={self.model}", photo)
            private[name].append((held["after"]["private"] - held["before"]["private"]) / portable.HELD / 1024)
        return summed_up(times, private)

    def scores(self, kind, names):
        """The familiarity score of each of the photos, by the copy that has one."""
        instances = self.running[kind]["with"]
        return {name: self.ask(instances, PHOTOS / name)["familiarity"]["score"] for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "skin")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    model, broken, reference = options.model.resolve(), [], None

    def judge(text, good):
        print(text if good else f"{text}   ABOVE TARGET", flush=True)
        broken.extend([] if good else [text])

    def compare(engine, found):
        nonlocal reference
        reference = reference or found
        worst = max(abs(found[name] - reference[name]) / max(1, reference[name]) for name in reference)
        differ = [name for name in reference if (found[name] <= 1) != (reference[name] <= 1)]
        judge(f"{engine:<21} {len(found)} photos: scores differ by at most {worst:.1e}, {len(differ)} decisions differ",
              worst <= MOST_DIFFERENCE and not differ)

    def afford(engine, found):
        ms, more = found["ms"], found["kb"]["with"] - found["kb"]["without"]
        judge(f"{engine:<21} {ms['without']:.3f} -> {ms['with']:.3f} ms ({found['ratio'] - 1:+.2%}), private {more:+.0f} kB",
              found["ratio"] <= MOST_TIME and more <= MOST_KB)

    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        ways = {name: copy(model, work / name / model.name, name == "with") for name in ("without", "with")}
        app = portable.native(work, ways["with"])
        for files in (FILES, ("model.cell",)):
            more = sum((ways["with"] / f).stat().st_size - (ways["without"] / f).stat().st_size for f in files)
            judge(f"{' + '.join(files):<28} {more:+,} bytes", more <= MOST_BYTES)
        for engine in ["cellnet", "rten"] + (["onnxruntime"] if os.environ.get("ORT_DYLIB_PATH") else []):
            afford(engine, price(ways, engine, options.rounds, options.turns))
            compare(engine, scores(app, model, engine))
        with Portable(work, ways) as wasm:
            for kind in wasm.running:
                afford(f"Wasm, {kind}", wasm.price(kind, options.rounds, options.turns))
                compare(f"Wasm, {kind}", wasm.scores(kind, reference))
    raise SystemExit("above target: " + "; ".join(broken) if broken else 0)


if __name__ == "__main__":
    main()

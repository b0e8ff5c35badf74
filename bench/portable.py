"""Compares inference in Wasm with the native one: latency, start of an instance, memory of eight instances.

    cargo build --release && cargo build --release -p skincell-portable-host --example instances
    cargo build --release --target wasm32-wasip2 -p skincell          (and -p skincell-portable, -p skincell-guests)
    python3 bench/portable.py [MODEL_FOLDER ...] [--rounds 15] [--json bench/results/portable.json]

For each model folder, `models/skin` if none is named: the same photo is posted alternately to `skincell up
--threads 1` and to fresh instances of the component composed with inference in Wasm, by cellnet and by rten,
with the model in a mounted file or baked (`skincell model bake`). The start of an instance is the time until
it has an execution context of the model and has answered. Private memory is the kernel's RssAnon per
instance, of eight that are kept after their answer; a run of cellnet keeps its activations. Exits with 1 if
the answers differ, or if the result of `up --build` (cellnet, baked) breaks a promise. Only the standard
library.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile

from service import BINARY, ROOT, Service, machine

WASM = ROOT / "target" / "wasm32-wasip2" / "release"
HOST = ROOT / "target" / "release" / "examples" / "instances"
WASI_RUN = ROOT / "target" / "release" / "wasi-run"
PHOTO = ROOT / "tests" / "photos" / "drawn-eczema-1.jpg"
HELD = 8
# The promises for cellnet with a baked model: milliseconds to a context, MiB per instance besides
# activations.
KEPT, START_MS, BEYOND_MIB = "cellnet, baked", 2.0, 4.0
MIB = 1 << 20


class Instances:
    """The example `instances` over one composed component."""

    def __init__(self, component, folder):
        self.process = subprocess.Popen([HOST, component, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = json.loads(self.process.stdout.readline())

    def say(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        status = answer["status"]
        if set(status if isinstance(status, list) else [status]) != {200}:
            raise SystemExit(f"{words}: {answer}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def run(*words):
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)


def mounted(folder, model, engine):
    """A folder as a component sees it under `/`, with the only file its engine reads."""
    inside = folder / "models" / model.name
    inside.mkdir(parents=True)
    files = ["model.cell"] if engine == "cellnet" else ["model.onnx", "model.onnx.data"]
    for file in ["card.json", *files]:
        shutil.copy(model / file, inside / file)
    return folder


def compositions(work, model, guests=("skincell", "skincell_guests")):
    """(name, composed with each guest, folder) for each way to run it in Wasm."""
    portable = WASM / "skincell_portable.wasm"
    for engine in ("cellnet", "rten"):
        folder = mounted(work / engine, model, engine)
        bare = mounted(work / f"{engine}-card", model, engine)
        for file in (bare / "models" / model.name).glob("model.*"):
            file.unlink()
        baked = work / f"{engine}.wasm"
        run(BINARY, "model", "bake", "--no-pack", folder / "models" / model.name, "--provider", portable, "-o", baked)
        for kind, provider, sees in (("files", portable, folder), ("baked", baked, bare)):
            composed = [work / f"{engine}-{kind}-{guest}.wasm" for guest in guests]
            for guest, out in zip(guests, composed):
                run(WASI_RUN, "--compose", WASM / f"{guest}.wasm", provider, out)
            yield f"{engine}, {kind}", *composed, sees


def native(work, model):
    """An application with only this model, for the runner."""
    app = work / "native"
    shutil.copytree(model, app / "models" / model.name)
    manifest = (ROOT / "spin.toml").read_text()
    manifest = manifest.replace('"target/', f'"{ROOT}/target/').replace('["skin", "imagenet"]', f'["{model.name}"]')
    manifest = manifest.replace('SKINCELL_MODEL = "skin"', f'SKINCELL_MODEL = "{model.name}"')
    (app / "spin.toml").write_text(manifest)
    return app


def answer(body):
    return [(result["class"], round(result["probability"], 1)) for result in json.loads(body)["results"][:3]]


def measure(model, rounds):
    path = f"/predict?model={model.name}"
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        ways = {name: (Instances(a, sees), Instances(b, sees)) for name, a, b, sees in compositions(work, model)}
        times = {name: [] for name in ("native", *ways)}
        starts = {name: [] for name in ways}
        with Service("--threads", "1", app=native(work, model)) as service:
            photo = PHOTO.read_bytes()
            for round_ in range(rounds + 2):
                seconds, status = service.post_photos([photo], 1, 1, f"?model={model.name}")[0]
                assert status == 200, status
                took = {"native": seconds * 1e3}
                for name, (app, guest) in ways.items():
                    took[name] = app.say("ask", path, PHOTO)["ms"]
                    begun = guest.say("ask", f"/context?{model.name}")
                    assert begun["body"] == "ready", begun
                    if round_ >= 2:
                        starts[name].append(begun["ms"])
                # The first rounds load models and fill caches.
                if round_ >= 2:
                    for name, value in took.items():
                        times[name].append(value)
            served = json.loads(service.get("/memory")[1])["models"][0]
            assert served["engine"] == "cellnet", served
        answers = {name: answer(app.say("ask", path, PHOTO)["body"]) for name, (app, _) in ways.items()}
        outcome = {"model": model.name, "weights_mib": size(model), "ways": {}}
        p50 = {name: statistics.median(values) for name, values in times.items()}
        outcome["native_ms"] = p50["native"]
        outcome["activations_mib"] = served["private_bytes"] / MIB
        for name, (app, guest) in ways.items():
            loaded = guest.say("hold", HELD, f"/context?{model.name}")
            ran = app.say("hold", HELD, path, PHOTO)
            grown = lambda held, kind: (held["after"][kind] - held["before"][kind]) / HELD / MIB
            outcome["ways"][name] = {
                "ms": p50[name], "times_native": p50[name] / p50["native"],
                "start_ms": statistics.median(starts[name]),
                "component_mib": app.start["bytes"] / MIB, "compile_s": app.start["compile_ms"] / 1e3,
                "private_mib_loaded": grown(loaded, "private"), "private_mib_ran": grown(ran, "private"),
                "private_mib_of_all": ran["after"]["private"] / MIB,
                "answer": answers[name],
            }
            app.close()
            guest.close()
        return outcome


def size(model):
    return sum(path.stat().st_size for path in model.glob("model.onnx*")) / MIB


def show(outcome):
    print(f"{outcome['model']}, {outcome['weights_mib']:.1f} MiB of weights: native {outcome['native_ms']:.0f} ms on 1 thread, "
          f"{outcome['activations_mib']:.2f} MiB of activations")
    for name, way in outcome["ways"].items():
        print(
            f"  {name:15} {way['ms']:6.0f} ms, {way['times_native']:.2f} times native; start {way['start_ms']:7.2f} ms; "
            f"{way['component_mib']:5.1f} MiB, compiled in {way['compile_s']:.1f} s; private an instance "
            f"{way['private_mib_loaded']:6.2f} MiB loaded, {way['private_mib_ran']:6.2f} MiB after a photo; "
            f"the process with {HELD} of them {way['private_mib_of_all']:.0f} MiB", flush=True)
    kept = outcome["ways"][KEPT]
    beyond = kept["private_mib_ran"] - outcome["activations_mib"]
    print(f"  what is kept, {KEPT}: start {kept['start_ms']:.2f} ms, at most {START_MS:g}; private an instance beyond its "
          f"activations {beyond:.2f} MiB, at most {BEYOND_MIB:g}")
    if kept["start_ms"] > START_MS or beyond > BEYOND_MIB:
        raise SystemExit("broken")
    if len({json.dumps(way["answer"]) for way in outcome["ways"].values()}) > 1:
        raise SystemExit(f"the ways differ: {outcome['ways']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=pathlib.Path, default=[ROOT / "models" / "skin"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    outcomes = []
    for model in args.models:
        outcomes.append(measure(model.resolve(), args.rounds))
        show(outcomes[-1])
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "models": outcomes}, indent=2) + "\n")


if __name__ == "__main__":
    main()

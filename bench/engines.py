"""Each engine's run and private memory beside ONNX Runtime's own `run`, at one thread and at two, and which
engine the default takes for which model.

    cargo build --release -p skincell-cli && cargo build --release -p cellnet --examples --features pack
    python3 bench/setup.py python keras model
    python3 bench/engines.py [--rounds 30] [--out FILE]

Bare runs take turns in processes that are there all the time; the private memory of skincell's engines is what
`skincell model measure` says of one in a process of its own. Two minutes.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess

from bare import FOLDER, Bare
from load import quantile, spread
from peers import APP, MODEL, library
from service import BINARY, ROOT, Service, machine

ENGINES = ("cellnet", "rten", "onnxruntime")
PHOTO = ROOT / "tests" / "photos" / "drawn-eczema-1.jpg"


def inside(engine, threads):
    """What `skincell model measure` says of one engine."""
    command = [BINARY, "model", "measure", FOLDER, PHOTO, "--engine", engine, "--threads", threads,
               "--engine-lib", library(), "--rounds", 10, "--inside"]  # fmt: skip
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(threads, rounds):
    """Milliseconds and private MiB by engine; `onnxruntime` is its own package's, `ours` is ours over it."""
    taken, private = {engine: [] for engine in ENGINES}, {}
    with contextlib.ExitStack() as stack:
        bare = {engine: stack.enter_context(Bare(engine, threads)) for engine in ENGINES}
        for turn in range(rounds + 3):
            for engine, process in bare.items():
                took, *more = process.run()
                if turn >= 3:
                    taken[engine].append(took)
                if more:
                    private[engine] = more[0] / 1024
    rows = {f"{e} alone": spread(taken[e]) | {"private_mib": private.get(e)} for e in ENGINES}
    for engine in ENGINES:
        figures = [inside(engine, threads) for _ in range(3)]
        middle = lambda name: quantile([one[name] for one in figures], 0.5)
        rows[f"{engine} in skincell"] = {
            "p50": middle("median_ms"), "load_ms": middle("load_ms"), "private_mib": middle("private_kb") / 1024,
        }  # fmt: skip
    return rows


def choices():
    """What `--engine auto` takes: with and without model.cell, with and without a library and room for it."""
    plain = APP.parent / "unpacked"
    (plain / "models" / MODEL).mkdir(parents=True, exist_ok=True)
    for name in ("card.json", "model.onnx", "model.onnx.data"):
        link = plain / "models" / MODEL / name
        link.unlink(missing_ok=True)
        link.symlink_to(FOLDER / name)
    (plain / "spin.toml").write_text((APP / "spin.toml").read_text())
    cases = [
        ("model.cell is there", APP, ["--engine-lib", library()]),
        ("no model.cell, no library", plain, []),
        ("no model.cell, a library, no limit", plain, ["--engine-lib", library(), "--memory-limit", "none"]),
        ("no model.cell, a library, 512 MiB", plain, ["--engine-lib", library(), "--memory-limit", "512MiB"]),
        ("no model.cell, a library, 256 MiB", plain, ["--engine-lib", library(), "--memory-limit", "256MiB"]),
    ]  # fmt: skip
    found = {}
    for name, app, flags in cases:
        with Service("--quiet", *flags, app=app) as service:
            found[name] = json.loads(service.get("/memory")[1])["models"][0]["engine"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "engines.json")
    asked = parser.parse_args()
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}; EfficientNetV2-S 300x300, float32")
    result = {"machine": where, "threads": {}}
    for threads in (1, 2):
        rows = result["threads"][threads] = measure(threads, asked.rounds)
        base = rows["onnxruntime alone"]
        print(f"{threads} thread(s)")
        for name, row in rows.items():
            memory = "" if row["private_mib"] is None else f"private {row['private_mib']:7.1f} MiB"
            print(f"  {name:24} p50 {row['p50']:7.1f} ms  x{row['p50'] / base['p50']:.2f}  {memory}")
    result["auto"] = choices()
    print("--engine auto takes")
    for name, engine in result["auto"].items():
        print(f"  {engine:12} {name}")
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

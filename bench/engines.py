"""Compares each engine's run time and private memory with ONNX Runtime's own `run`, with one thread and with
two, and shows the engine that is the default for each model.

    cargo build --release -p skincell-cli && python3 bench/setup.py python keras model
    python3 bench/engines.py [--rounds 3] [--out FILE]

Every engine runs in a separate process, alternating: skincell's by `skincell model measure`, ONNX Runtime by
its Python package as in its documentation. Takes two minutes.
"""

import argparse
import json
import pathlib
import shutil
import subprocess

from load import quantile
from overhead import bare
from peers import APP, MODEL, PYTHON, library
from service import ROOT, Service, machine

ENGINES, RUNS = ("cellnet", "rten", "onnxruntime"), 8
FOLDER = APP / "models" / MODEL
PHOTO = ROOT / "tests" / "photos" / "drawn-eczema-1.jpg"


def own_run(threads):
    """ONNX Runtime's Python package: median milliseconds of a run, and private MiB after the last run."""
    script = ROOT / "bench" / "peers" / "onnxruntime_serve.py"
    command = [PYTHON / "bin" / "python", script, FOLDER / "model.onnx", threads]
    done = subprocess.run([str(word) for word in command], input="\n" * (RUNS + 1), check=True,
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()][1:]
    return {"p50": quantile([float(took) for took, _ in lines], 0.5), "private_mib": int(lines[-1][1]) / 1024}


def measure(threads, rounds):
    """By engine: the median of the medians, and of private MiB."""
    found = {name: [] for name in ("ONNX Runtime's own", *ENGINES)}
    for _ in range(rounds):
        found["ONNX Runtime's own"].append(own_run(threads))
        for engine in ENGINES:
            one = bare(engine, threads, PHOTO, RUNS)
            found[engine].append({"p50": one["median_ms"], "private_mib": one["private_kb"] / 1024})
    middle = lambda name, figure: quantile([one[figure] for one in found[name]], 0.5)
    return {name: {figure: middle(name, figure) for figure in ("p50", "private_mib")} for name in found}


def choices():
    """The engine that `--engine auto` chooses, with and without model.cell, library and room for it."""
    plain = APP.parent / "unpacked"
    (plain / "models" / MODEL).mkdir(parents=True, exist_ok=True)
    for name in ("card.json", "model.onnx", "model.onnx.data"):
        copy = plain / "models" / MODEL / name
        copy.unlink(missing_ok=True)
        shutil.copyfile(FOLDER / name, copy)
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "engines.json")
    asked = parser.parse_args()
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}; EfficientNetV2-S 300x300, float32")
    result = {"machine": where, "threads": {}}
    for threads in (1, 2):
        rows = result["threads"][threads] = measure(threads, asked.rounds)
        base = rows["ONNX Runtime's own"]
        print(f"{threads} thread(s)")
        for name, row in rows.items():
            ratio, memory = row["p50"] / base["p50"], row["private_mib"] / base["private_mib"]
            print(f"  {name:20} p50 {row['p50']:7.1f} ms  x{ratio:.2f}   private {row['private_mib']:7.1f} MiB  x{memory:.2f}")
    result["auto"] = choices()
    print("--engine auto takes")
    for name, engine in result["auto"].items():
        print(f"  {engine:12} {name}")
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

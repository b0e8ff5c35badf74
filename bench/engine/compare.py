"""Compares cellnet with ONNX Runtime: the same input, results and alternating times within one run.

    python compare.py CELL_BINARY MODEL.onnx|FOLDER ... [--threads 1,2] [--rounds 30] [--rten BINARY]
                      [--algorithms all|f2|direct] [--isa NAME] [--picture FILE.svg] [--keep]

A FOLDER made by `keras_models.py` and `quantized.py` is compared with LiteRT and OpenVINO too, in float32 and int8
(`beside.py`; needs requirements.txt); `--picture` draws time against private memory.

CELL_BINARY is the example `cell` of the crate (`cargo build --release -p cellnet --example cell`), the rten
binary the example `rten_serve`. Needs `numpy`, `onnx` and `onnxruntime`. Every engine runs once per round;
with one thread, all on the same core, so that other load on the machine affects all equally: on a shared
machine one core may be a third slower than the other for minutes. Medians decide; minima and processor time
are printed too. Exits with 1 if a ratio or an error exceeds its promise.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

import beside
from results import Results
from served import Serve

# Largest ratio of medians by engine and threads; every model not named here has the last.
RATIOS = {"efficientnetv2-s": {("onnxruntime", 1): 0.80, ("onnxruntime", 2): 0.85, ("rten", 1): 0.45}}
OTHERS = {("onnxruntime", 1): 1.0}
# Largest differences of probabilities, and of maps relative to their largest value.
PROBABILITY, CAM = 1e-4, 1e-3
# Seconds between two engines' turns: ONNX Runtime's threads spin for some tens of milliseconds after a run.
BETWEEN = 0.1


def runtime(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def name_of(path):
    """The file's name, or the folder's if all files have the same name."""
    path = Path(path).resolve()
    return path.parent.name if path.stem == "model" else path.stem


def make_input(session, folder):
    declared = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in declared.shape]
    rng = np.random.default_rng(11)
    if declared.type == "tensor(uint8)":
        value = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        value = rng.uniform(-1, 1, shape).astype(np.float32)
    path = Path(folder) / "input.bin"
    value.tofile(path)
    return declared.name, value, path


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def compare_results(args, results, model, session, cell, name, value, path, folder):
    outputs = [o.name for o in session.get_outputs()]
    expected = dict(zip(outputs, session.run(outputs, {name: value})))
    command = [args.cell, "run", str(cell), str(path), str(folder)]
    subprocess.run(command + (["--isa", args.isa] if args.isa else []), check=True,
                   stderr=subprocess.DEVNULL)
    got = {o: np.fromfile(Path(folder) / f"{o}.bin", np.float32).reshape(w.shape) for o, w in expected.items()}
    line = "4" if model not in RATIOS else "1"
    note = f"largest {softmax(expected['logits']).max():.3g}"
    error = np.abs(softmax(got["logits"]) - softmax(expected["logits"])).max()
    limit = PROBABILITY if model not in RATIOS else None
    results.add(line, f"{model}: probabilities, off from ONNX Runtime", error, limit, note=note)
    if "cam" in expected:
        error = np.abs(got["cam"] - expected["cam"]).max() / max(np.abs(expected["cam"]).max(), 1e-30)
        results.add(line, f"{model}: cam, off from ONNX Runtime, of its largest", error, CAM)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cell")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rten")
    parser.add_argument("--algorithms", default="all")
    parser.add_argument("--isa")
    parser.add_argument("--picture", help="where to draw time against memory, for a folder")
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    results = Results(args.keep)
    for path in args.models:
        if Path(path).is_dir():
            beside.compare(args, results, path)
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = name_of(path)
            cell = Path(folder) / "model.cell"
            subprocess.run([args.cell, "pack", path, str(cell), args.algorithms], check=True,
                           stdout=subprocess.DEVNULL)
            session = runtime(path, 1)
            name, value, photo = make_input(session, folder)
            print(f"{model}: file {cell.stat().st_size / 1e6:.1f} MB")
            compare_results(args, results, model, session, cell, name, value, photo, folder)
            for threads in map(int, args.threads.split(",")):
                measure(args, results, (model, path), threads, (name, value), (cell, photo))
    sys.exit(results.end())


def take_turns(rounds, threads, serves, session, given):
    """Milliseconds of each run by engine, and those on the processor."""
    times, cpu = ({n: [] for n in ("onnxruntime", *serves)} for _ in range(2))
    for round_ in range(rounds + 3):
        if round_ == 3:
            times, cpu = ({n: [] for n in times} for _ in range(2))
        for engine, serve in serves.items():
            before = serve.cpu()
            times[engine].append(serve.run())
            cpu[engine].append(serve.cpu() - before)
            time.sleep(BETWEEN if threads > 1 else 0)
        begin, before = time.perf_counter(), time.thread_time()
        session.run(None, given)
        times["onnxruntime"].append((time.perf_counter() - begin) * 1e3)
        cpu["onnxruntime"].append((time.thread_time() - before) * 1e3)
        time.sleep(BETWEEN if threads > 1 else 0)
    return times, cpu


def measure(args, results, named, threads, given, files):
    (model, path), (cell, photo) = named, files
    cores = os.sched_getaffinity(0)
    # Everything started from here on, ONNX Runtime's session and the other processes, stays on these cores.
    os.sched_setaffinity(0, {max(cores)} if threads == 1 else cores)
    session = runtime(path, threads)
    extra = ["--threads", str(threads)]
    serves = {"cellnet": Serve([args.cell, "serve", str(cell), str(photo), *extra]
                               + (["--isa", args.isa] if args.isa else []))}
    if args.rten:
        serves["rten"] = Serve([args.rten, path, str(photo), *extra])
    times, cpu = take_turns(args.rounds, threads, serves, session, {given[0]: given[1]})
    os.sched_setaffinity(0, cores)
    for serve in serves.values():
        serve.close()
    median = {n: np.median(t) for n, t in times.items()}
    own = {n: np.median(t) for n, t in cpu.items()}
    for other in (n for n in times if n != "cellnet"):
        limits = RATIOS.get(model, OTHERS)
        version = f" ({ort.__version__})" if other == "onnxruntime" else ""
        note = f"{median['cellnet']:.2f} and {median[other]:.2f} ms{version}"
        note += f", least {min(times['cellnet']) / min(times[other]):.2f} x"
        if threads == 1:
            note += f", on the processor {own['cellnet'] / own[other]:.2f} x"
        label = {"onnxruntime": "ONNX Runtime", "rten": "rten"}[other]
        results.add("1" if model in RATIOS else "4", f"{model}: time beside {label}, {threads} thread(s)",
                    median["cellnet"] / median[other], limits.get((other, threads)), note=note)


if __name__ == "__main__":
    main()

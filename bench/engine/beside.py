"""Compares cellnet with ONNX Runtime, LiteRT and OpenVINO on one network, float32 and int8: time, memory, a picture.

`compare.py CELL FOLDER` calls this for a folder that `keras_models.py` and `quantized.py` made. Every engine with
every precision is a process of its own; all run once per round, with one thread on the same core. Private memory is
what the process holds after its runs above the same process before it loaded the model; mapped files do not count.
The line after the times says how far each answer to the first photo lies from ONNX Runtime's in float32.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import served

OTHERS = Path(__file__).with_name("others.py")
# Each engine's file by precision.
FILES = {
    "onnxruntime": {"float32": "model.onnx", "int8": "whole.onnx"},
    "litert": {"float32": "float32.tflite", "int8": "int8.tflite"},
    "openvino": {"float32": "model.onnx", "int8": "openvino-int8.xml"},
}
CELLS = {"float32": "model.onnx", "int8": "convolutions.onnx"}


def packed(cell, folder):
    files = {}
    for precision, file in CELLS.items():
        files[precision] = folder / f"{precision}.cell"
        more = ["all", "half"] if precision == "int8" else []
        subprocess.run([cell, "pack", folder / file, files[precision], *more], check=True, stdout=subprocess.DEVNULL)
    return files


def commands(args, folder, threads):
    """The command of each engine and precision that serves the first photo."""
    photo = np.load(folder / "photos.npy")[:1]
    photo.tofile(folder / "photo.bin")
    np.save(folder / "photo.npy", photo)
    more = ["--threads", str(threads)]
    found = {}
    for precision, file in packed(args.cell, folder).items():
        command = [args.cell, "serve", file, folder / "photo.bin", *more, "--wait"]
        found["cellnet", precision] = command + (["--isa", args.isa] if args.isa else [])
    for engine, files in FILES.items():
        for precision, file in files.items():
            found[engine, precision] = [sys.executable, OTHERS, engine, folder / file, folder / "photo.npy", *more]
    return found


def answers(args, folder):
    """Prints how far each engine's logits are from ONNX Runtime's in float32, of the largest of them."""
    found = {}
    for (engine, precision), command in commands(args, folder, 1).items():
        if engine == "cellnet":
            subprocess.run([args.cell, "run", folder / f"{precision}.cell", folder / "photo.bin", folder],
                           check=True, stderr=subprocess.DEVNULL)
            found[engine, precision] = np.fromfile(folder / "logits.bin", np.float32)
        else:
            subprocess.run([*command, "--answer", folder / "answer.npy"], check=True, stderr=subprocess.DEVNULL)
            found[engine, precision] = np.load(folder / "answer.npy").ravel()
    right = found["onnxruntime", "float32"]
    for (engine, precision), got in found.items():
        print(f"  {engine}, {precision}: off by {np.abs(got - right).max() / np.abs(right).max():.1e} of the largest logit")


def take_turns(args, folder, threads):
    engines = {name: served.Waiting(command) for name, command in commands(args, folder, threads).items()}
    for engine in engines.values():
        engine.run()
    times, cpu = served.take_turns(engines, args.rounds, first=3, pause=0.1 if threads > 1 else 0)
    memory = {name: engine.private() for name, engine in engines.items()}
    for engine in engines.values():
        engine.close()
    median = [{name: float(np.median(all_of)) for name, all_of in each.items()} for each in (times, cpu)]
    return *median, {name: min(all_of) for name, all_of in times.items()}, memory


def draw(times, memory, path, title):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "skincell"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), constrained_layout=True)
    for (engine, precision), milliseconds in times.items():
        filled = "#b03060" if engine == "cellnet" else "#406080"
        axes.scatter(milliseconds, max(memory[engine, precision], 0.1), s=60, edgecolors=filled,
                     facecolors=filled if precision == "int8" else "none")
        axes.annotate(f"{engine}, {precision}", (milliseconds, max(memory[engine, precision], 0.1)), fontsize=8,
                      textcoords="offset points", xytext=(6, 5))
    axes.set(xlabel="time of a photo, ms (median)", ylabel="private memory of the model, MiB", yscale="log", title=title)
    axes.set_xlim(0, max(times.values()) * 1.25)
    figure.savefig(path, metadata={"Date": None})


def compare(args, results, folder):
    """Adds the ratios of one folder to the results and draws the picture."""
    folder = Path(folder)
    print(f"{folder.name}:")
    cores = os.sched_getaffinity(0)
    answers(args, folder)
    for threads in map(int, args.threads.split(",")):
        os.sched_setaffinity(0, {max(cores)} if threads == 1 else cores)
        times, cpu, least, memory = take_turns(args, folder, threads)
        os.sched_setaffinity(0, cores)
        for (engine, precision), milliseconds in times.items():
            print(f"  {threads} thread(s), {engine}, {precision}: {milliseconds:.2f} ms, "
                  f"{memory[engine, precision]:.1f} MiB private")
        own = times["cellnet", "int8"]
        for (engine, precision), milliseconds in times.items():
            if (engine, precision) == ("cellnet", "int8"):
                continue
            limit = {("litert", "int8"): 0.85, ("cellnet", "float32"): 0.40}.get((engine, precision))
            name = f"{folder.name}: int8 beside {engine}, {precision}, {threads} thread(s)"
            own_cpu, own_least = cpu["cellnet", "int8"], least["cellnet", "int8"]
            note = f"{own:.2f} and {milliseconds:.2f} ms, least {own_least / least[engine, precision]:.2f} x"
            note += f", on the processor {own_cpu / cpu[engine, precision]:.2f} x"
            results.add("9", name, own / milliseconds, limit if threads == 1 else None, note=note)
        if args.picture and threads == 1:
            draw(times, memory, args.picture, f"{folder.name}, 1 thread")

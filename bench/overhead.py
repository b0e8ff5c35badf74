"""Measures the cost of a request in addition to the engine's run: upload, decoding, instance, tensors,
heatmap, JSON.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/setup.py python keras model
    python3 bench/overhead.py [--threads 1] [--rounds 8] [--engine cellnet] [--out FILE]

A 300x300 JPEG is posted to a service, without and with a heatmap, alternating with the engine's run of the
same model and photo by `skincell model measure` in a separate process. Exits with 1 if a request takes more
than 1.08 times the run, or one with a heatmap more than 1.06 times one without. Takes one minute per engine.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from load import Photographer, quantile
from peers import APP, MODEL, PYTHON, library, skincell_flags
from service import BINARY, ROOT, Service, machine

REQUEST, HEATMAP, EACH = 1.08, 1.06, 8
SQUARE = """
import sys
from PIL import Image
photo = Image.open(sys.argv[1]).convert("RGB").resize((300, 300), Image.LANCZOS)
photo.save(sys.argv[2], quality=90)
"""


def bare(engine, threads, photo, rounds=EACH):
    """The result of `skincell model measure` for one engine, in a separate process."""
    command = [BINARY, "model", "measure", APP / "models" / MODEL, photo, "--engine", engine,
               "--threads", threads, "--rounds", rounds, "--inside"]  # fmt: skip
    if engine == "onnxruntime":
        command += ["--engine-lib", library()]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(engine, threads, rounds):
    """Medians in milliseconds: the run, the request, the request with a heatmap, and its stages."""
    taken, stages = {"run": [], "plain": [], "heatmap": []}, []
    with tempfile.TemporaryDirectory() as folder, Service(*skincell_flags(engine, threads), app=APP) as service:
        photo = pathlib.Path(folder) / "square.jpg"
        command = [PYTHON / "bin" / "python", "-c", SQUARE, ROOT / "tests" / "photos" / "skin.jpg", photo]
        subprocess.run(command, check=True)
        plain = Photographer(service, [photo.read_bytes()], "?gradcam=false")
        heatmap = Photographer(service, [photo.read_bytes()])
        for client in (plain, heatmap):
            client.post()
        for _ in range(rounds):
            taken["run"].append(bare(engine, threads, photo)["median_ms"])
            for _ in range(EACH):
                taken["plain"].append(plain.post()[0])
                milliseconds, body = heatmap.post()
                taken["heatmap"].append(milliseconds)
                stages.append(json.loads(body)["timing_ms"])
    median = {name: quantile(values, 0.5) for name, values in taken.items()}
    median["stages"] = {name: quantile([s[name] for s in stages], 0.5) for name in stages[0]}
    return median


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--engine", action="append")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "overhead.json")
    asked = parser.parse_args()
    where, broken, engines = machine(), 0, {}
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}; {asked.threads} thread(s), medians")
    for engine in asked.engine or ["cellnet"]:
        median = engines[engine] = measure(engine, asked.threads, asked.rounds)
        stages = ", ".join(f"{name} {value:.1f}" for name, value in median["stages"].items())
        print(f"{engine}: run {median['run']:.1f} ms, request {median['plain']:.1f}, "
              f"with heatmap {median['heatmap']:.1f} ({stages})")  # fmt: skip
        for name, ratio, limit in [("request / run", median["plain"] / median["run"], REQUEST),
                                   ("heatmap / request", median["heatmap"] / median["plain"], HEATMAP)]:
            broken += ratio > limit
            print(f"  {name:20} {ratio:.3f} <= {limit}  {'holds' if ratio <= limit else 'DOES NOT HOLD'}")
    result = {"machine": where, "threads": asked.threads, "engines": engines}
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())

"""What a request costs beside the engine's own run: upload, decoding, instance, tensors, heatmap, JSON.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    cargo build --release -p cellnet --examples --features pack && python3 bench/setup.py python model
    python3 bench/overhead.py [--threads 1] [--rounds 60] [--engine cellnet] [--out FILE]

A 300x300 JPEG is posted to a service, without a heatmap and with one, in turns with the bare engine's run of
the same model in a process of its own. Exits with 1 where a request takes more than 1.08 of the run, or one
with a heatmap more than 1.06 of one without. One minute for an engine.
"""

import argparse
import json
import pathlib
import subprocess

from bare import Bare
from load import Photographer, quantile
from peers import APP, PYTHON, skincell_flags
from service import ROOT, Service, machine

REQUEST, HEATMAP = 1.08, 1.06
SQUARE = """
import io, sys
from PIL import Image
photo = Image.open(sys.argv[1]).convert("RGB").resize((300, 300), Image.LANCZOS)
photo.save(sys.stdout.buffer, "JPEG", quality=90)
"""


def square():
    """A photo of the model's size, as JPEG."""
    path = ROOT / "tests" / "photos" / "skin.jpg"
    command = [PYTHON / "bin" / "python", "-c", SQUARE, path]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def measure(engine, threads, rounds):
    """Milliseconds of each: the run, the request, the request with a heatmap, and the stages it tells."""
    photo, taken, stages = square(), {"run": [], "plain": [], "heatmap": []}, []
    with Bare(engine, threads) as bare, Service(*skincell_flags(engine, threads), app=APP) as service:
        plain = Photographer(service, [photo], "?gradcam=false")
        heatmap = Photographer(service, [photo])
        for turn in range(rounds + 3):
            one = {"run": bare.run()[0], "plain": plain.post()[0]}
            one["heatmap"], body = heatmap.post()
            if turn >= 3:
                stages.append(json.loads(body)["timing_ms"])
                for name, milliseconds in one.items():
                    taken[name].append(milliseconds)
    median = {name: quantile(values, 0.5) for name, values in taken.items()}
    median["stages"] = {name: quantile([s[name] for s in stages], 0.5) for name in stages[0]}
    return median


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
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

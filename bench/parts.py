"""Measures the parts of a request with Criterion: decode, resize, tensor, heatmap, overlay and PNG natively;
in the runner, a fresh instance, tensors between guest and host, a run of each engine, and whole requests
without a socket.

    cargo build --release --target wasm32-wasip2 -p skincell -p skincell-guests
    python3 bench/parts.py [--seconds 3] [--out FILE]

Runs `cargo bench` for both packages (building takes some minutes), prints each part's median with its 95 %
interval and stores them. ORT_DYLIB_PATH names ONNX Runtime's library; without it, that run is skipped. Checks
no promises.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

from service import ROOT, machine

PACKAGES = ("skincell-vision", "skincell-runner")


def measured(package, seconds, folder):
    """Runs the benchmarks of a package; returns nanoseconds by name."""
    command = ["cargo", "bench", "-p", package, "--", "--noplot", "--warm-up-time", "1",
               "--measurement-time", str(seconds)]  # fmt: skip
    environment = os.environ | {"CRITERION_HOME": str(folder)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    found = {}
    for path in sorted(folder.glob("**/new/benchmark.json")):
        median = json.loads((path.parent / "estimates.json").read_text())["median"]
        interval = median["confidence_interval"]
        name = json.loads(path.read_text())["full_id"]
        found[name] = [median["point_estimate"], interval["lower_bound"], interval["upper_bound"]]
    return found


def readable(nanoseconds):
    for unit, size in [("s", 1e9), ("ms", 1e6), ("µs", 1e3)]:
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "parts.json")
    asked = parser.parse_args()
    where, parts = machine(), {}
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            parts |= measured(package, asked.seconds, pathlib.Path(folder))
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}")
    for name, (median, least, most) in parts.items():
        print(f"{name:48} {readable(median):>9}   {readable(least)} to {readable(most)}")
    asked.out.write_text(json.dumps({"machine": where, "nanoseconds": parts}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measures the time from a process's start to its first heatmap, and the service's memory afterwards.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/setup.py python keras model
    python3 bench/cold.py [--starts 11] [--out FILE]

EfficientNetV2-S with 80 MB of weights; its files are in the page cache, the component's machine code in the
compile cache. Exits with 1 if the median exceeds 0.4 s, or private memory after 200 photos with heatmaps from
8 clients exceeds 32 MB. Takes one minute.
"""

import argparse
import json
import pathlib
import time

from load import Photographer, quantile
from peers import APP, skincell_flags
from service import ROOT, Service, machine, photos

MOST_S, MOST_MB = 0.4, 32
PHOTOS, CLIENTS = 200, 8


def first_heatmap(flags, image):
    """Seconds from the process's start to the answer."""
    with Service(*flags, app=APP) as service:
        Photographer(service, [image]).post()
        return time.perf_counter() - service.started


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--starts", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "cold.json")
    asked = parser.parse_args()
    flags, images, where = skincell_flags(asked.engine, asked.threads), photos(), machine()
    image = images[len(images) // 2]
    with Service(*flags, app=APP) as service:
        idle = service.memory()
    starts = sorted(first_heatmap(flags, image) for _ in range(asked.starts))
    with Service(*flags, app=APP) as service:
        wrong = [status for _, status in service.post_photos(images, PHOTOS, CLIENTS) if status != 200]
        if wrong:
            raise SystemExit(f"photos were answered {wrong}")
        memory = service.memory()
    median, private = quantile(starts, 0.5), memory["private"] / 1e6
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}; engine {asked.engine}, {asked.threads} threads")
    print(f"start to first heatmap: median {median:.3f} s of {len(starts)} (from {starts[0]:.3f} to {starts[-1]:.3f})")
    print(f"after {PHOTOS} photos by {CLIENTS} clients: private {private:.1f} MB, mapped "
          f"{memory['mapped'] / 1e6:.1f}, peak {memory['peak'] / 1e6:.1f}")  # fmt: skip
    broken = 0
    for name, value, limit in [("first heatmap in s", median, MOST_S), ("private MB", private, MOST_MB)]:
        broken += value > limit
        print(f"{name:20} {value:.3f} <= {limit:g}  {'holds' if value <= limit else 'DOES NOT HOLD'}")
    result = {"machine": where, "engine": asked.engine, "threads": asked.threads, "starts_s": starts,
              "idle": idle, "after": memory}  # fmt: skip
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())

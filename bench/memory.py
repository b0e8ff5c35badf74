"""Measures the release runner's memory and start-up time, for the figures in the README.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/memory.py [--clients 8] [--requests 1000] [--json FILE]

Prints private (RssAnon) and mapped (RssFile) memory before the first photo, after 100 photos with heatmaps
and after the rest, and the median time from process start to /healthz with a warm compile cache. Exits with 1
if a figure exceeds its promise.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

from service import Service, machine, photos

MIB = 1 << 20
STARTS = 15
PROMISES = {"idle": 8 * MIB, "after_100": 28 * MIB, "growth": 1 * MIB, "start_ms": 60}


def start_ms():
    """Milliseconds from process start to /healthz answering, several times."""
    times = []
    for _ in range(STARTS):
        with Service() as service:
            service.get("/healthz")
            times.append((time.perf_counter() - service.started) * 1e3)
    return times


def rounds(service, requests, clients):
    """Posts photos in rounds of 100 and returns the memory after each."""
    images, curve = photos(), []
    for done in range(100, requests + 1, 100):
        outcomes = service.post_photos(images, 100, clients)
        wrong = [status for _, status in outcomes if status != 200]
        if wrong:
            raise SystemExit(f"photos were answered {wrong}")
        curve.append({"photos": done, **service.memory()})
    return curve


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--clients", type=int, default=8)
    arguments.add_argument("--requests", type=int, default=1000)
    arguments.add_argument("--json", type=pathlib.Path)
    arguments = arguments.parse_args()
    with Service():
        pass  # fills the compile cache
    starts = start_ms()
    with Service() as service:
        service.get("/healthz")
        idle = service.memory()
        curve = rounds(service, arguments.requests, arguments.clients)
    figures = {
        "machine": machine(),
        "clients": arguments.clients,
        "start_ms": {"median": statistics.median(starts), "max": max(starts)},
        "idle": idle,
        "curve": curve,
        "exit_code": service.exit_code,
    }
    measured = {
        "idle": idle["private"],
        "after_100": curve[0]["private"],
        "growth": curve[-1]["private"] - curve[0]["private"],
        "start_ms": figures["start_ms"]["median"],
    }
    show(figures, measured)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(any(measured[name] > limit for name, limit in PROMISES.items()))


def show(figures, measured):
    where = figures["machine"]
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}; {figures['clients']} clients")
    print(f"{'':28}{'private':>10}{'mapped':>10}{'peak':>10}   (MiB)")
    rows = [("before the first photo", figures["idle"])]
    rows += [(f"after {row['photos']} photos", row) for row in figures["curve"]]
    for name, row in rows:
        print(f"{name:28}" + "".join(f"{row[k] / MIB:10.2f}" for k in ("private", "mapped", "peak")))
    for name, limit in PROMISES.items():
        unit = 1 if name.endswith("_ms") else MIB
        verdict = "kept" if measured[name] <= limit else "BROKEN"
        print(f"{name:12}{measured[name] / unit:10.2f} of {limit / unit:g}  {verdict}")


if __name__ == "__main__":
    main()

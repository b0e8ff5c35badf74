"""Compares skincell with its alternatives: same photos, same model, same threads, one run.

    python3 bench/setup.py
    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/compare.py [--threads 1] [--rounds 20] [--only NAME ...] [--out bench/results/compare.json]

All servers run at the same time, and requests alternate between them, so that other load on the machine
affects all equally. Prints a table and the promised ratios with "holds" or "DOES NOT HOLD", writes JSON, and
draws it. Servers that are not set up are skipped by name. Takes six minutes.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import time

from load import Photographer, crowd, spread
from peers import APP, PYTHON, installed, library, skincell_flags
from service import ROOT, Service, machine, photos

MIB = 1 << 20
CLIENTS, SLICE_S, STARTS = 8, 4, 3
WAYS = {"heatmap": "", "plain": "?gradcam=false"}
NO_HEATMAP = {"fastapi"}

# The promises: system, figure, way, compared system, largest (or smallest) ratio.
PROMISES = [
    ("onnxruntime", "p50", "plain", "fastapi", 0.95),
    ("onnxruntime", "throughput", "plain", "fastapi", -1.05),
    ("onnxruntime", "private", None, "fastapi", 0.7),
    ("rten", "p50", "heatmap", "keras", 0.2),
    ("rten", "private", None, "keras", 0.04),
    ("rten", "cold", None, "keras", 0.04),
    ("rten", "p50", "heatmap", "wasmtime", 0.3),
    ("cellnet", "p50", "plain", "fastapi", 0.95),
    ("cellnet", "throughput", "plain", "fastapi", -1.05),
    ("cellnet", "private", None, "fastapi", 0.7),
    ("cellnet", "p50", "heatmap", "keras", 0.2),
    ("cellnet", "private", None, "keras", 0.04),
    ("cellnet", "cold", None, "keras", 0.04),
    ("cellnet", "p50", "heatmap", "wasmtime", 0.3),
]


def systems(threads):
    """The start function of each server, by name."""
    there, missing = installed()
    engines = ["cellnet", "rten"] + (["onnxruntime"] if library() else [])
    found = {e: lambda e=e: Service(*skincell_flags(e, threads), app=APP) for e in engines}
    found |= {name: lambda kind=kind: kind(threads) for name, kind in there.items()}
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    return found


def ways(name):
    return {way: query for way, query in WAYS.items() if way == "plain" or name not in NO_HEATMAP}


def cold(starters, images):
    """Seconds from a process's start to its first answer, with a heatmap if it has one."""
    times = {name: [] for name in starters}
    for _ in range(STARTS):
        for name, start in starters.items():
            query = next(iter(ways(name).values()))
            with start() as server:
                Photographer(server, images, query).post()
                times[name].append(time.perf_counter() - server.started)
    return times


def in_turns(servers, images, rounds):
    """Milliseconds of requests from one client, for each system and way."""
    clients = {
        (name, way): Photographer(server, images, query)
        for name, server in servers.items()
        for way, query in ways(name).items()
    }
    taken = {key: [] for key in clients}
    for client in clients.values():
        client.post()  # loads the model
    for _ in range(rounds):
        for key, client in clients.items():
            first = client.post()[0]
            # Fast servers get more requests in the same turn.
            more = min(4, int(400 / first))
            taken[key] += [first] + [client.post()[0] for _ in range(more)]
    return taken


def at_once(servers, images):
    """Answers per second to many clients, for each system and way, from the better of two slices."""
    rates = {}
    for _ in range(2):
        for name, server in servers.items():
            for way, query in ways(name).items():
                rate, _ = crowd(server, images, CLIENTS, SLICE_S, query)
                rates.setdefault((name, way), []).append(rate)
    return rates


def measure(threads, rounds, only):
    images = photos()
    starters = {name: start for name, start in systems(threads).items() if not only or name in only}
    for start in starters.values():
        with start():
            pass  # fills compile caches
    firsts = cold(starters, images)
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(start()) for name, start in starters.items()}
        alone = in_turns(servers, images, rounds)
        rates = at_once(servers, images)
        memory = {name: server.memory() for name, server in servers.items()}
    middle = lambda values: sorted(values)[len(values) // 2]
    return {
        name: {
            "cold_s": middle(firsts[name]),
            "memory": memory[name],
            "ways": {
                way: spread(alone[name, way])
                | {"requests": len(alone[name, way]), "throughput": max(rates[name, way])}
                for way in ways(name)
            },
        }
        for name in starters
    }


def figure(system, what, way):
    if what == "cold":
        return system["cold_s"]
    if what == "private":
        return system["memory"]["private"]
    return system["ways"][way][what]


def show(result):
    where = result["machine"]
    print(f"\n{where['cpu']}, {where['cores']} cores, {where['date']}; {result['threads']} thread(s), "
          f"EfficientNetV2-S 300x300, {result['photos']} photos in turn\n")  # fmt: skip
    print(f"{'':12}{'':9}{'p50':>8}{'p90':>8}{'p99':>8}  ms {'8 clients':>10} /s{'cold':>8} s"
          f"{'private':>9}{'mapped':>8}{'peak':>8} MiB{'x p50':>8}")  # fmt: skip
    ours = next(iter(result["systems"].values()))["ways"]
    for name, system in result["systems"].items():
        for way, took in system["ways"].items():
            memory = system["memory"]
            print(f"{name:12}{way:9}" + "".join(f"{took[p]:8.1f}" for p in ("p50", "p90", "p99"))
                  + f"     {took['throughput']:10.2f}   {system['cold_s']:8.2f}  "
                  + "".join(f"{memory[m] / MIB:8.1f}" for m in ("private", "mapped", "peak"))
                  + f"    {took['p50'] / ours[way]['p50']:8.2f}")  # fmt: skip


def judge(result):
    """Prints each promise with its ratio; returns how many do not hold."""
    broken = 0
    print()
    for one, what, way, other, limit in PROMISES:
        if not {one, other} <= set(result["systems"]):
            print(f"{one} / {other}, {what}: not measured, one of them is not set up")
            continue
        ratio = figure(result["systems"][one], what, way) / figure(result["systems"][other], what, way)
        holds = ratio <= limit if limit > 0 else ratio >= -limit
        broken += not holds
        sign = "<=" if limit > 0 else ">="
        label = f"{one} / {other}, {what}" + (f" {way}" if way else "")
        print(f"{label:45} {ratio:7.3f} {sign} {abs(limit):g}  {'holds' if holds else 'DOES NOT HOLD'}")
    return broken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", help="such as cellnet fastapi")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "compare.json")
    asked = parser.parse_args()
    result = {"machine": machine(), "threads": asked.threads, "photos": len(photos()),
              "clients": CLIENTS, "systems": measure(asked.threads, asked.rounds, asked.only)}  # fmt: skip
    show(result)
    broken = judge(result)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    python = PYTHON / "bin" / "python"
    subprocess.run([python, ROOT / "bench" / "draw.py", "compare", asked.out], check=True)
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())

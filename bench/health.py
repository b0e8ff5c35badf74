"""Measures `GET /health`, which uses no model: the cost of host and instance, compared with `wasmtime serve`.

    python3 bench/setup.py wasmtime
    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/health.py [--seconds 3] [--rounds 5] [--out FILE]

Both serve the same component, alternating. Exits with 1 if skincell answers fewer requests per second, with 1
client or with 8, or needs more than 1 ms for one. `/healthz`, which the runner answers itself, shows the
share of HTTP.
"""

import argparse
import json
import pathlib

from load import quantile, small_requests
from peers import Wasmtime, installed
from service import ROOT, Service, machine

MOST_MS = 1.0
CLIENTS = (1, 8)


class Plain(Wasmtime):
    """`wasmtime serve` without wasi-nn's models, which it would load for each request."""

    def command(self):
        words = [word for word in super().command() if "nn-graph" not in str(word)]
        return words


def measure(seconds, rounds):
    targets = {"skincell /health": "/health", "skincell /healthz": "/healthz"}
    kinds, missing = installed()
    found = {}
    with Service("--quiet") as ours:
        servers = {name: (ours, path) for name, path in targets.items()}
        if "wasmtime" in kinds:
            with Plain(1) as theirs:
                turns({**servers, "wasmtime serve /health": (theirs, "/health")}, seconds, rounds, found)
        else:
            print(f"wasmtime is left out: {missing['wasmtime']}")
            turns(servers, seconds, rounds, found)
    return found


def turns(servers, seconds, rounds, found):
    for server, path in servers.values():
        small_requests(server, path, 2, 0.5)
    taken = {}
    for _ in range(rounds):
        for name, (server, path) in servers.items():
            for clients in CLIENTS:
                rate, milliseconds = small_requests(server, path, clients, seconds / rounds)
                rates, all_of = taken.setdefault((name, clients), ([], []))
                rates.append(rate)
                all_of.extend(milliseconds)
    for (name, clients), (rates, all_of) in taken.items():
        found.setdefault(name, {})[clients] = {
            "rate": quantile(rates, 0.5), "p50": quantile(all_of, 0.5), "p99": quantile(all_of, 0.99),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "health.json")
    asked = parser.parse_args()
    where, found = machine(), measure(asked.seconds, asked.rounds)
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}")
    for name, by_clients in found.items():
        for clients, one in by_clients.items():
            print(f"{name:24} {clients} client(s): {one['rate']:8.0f} /s, p50 {one['p50']:.3f} ms, p99 {one['p99']:.3f}")
    checks = [("p50 in ms", found["skincell /health"][1]["p50"], MOST_MS)]
    if "wasmtime serve /health" in found:
        for clients in CLIENTS:
            rate = lambda name: found[name][clients]["rate"]
            ratio = rate("wasmtime serve /health") / rate("skincell /health")
            checks.append((f"wasmtime serve / skincell, {clients} client(s)", ratio, 1.0))
    broken = 0
    for name, value, limit in checks:
        broken += value > limit
        print(f"{name:40} {value:.3f} <= {limit:g}  {'holds' if value <= limit else 'DOES NOT HOLD'}")
    asked.out.write_text(json.dumps({"machine": where, "servers": found}, indent=1) + "\n")
    return bool(broken)


if __name__ == "__main__":
    raise SystemExit(main())

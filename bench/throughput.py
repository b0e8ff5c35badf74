"""Measures photos per second of the release runner, with heatmaps, for deploy/figures.toml.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/throughput.py [--clients 8] [--requests 400] [--rounds 3]

Clients and service share the machine's cores, unlike in a deployment, so the figure is conservative.
"""

import argparse
import statistics
import time

from service import Service, machine, photos


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rates, answers = [], []
    with Service() as service:
        service.post_photos(photos(), 2 * args.clients, args.clients)
        for _ in range(args.rounds):
            begin = time.perf_counter()
            answers += service.post_photos(photos(), args.requests, args.clients)
            rates.append(args.requests / (time.perf_counter() - begin))
        memory = service.memory()
    if {status for _, status in answers} != {200}:
        raise SystemExit(f"not every photo was answered: {sorted({status for _, status in answers})}")
    seconds = sorted(took for took, _ in answers)
    print(machine())
    print(f"{statistics.median(rates):.1f} photos a second with {args.clients} clients (of {args.rounds} rounds: "
          f"{', '.join(f'{rate:.1f}' for rate in rates)})")
    print(f"a photo: median {statistics.median(seconds) * 1e3:.0f} ms, 99 in 100 within "
          f"{seconds[int(len(seconds) * 0.99)] * 1e3:.0f} ms; peak {memory['peak'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

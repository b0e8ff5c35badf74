"""Compares this build with one of an earlier commit, built in another checkout, in turns within one run.

    git worktree add ../before COMMIT
    # in both: cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/before.py ../before [--rounds 10] [--model FOLDER ...]

Both serve the earlier checkout's `models/skin`, or the given model folders, each packed by its own build. Prints
`/health` and `/healthz` over HTTP/1.1, photos without and with a heatmap, the engine's run, the start, and memory, each
with the ratio of this build to the earlier one. Exits with 1 if a ratio of medians exceeds 1.05, or private memory
1.05 and 1 MiB more. Takes three minutes.
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from load import Photographer, crowd, quantile, small_requests
from service import ROOT, Service, machine, photos

MOST, MIB = 1.05, 1 << 20
SECONDS, CLIENTS, STARTS = 0.5, 8, 15
BEFORE, NOW = "before", "now"


def application(folder, checkout, models):
    """The application of a checkout with copies of these models, packed by its own build: binary and folder."""
    binary = checkout / "target" / "release" / "skincell"
    manifest = (checkout / "spin.toml").read_text().replace('"target/', f'"{checkout}/target/')
    names = json.dumps([model.name for model in models])
    manifest = re.sub("(?m)^ai_models = .*$", f"ai_models = {names}", manifest)
    manifest = re.sub("(?m)^files = .*$", 'files = ["models/*/card.json"]', manifest)
    manifest = re.sub("(?m)^SKINCELL_MODEL = .*$", f'SKINCELL_MODEL = "{models[0].name}"', manifest)
    (folder / "spin.toml").write_text(manifest)
    for model in models:
        copy = folder / "models" / model.name
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("model.cell"))
        subprocess.run([binary, "model", "pack", copy], check=True, stdout=subprocess.DEVNULL)
    return binary, folder


def started(binary, app):
    return Service("--quiet", binary=binary, app=app, stderr=subprocess.DEVNULL)


def start_ms(binary, app):
    with started(binary, app) as service:
        service.get("/healthz")
        return (time.perf_counter() - service.started) * 1e3


def in_turns(services, turn):
    """Both services by name. Whoever comes second may find a warmer or a busier machine, so the order changes."""
    pair = list(services.items())
    return pair if turn % 2 else pair[::-1]


def small(services, turn, add):
    """Microseconds of a request that needs no model."""
    for path in ("/health", "/healthz"):
        for clients in (1, CLIENTS):
            for name, service in in_turns(services, turn):
                rate, _ = small_requests(service, path, clients, SECONDS)
                add(name, f"GET {path}, {clients} client(s), µs", 1e6 / rate)


def large(services, turn, models, images, add):
    """Milliseconds of photos, one by one from both services, then from many clients."""
    for model in models:
        for kind, query in (("photo", "&gradcam=false"), ("photo with heatmap", "")):
            query = f"?model={model.name}{query}"
            clients = {name: Photographer(service, images, query) for name, service in services.items()}
            for image in range(len(images)):
                for name, client in in_turns(clients, turn + image):
                    milliseconds, body = client.post()
                    add(name, f"{model.name}: {kind}, ms", milliseconds)
                    add(name, f"{model.name}: run of the engine, ms", json.loads(body)["timing_ms"]["inference"])
        for name, service in in_turns(services, turn):
            rate, _ = crowd(service, images, CLIENTS, 2 * SECONDS, f"?model={model.name}")
            add(name, f"{model.name}: photo with heatmap, {CLIENTS} clients, ms", 1e3 / rate)


def measure(builds, models, rounds):
    """Lists of values for each figure of each build."""
    images, taken = photos(), {name: {} for name in builds}
    kept = lambda name, figure, value: taken[name].setdefault(figure, []).append(value)
    with contextlib.ExitStack() as stack:
        services = {name: stack.enter_context(started(*build)) for name, build in builds.items()}
        for turn in range(rounds + 1):
            # The first turn warms both up.
            add = kept if turn else lambda *_: None
            small(services, turn, add)
            large(services, turn, models, images, add)
        for name, service in services.items():
            memory = service.memory()
            kept(name, "private memory, MiB", memory["private"] / MIB)
            kept(name, "peak, MiB", memory["peak"] / MIB)
    for turn in range(STARTS):
        for name, build in in_turns(builds, turn):
            kept(name, "start, ms", start_ms(*build))
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=pathlib.Path, help="the earlier checkout, built")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", type=pathlib.Path, action="append", help="a prepared folder that both builds read")
    asked = parser.parse_args()
    checkouts = {BEFORE: asked.before.resolve(), NOW: ROOT}
    models = [model.resolve() for model in asked.model or [checkouts[BEFORE] / "models" / "skin"]]
    where = machine()
    with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
        folders = {BEFORE: pathlib.Path(old), NOW: pathlib.Path(new)}
        builds = {name: application(folders[name], checkout, models) for name, checkout in checkouts.items()}
        taken = measure(builds, models, asked.rounds)
    commits = [subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.strip() for folder in checkouts.values()]  # fmt: skip
    print(f"{where['cpu']}, {where['cores']} cores, {where['date']}: {commits[1]} after {commits[0]}, "
          f"medians of {asked.rounds} turns")
    worse = 0
    for name, values in taken[BEFORE].items():
        before, now = quantile(values, 0.5), quantile(taken[NOW][name], 0.5)
        is_memory = name.endswith("MiB")
        is_worse = now > MOST * before and (not is_memory or now > before + 1)
        worse += is_worse
        print(f"{name:44} {before:9.2f} {now:9.2f}  {now / before:.3f}  {'WORSE' if is_worse else 'holds'}")
    return bool(worse)


if __name__ == "__main__":
    raise SystemExit(main())

"""Measures latency and private memory over the number of clients, the photo's size and the model's size.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/setup.py python keras model
    bench/.env/python/bin/python bench/curves.py [clients] [megapixels] [weights] [--out bench/results/curves.json]

Private memory is the peak during requests, sampled from the kernel's figure. At each point the servers
alternate. Writes JSON, and `draw.py` makes the pictures in docs/images. Takes six minutes.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import threading

from large import PHOTOS, encoded, enlarged
from load import Photographer, crowd, quantile
from peers import APP, ENV, PYTHON, installed, library, skincell_flags
from service import BINARY, ROOT, Service, machine, photos

MIB = 1 << 20
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
MEGAPIXELS = (0.1, 0.3, 1, 3, 6, 12, 24, 48)
# Shares of EfficientNetV2-S's channels; weights grow with the square.
WIDTHS = (0.25, 0.5, 0.75, 1.0)
SLICE_S, POSTS = 3, 5


class Watch:
    """A server's peak private memory while this context is active, in MiB."""

    def __init__(self, server):
        self.server, self.most, self.ends = server, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.ends.wait(0.005):
            with contextlib.suppress(OSError, ValueError):
                self.most = max(self.most, self.server.memory()["private"] / MIB)

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def starters(names, app=APP):
    """The start function of each named server that is set up."""
    kinds, missing = installed()
    found = {}
    for name in names:
        if name in ("cellnet", "rten", "onnxruntime"):
            flags = skincell_flags(name, 1) + ["--queue", 256, "--queue-timeout", "60s", "--request-timeout", "60s",
                                               "--max-body", "32MiB", "--env", "SKINCELL_MAX_BODY=32MiB"]  # fmt: skip
            found[name] = lambda flags=flags: Service(*flags, app=app)
        elif name in kinds:
            found[name] = lambda kind=kinds[name]: kind(1)
        else:
            print(f"{name} is left out: {missing[name]}")
    return found


def over_clients():
    """p50 in ms, answers per second and private MiB by server and number of clients, without heatmaps."""
    images, rows = photos(), []
    for clients in CLIENTS:
        for name, start in starters(["cellnet", "onnxruntime", "fastapi", "keras"]).items():
            if name == "keras" and clients > 4:
                continue  # it would answer no client within a minute
            with start() as server:
                Photographer(server, images, "?gradcam=false").post()
                with Watch(server) as watch:
                    rate, taken = crowd(server, images, clients, SLICE_S, "?gradcam=false")
            row = {"server": name, "x": clients, "p50": quantile(taken, 0.5), "rate": rate, "private": watch.most}
            rows.append(row)
            print(row, flush=True)
    return rows


def over_megapixels():
    """p50 in ms and private MiB for each server and photo, a JPEG with sensor noise."""
    rows = []
    with contextlib.ExitStack() as stack:
        servers = {n: stack.enter_context(s()) for n, s in starters(["cellnet", "fastapi"]).items()}
        for megapixels in MEGAPIXELS:
            height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
            jpeg = encoded(enlarged(PHOTOS / "skin.jpg", height * 4 // 3, height), "JPEG", quality=80)
            clients = {n: Photographer(s, [jpeg], "?gradcam=false") for n, s in servers.items()}
            taken, most = {n: [] for n in servers}, dict.fromkeys(servers, 0)
            for turn in range(POSTS + 1):
                for name, client in clients.items():
                    with Watch(servers[name]) as watch:
                        took = client.post()[0]
                    if turn:
                        taken[name].append(took)
                        most[name] = max(most[name], watch.most)
            for name in servers:
                rows.append({"server": name, "x": megapixels, "p50": quantile(taken[name], 0.5),
                             "private": most[name], "bytes": len(jpeg)})  # fmt: skip
                print(rows[-1], flush=True)
    return rows


def widened(width):
    """An application with EfficientNetV2-S of this width, and its weights in MB."""
    app = ENV / "widths" / f"{width}"
    model = app / "models" / "v2s"
    if not (model / "model.cell").exists():
        app.mkdir(parents=True, exist_ok=True)
        name = f"efficientnetv2-s@{width}"
        script = ROOT / "bench" / "engine" / "make_models.py"
        subprocess.run([PYTHON / "bin" / "python", script, app, name], check=True)
        subprocess.run([BINARY, "model", "prepare", app / f"{name}.onnx", "--labels",
                        ROOT / "models" / "labels" / "skin.txt", "-o", model, "--scores", "logits",
                        "--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5", "--force",
                        "--cam-target", "activation"], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        (app / f"{name}.onnx").unlink()
    (app / "spin.toml").write_text((APP / "spin.toml").read_text())
    return app, (model / "model.onnx.data").stat().st_size / 1e6


def over_weights():
    """p50 in ms, private MiB and seconds to the first answer for each engine and model, with heatmaps."""
    images, rows = photos(), []
    for width in WIDTHS:
        app, megabytes = widened(width)
        found = starters(["cellnet", "rten"] + (["onnxruntime"] if library() else []), app)
        with contextlib.ExitStack() as stack:
            servers = {n: stack.enter_context(s()) for n, s in found.items()}
            clients = {n: Photographer(s, images) for n, s in servers.items()}
            taken, most = {n: [] for n in servers}, dict.fromkeys(servers, 0)
            for turn in range(POSTS + 1):
                for name, client in clients.items():
                    with Watch(servers[name]) as watch:
                        took = client.post()[0]
                    if turn:
                        taken[name].append(took)
                    most[name] = max(most[name], watch.most)
        for name in found:
            rows.append({"server": name, "x": megabytes, "p50": quantile(taken[name], 0.5), "private": most[name]})
            print(rows[-1], flush=True)
    return rows


def main():
    ways = {"clients": over_clients, "megapixels": over_megapixels, "weights": over_weights}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("over", nargs="*", choices=[*ways, []])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "curves.json")
    asked = parser.parse_args()
    result = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for name in asked.over or ways:
        result[name] = {"machine": machine(), "rows": ways[name]()}
        asked.out.write_text(json.dumps(result, indent=1) + "\n")
    subprocess.run([PYTHON / "bin" / "python", ROOT / "bench" / "draw.py", "curves", asked.out], check=True)


if __name__ == "__main__":
    main()

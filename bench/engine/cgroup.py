"""Serves a model larger than the memory: `skincell up` in a memory cgroup, with cellnet and rten alternating.

    python cgroup.py SKINCELL_BINARY COMPONENT.wasm MODEL.onnx [--limit 64] [--alone] [--rounds 20]
        [--keep]

Prepares MODEL (say `efficientnetv2-s.onnx` from `make_models.py`) for a copy of the repository's application,
starts one server for each engine, each in its own cgroup of this many MiB, and posts the same photo to them
alternately. Prints for each: answers, median time of a request and of its inference, the cgroup's peak, and
processes killed. The model's files are first dropped from the page cache, so that their pages count against
the cgroups and not against an earlier reader. Exits with 1 if cellnet leaves a photo unanswered
or without its heatmap, is killed, or is slower than rten. With `--alone` there is no rten beside it: a graph of
bytes (`quantized.py`) is served in 32 MiB, where rten has no room.

Needs root, Linux with cgroup v1 or v2 memory control, and `onnx`.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import onnx

from results import Results

REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO = REPOSITORY / "tests" / "photos" / "drawn-eczema-1.jpg"
V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


class Group:
    """A memory cgroup, removed at the end."""

    def __init__(self, name, limit):
        self.v1 = (V1 / "memory.limit_in_bytes").exists()
        self.path = (V1 if self.v1 else V2) / f"cellnet-{os.getpid()}-{name}"
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(limit))

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self):
        name = "memory.max_usage_in_bytes" if self.v1 else "memory.peak"
        return int((self.path / name).read_text()) / 2**20

    def killed(self):
        name = "memory.oom_control" if self.v1 else "memory.events"
        lines = dict(line.split() for line in (self.path / name).read_text().splitlines())
        return int(lines.get("oom_kill", 0))

    def remove(self):
        self.path.rmdir()


def prepare(args, app):
    graph = onnx.load(args.model, load_external_data=False).graph
    scores = next(o for o in graph.output if o.name == "logits")
    classes = scores.type.tensor_type.shape.dim[-1].dim_value
    (app / "labels.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
    model = app / "models" / "big"
    model.parent.mkdir()
    run = lambda *words: subprocess.run([args.skincell, "model", *map(str, words)], check=True,
                                        stdout=subprocess.DEVNULL)
    words = ["--labels", app / "labels.txt", "-o", model, "--scores", "logits"]
    if any(output.name == "activation" for output in graph.output):
        words += ["--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5", "--cam-target", "activation"]
    if args.alone:
        # Engines round bytes differently by a step.
        words += ["--max-difference", "0.01"]
    run("prepare", args.model, *words)
    manifest = (REPOSITORY / "spin.toml").read_text()
    manifest = manifest.replace("target/wasm32-wasip2/release/skincell.wasm", str(Path(args.component).resolve()))
    manifest = manifest.replace('["skin", "imagenet"]', '["big"]').replace('"skin"', '"big"')
    (app / "spin.toml").write_text(manifest)
    return model


def drop(folder):
    os.sync()
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Server:
    def __init__(self, args, app, engine, group=None):
        command = [args.skincell, "up", "--from", app, "--listen", "127.0.0.1:0", "--engine", engine,
                   "--threads", "1", "--max-concurrency", "1", "--cache-dir", app / "cache", "--quiet"]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL, preexec_fn=group and group.enter)
        line = self.process.stdout.readline()
        self.address = line.strip().rsplit("/", 1)[-1] if "http://" in line else None

    def post(self, photo):
        """Milliseconds of the request and of its inference, or the error."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        begin = time.perf_counter()
        try:
            connection.request("POST", "/predict", photo, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            return str(error)
        took = (time.perf_counter() - begin) * 1e3
        if response.status != 200:
            return f"{response.status} {body[:200]}"
        answer = json.loads(body)
        if not answer["heatmap_base64"]:
            return f"no heatmap: {answer.get('heatmap_missing')}"
        return took, answer["timing_ms"]["inference"]

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def judge(args, answers, groups):
    """The results: answers, killed processes, and the ratio of the two engines."""
    model, results, p50 = Path(args.model).stem, Results(args.keep), {}
    for engine, all_answers in answers.items():
        good = [a for a in all_answers if isinstance(a, tuple)]
        bad = [a for a in all_answers if not isinstance(a, tuple)]
        must = 0 if engine == "cellnet" else None
        about = f"{model} in {args.limit} MiB, {engine}"
        if good:
            p50[engine] = median(a[1] for a in good)
            results.add("3", f"{about}: inference, p50", p50[engine], unit="ms",
                        note=f"first request {good[0][0]:.0f} ms, p50 {median(a[0] for a in good):.0f} ms; "
                             f"peak {groups[engine].peak():.1f} MiB")
        results.add("3", f"{about}: photos of {len(all_answers)} not answered", len(bad), must,
                    note=str(bad[0]) if bad else "")
        results.add("3", f"{about}: processes killed", groups[engine].killed(), must)
    if len(p50) == 2:
        results.add("3", f"{model} in {args.limit} MiB: inference beside rten, p50",
                    p50["cellnet"] / p50["rten"], 1.0)
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("skincell")
    parser.add_argument("component")
    parser.add_argument("model")
    parser.add_argument("--limit", type=int, default=64, help="MiB")
    parser.add_argument("--alone", action="store_true", help="no rten beside it")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    photo = PHOTO.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder)
        model = prepare(args, app)
        sizes = {p.name: p.stat().st_size / 2**20 for p in model.iterdir()}
        print(f"limit {args.limit} MiB; " + ", ".join(f"{n} {s:.1f} MiB" for n, s in sizes.items()))
        # Started once outside of any cgroup, so that the component's machine code is in the cache.
        Server(args, app, "cellnet").close()
        drop(model)
        groups = {e: Group(e, args.limit * 2**20) for e in ("cellnet", "rten")[:1 if args.alone else 2]}
        servers = {e: Server(args, app, e, group) for e, group in groups.items()}
        answers = {e: [] for e in groups}
        for _ in range(args.rounds):
            for engine, server in servers.items():
                answers[engine].append(server.post(photo))
        for engine, server in servers.items():
            server.close()
        results = judge(args, answers, groups)
        for group in groups.values():
            group.remove()
    sys.exit(results.end())


if __name__ == "__main__":
    main()

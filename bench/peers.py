"""Starts the servers that skincell is compared with, installed by `setup.py` into `bench/.env`.

Each listens on a free loopback port with a given number of threads and answers `POST /predict` with a photo
as the body. `compare.py` compares them.
"""

import os
import pathlib
import socket
import subprocess
import time

from service import ROOT, TIMEOUT_S, Server

ENV = ROOT / "bench" / ".env"
PYTHON, KERAS, WASMTIME = ENV / "python", ENV / "keras", ENV / "wasmtime" / "bin" / "wasmtime"
APP = ENV / "app"
MODEL = "v2s"
ONNX, SAVED, OPENVINO = ENV / "model" / "big.onnx", ENV / "model" / "big.keras", ENV / "openvino"
COMPONENT = ROOT / "target" / "wasm32-wasip2" / "release" / "skincell.wasm"


def library():
    """The ONNX Runtime library of the Python package, or None."""
    found = sorted(PYTHON.glob("lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*"))
    return found[0] if found else None


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Peer(Server):
    """Another server, as a context manager."""

    def __init__(self, threads):
        self.threads, self.host = threads, "127.0.0.1"

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def __enter__(self):
        self.port = free_port()
        environment = os.environ | {"PEER_THREADS": str(self.threads)} | self.environment()
        self.log = (ENV / f"{type(self).__name__.lower()}.log").open("w")
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [str(word) for word in self.command()], env=environment, cwd=ROOT / "bench" / "peers",
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        while time.perf_counter() < self.started + TIMEOUT_S:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.005)
        self.process.kill()
        raise SystemExit(f"{self.command()[0]} did not start: see {self.log.name}")


class Keras(Peer):
    """Like the origin app: one gunicorn worker with two threads, the model loaded at import."""

    def command(self):
        return [KERAS / "bin" / "gunicorn", "--workers", 1, "--threads", 2, "--timeout", TIMEOUT_S,
                "--bind", f"127.0.0.1:{self.port}", "keras_app:app"]  # fmt: skip

    def environment(self):
        return {"PEER_MODEL": str(SAVED), "OMP_NUM_THREADS": str(self.threads)}


class Fastapi(Peer):
    """FastAPI under uvicorn over ONNX Runtime."""

    def command(self):
        return [PYTHON / "bin" / "python", "-m", "uvicorn", "--log-level", "warning",
                "--port", self.port, "fastapi_app:app"]  # fmt: skip

    def environment(self):
        return {"PEER_MODEL": str(ONNX)}


class Wasmtime(Peer):
    """`wasmtime serve` with the same component, over OpenVINO."""

    def command(self):
        return [WASMTIME, "serve", "-Scli,nn", f"-Snn-graph=openvino::{OPENVINO / MODEL}",
                "--dir", f"{OPENVINO}::/models", "--env", f"SKINCELL_MODEL={MODEL}",
                "--addr", f"127.0.0.1:{self.port}", COMPONENT]  # fmt: skip

    def environment(self):
        # The folder where the crate openvino finds libopenvino_c.so, and the limit on OpenVINO's threads.
        return {"LD_LIBRARY_PATH": str(ENV / "openvino-libs"), "OMP_NUM_THREADS": str(self.threads)}


def skincell_flags(engine, threads):
    """The options of `skincell up` for serving the same model."""
    flags = ["--quiet", "--engine", engine, "--threads", threads]
    if engine == "onnxruntime":
        flags += ["--engine-lib", library()]
    return flags


def installed():
    """The available peers by name, and the reasons why others are missing."""
    wants = {"keras": (Keras, KERAS, SAVED), "fastapi": (Fastapi, PYTHON, ONNX),
             "wasmtime": (Wasmtime, WASMTIME, OPENVINO / MODEL / "model.xml")}  # fmt: skip
    there, missing = {}, {}
    for name, (kind, *paths) in wants.items():
        lacking = [str(pathlib.Path(p).relative_to(ROOT)) for p in paths if not p.exists()]
        if lacking:
            missing[name] = f"no {', '.join(lacking)}; run `python3 bench/setup.py`"
        else:
            there[name] = kind
    return there, missing

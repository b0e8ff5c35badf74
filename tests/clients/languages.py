"""Builds applications in JavaScript and Python that call wasi:nn, with the tools of the npm registry and PyPI and in
the shape of Spin's templates, and serves them beside the repository's own: their logits equal those of /v2, no request
sees what another one left behind, and leaks end with their request.

    (cd tests/clients/languages/javascript && npm ci)
    python3 -m venv target/languages
    target/languages/bin/pip install --require-hashes -r tests/clients/languages/python/requirements.txt
    python tests/clients/languages.py
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy
import requests

from service import REPOSITORY, manifest, served

SOURCES = REPOSITORY / "tests/clients/languages"
TOOLS = REPOSITORY / "target/languages"
# The one that spin-sdk 5.0.0 for Python describes, and the interfaces of wasi:nn.
WORLDS = ["spin:up/http-trigger@4.1.0", "wasi:nn/ml@0.2.0-rc-2024-10-28"]
SHAPE = (1, 3, 224, 224)
REQUESTS = 1000
AT_ONCE = 8
# 1,000 leaks of 1 MiB are 1,000 MiB if they outlive their request.
GROWTH_MB = 32
START_SECONDS = 600


def build():
    """The two components, by language."""
    javascript = SOURCES / "javascript"
    subprocess.run(["npm", "run", "--silent", "build"], cwd=javascript, check=True, stdout=subprocess.DEVNULL)
    python = TOOLS / "python.wasm"
    worlds = [argument for world in WORLDS for argument in ("-w", world)]
    tool = [TOOLS / "bin/componentize-py", "-q", "-d", REPOSITORY / "wit", *worlds, "componentize", "app"]
    environment = {**os.environ, "VIRTUAL_ENV": str(TOOLS)}
    subprocess.run([*tool, "-o", python], cwd=SOURCES / "python", check=True, env=environment)
    shutil.rmtree(SOURCES / "python/__pycache__", ignore_errors=True)
    return {"javascript": javascript / "dist/javascript.wasm", "python": python}


def application(components):
    """The manifest of all three."""
    tables = [f"""
[[trigger.http]]
route = "/{name}/..."
component = "{name}"

[component.{name}]
source = {json.dumps(str(wasm))}
ai_models = ["skin"]
""" for name, wasm in components.items()]
    return manifest() + "".join(tables)


def expected(address, pixels):
    """The logits that /v2 gives."""
    image = {"name": "image", "shape": SHAPE, "datatype": "FP32", "data": pixels.ravel().tolist()}
    body = {"inputs": [image], "outputs": [{"name": "logits"}]}
    answer = requests.post(f"{address}/v2/models/skin/infer", json=body, timeout=60)
    answer.raise_for_status()
    return numpy.array(answer.json()["outputs"][0]["data"], numpy.float32)


def infer(address, name):
    for seed in range(3):
        pixels = numpy.random.default_rng(seed).normal(size=SHAPE).astype("<f4")
        answer = requests.post(f"{address}/{name}/infer", data=pixels.tobytes(), timeout=60)
        answer.raise_for_status()
        logits = expected(address, pixels)
        assert answer.content == logits.astype("<f4").tobytes(), (answer.content, logits)
    print(f"{name}: {len(logits)} logits of 3 tensors equal those of /v2")


def call_often(address, path):
    """The different answers to 1,000 requests, 8 at a time."""
    local = threading.local()

    def call(number):
        if not hasattr(local, "session"):
            local.session = requests.Session()
        answer = local.session.get(f"{address}{path}?{number}", timeout=60)
        answer.raise_for_status()
        return answer.text

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return set(pool.map(call, range(REQUESTS)))


def private_mb(address):
    return requests.get(f"{address}/memory", timeout=60).json()["memory"]["private_mb"]


def isolate(address, name):
    seen = call_often(address, f"/{name}/marker")
    assert seen == {"nothing"}, seen
    # The runner returns free memory every 5 s.
    time.sleep(6)
    before = private_mb(address)
    leaked = call_often(address, f"/{name}/leak")
    assert leaked == {"1"}, leaked
    time.sleep(6)
    grown = private_mb(address) - before
    assert grown < GROWTH_MB, grown
    print(f"{name}: {REQUESTS} requests, {AT_ONCE} at once, saw no marker of another; "
          f"as many leaks of 1 MiB left the process {grown:+.1f} MB larger")


def main():
    components = build()
    for name, wasm in components.items():
        print(f"{name}: {wasm.stat().st_size / (1 << 20):.1f} MiB")
    options = ["--max-instance-memory", "64MiB"]
    with served(application(components), ("skin", "imagenet"), *options, seconds=START_SECONDS) as address:
        for name in components:
            answer = requests.get(f"{address}/{name}/", timeout=60)
            assert answer.status_code == 200 and answer.text.startswith("Hello from"), answer.text
            infer(address, name)
            isolate(address, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

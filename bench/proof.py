"""Shared by the proofs: an application under test, answers without their varying parts, and concurrent
clients. Only the standard library."""

import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile
import threading

from service import BINARY, ROOT

WASM = ROOT / "target" / "wasm32-wasip2" / "release" / "skincell.wasm"
GUESTS = WASM.with_name("skincell_guests.wasm")


@contextlib.contextmanager
def application():
    """A copy of the application whose models may be damaged, with the misbehaving guest."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name in ("skin", "imagenet"):
            model = folder / "models" / name
            shutil.copytree(ROOT / "models" / name, model)
            if not (model / "model.cell").exists():
                subprocess.run([BINARY, "model", "pack", model], check=True, capture_output=True)
        manifest = (ROOT / "spin.toml").read_text()
        manifest = manifest.replace("target/wasm32-wasip2/release/skincell.wasm", str(WASM))
        manifest += f'''
[[trigger.http]]
route = "/guest/..."
component = "guest"
[component.guest]
source = "{GUESTS}"
ai_models = ["skin"]
'''
        (folder / "spin.toml").write_text(manifest)
        yield folder


def answer(service, connection, photo, query="", headers=()):
    """Status and body without their varying parts; 0 if the connection broke."""
    fields = {"Content-Type": "application/octet-stream", **dict(headers)}
    connection.request("POST", "/predict" + query, body=photo, headers=fields)
    response = connection.getresponse()
    body = response.read()
    if response.status == 200:
        fields = json.loads(body)
        fields.pop("timing_ms")
        body = json.dumps(fields, sort_keys=True)
    if response.getheader("Connection") == "close":
        connection.close()
    return response.status, body


def crowd(service, jobs, clients):
    """Posts `jobs`, each (photo, query), from this many clients; returns the answers in the order of jobs."""
    outcomes, numbers = [None] * len(jobs), itertools.count()

    def client():
        connection = service.connect()
        while (number := next(numbers)) < len(jobs):
            try:
                outcomes[number] = answer(service, connection, *jobs[number])
            except OSError as error:
                outcomes[number] = (0, repr(error))
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes

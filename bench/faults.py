"""A table of faults around the service; tests whether it works afterwards. Exits with 1 if it does not.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell -p skincell-guests
    python3 bench/faults.py [ROW …]

Every row starts its own service, causes the fault, and then posts a photo with a known answer: the response
must be 200 and the same. Loopback only, with time limits, only the standard library. `disk` mounts a small
file system and needs root; without root it is skipped with a message. `strangers.py` has the rows about
hostile clients.
"""

import argparse
import collections
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import strangers
from proof import answer, application, crowd
from service import Service, keep, photos

PHOTO = photos()[0]


def one(service, query=""):
    connection = service.connect()
    try:
        return answer(service, connection, PHOTO, query)
    finally:
        connection.close()


def head(length):
    return (f"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n").encode()


def leavers(service, _, expected):
    """1,000 clients disconnect at random points."""
    dice = random.Random(5)
    whole = head(len(PHOTO)) + PHOTO

    def leave(count):
        for _ in range(count):
            with socket.create_connection((service.host, service.port), timeout=30) as client:
                kind = dice.randrange(3)
                with contextlib.suppress(OSError):
                    client.sendall(whole[: dice.randrange(len(whole))] if kind == 0 else whole)
                    if kind == 2:
                        client.settimeout(dice.random() / 5)
                        client.recv(dice.randrange(1, 4000))

    threads = [threading.Thread(target=leave, args=(125,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    between = [one(service) for _ in range(20)]
    for thread in threads:
        thread.join()
    others = collections.Counter(status for status, _ in between)
    return all(o == expected or o[0] == 503 for o in between), f"others meanwhile {dict(others)}"


def slow(service, _, expected):
    """200 clients send heads and bodies byte by byte while regular clients are served."""
    stop, clients = threading.Event(), []
    for number in range(200):
        client = socket.create_connection((service.host, service.port), timeout=30)
        client.sendall(head(5_000_000) if number % 2 else b"POST /predict HT")
        clients.append(client)

    def drip():
        while not stop.wait(0.5):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    outcomes = crowd(service, [(PHOTO, "")] * 200, 4)
    stop.set()
    dripping.join()
    for client in clients:
        client.close()
    return outcomes == [expected] * 200, f"good ones {dict(collections.Counter(s for s, _ in outcomes))}"


def replace(path, data):
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def model(service, folder, expected):
    """A model file is missing, restored, and under load replaced by rename 50 times and truncated 20 times."""
    path = folder / "models" / "skin" / "model.cell"
    data, seen = path.read_bytes(), collections.Counter()
    onnx = {p: p.read_bytes() for p in path.parent.glob("model.onnx*")}
    path.unlink()
    for other in onnx:
        other.unlink()
    missing = one(service)[0]
    for other, bytes_ in onnx.items():
        replace(other, bytes_)
    replace(path, data)
    back = one(service) == expected
    stop, wrong = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                outcome = one(service)
            except OSError:
                outcome = (0, b"")
            seen[outcome[0]] += 1
            if outcome[0] == 200 and outcome != expected:
                wrong.append(outcome)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        replace(path, data)
        time.sleep(0.02)
    replaced = dict(seen)
    for cut in range(20):
        os.truncate(path, random.Random(cut).randrange(len(data)))
        time.sleep(0.05)
        replace(path, data)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    kept = missing == 503 and back and set(replaced) <= {200} and not wrong and set(seen) <= {200, 500, 503}
    return kept, f"missing {missing}, under replacement {replaced}, in all {dict(seen)}, {len(wrong)} wrong"


def guests(service, _, expected):
    """A guest traps, spins, allocates without end, leaks handles and tensors, and opens 10,000 contexts."""
    seen = {}
    for path in ("trap", "panic", "recurse", "allocate", "handles", "tensors", "contexts?skin", "loop", "silent"):
        seen[path] = service.get(f"/guest/{path}")[0]
        if one(service) != expected:
            return False, f"not well after {path}"
    wanted = {"allocate": 413, "loop": 504, "contexts?skin": 200}
    return all(status == wanted.get(path, 500) for path, status in seen.items()), str(seen)


def terminate(service, _, expected):
    """SIGTERM under load: every accepted request is answered, and the exit code is 0."""
    outcomes, refused, lock = [], [0], threading.Lock()

    def ask():
        while True:
            try:
                connection = service.connect()
                connection.connect()
            except ConnectionRefusedError:
                refused[0] += 1
                return
            try:
                outcome = answer(service, connection, PHOTO)
            except OSError as error:
                outcome = (0, repr(error))
            connection.close()
            with lock:
                outcomes.append(outcome)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    service.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    code = service.process.wait(timeout=40)
    seen = dict(collections.Counter(status for status, _ in outcomes))
    return set(seen) <= {200} and code == 0, f"{seen}, exit code {code}"


def disk():
    """The disk is full: the compile cache cannot be written, but the service starts and serves."""
    if os.geteuid() != 0:
        return True, "SKIPPED: only root mounts a small file system"
    with tempfile.TemporaryDirectory() as cache, application() as app:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", cache], check=True)
        try:
            with Service("--cache-dir", cache, app=app) as service:
                status = one(service)[0]
        finally:
            subprocess.run(["umount", cache], check=True)
    return status == 200, f"answered {status}"


ROWS = {row.__name__: row for row in (leavers, slow, model, guests, terminate)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    alone = {row.__name__: row for row in (disk, *strangers.ROWS)}
    parser.add_argument("rows", nargs="*", choices=[*ROWS, *alone, []], metavar="ROW")
    wanted = parser.parse_args().rows or [*ROWS, *alone]
    broken, table = 0, {}
    for name in wanted:
        if name in alone:
            kept, figures = alone[name]()
        else:
            with application() as app, Service("--request-timeout", "5s", app=app) as service:
                expected = one(service)
                kept, figures = ROWS[name](service, app, expected)
                if name != "terminate":
                    well = one(service)
                    kept = kept and expected[0] == 200 and well == expected
                    figures += f"; afterwards {well[0]}"
        print(f"{name:15} {'kept  ' if kept else 'BROKEN'} {figures}", flush=True)
        broken += not kept
        table[name] = {"kept": bool(kept), "figures": figures}
    if set(table) == {*ROWS, *alone}:
        keep("faults", not broken, {"rows": table})
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()

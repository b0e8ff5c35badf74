"""Builds the static binary and runs it in an otherwise empty root, like that of a `FROM scratch` image.

    python3 deploy/static.py [--binary FILE] [--photos 20]

The root has only the binary, spin.toml, the component and models/skin: no libc, no shell, no /proc, no /tmp.
The service runs there as an unprivileged user and answers photos. Prints the size of binary and root, the time
from process start to /healthz (compiling, then with a warm cache), and the memory. Needs root for chroot, the
Rust target `x86_64-unknown-linux-musl` and a musl C compiler (Debian:
musl-tools); without them it prints a message and exits with 2. Only the standard library.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "bench"))
from service import Service, machine, photos  # noqa: E402

TARGET = f"{platform.machine()}-unknown-linux-musl"
COMPONENT = pathlib.Path("target/wasm32-wasip2/release/skincell.wasm")
STARTS = 15
MIB = 1 << 20


def build():
    """The static binary, by cargo."""
    if not shutil.which("musl-gcc"):
        print("skipped: there is no musl-gcc (Debian: apt-get install musl-tools)")
        sys.exit(2)
    subprocess.run(["rustup", "target", "add", TARGET], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["cargo", "build", "--release", "--target", TARGET, "-p", "skincell-cli"], cwd=ROOT, check=True)
    return ROOT / "target" / TARGET / "release" / "skincell"


def empty_root(folder, binary):
    """Fills the root: everything the service needs. The root itself is its writable folder."""
    shutil.copy(binary, folder / "skincell")
    app = folder / "app"
    (app / COMPONENT).parent.mkdir(parents=True)
    shutil.copy(ROOT / "spin.toml", app / "spin.toml")
    shutil.copy(ROOT / COMPONENT, app / COMPONENT)
    shutil.copytree(ROOT / "models" / "skin", app / "models" / "skin")


def start(folder, user):
    """Starts the service in that root; returns it, and the seconds from process start to its first answer."""

    def enter():
        os.chroot(folder)
        os.chdir("/")
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)

    begin = time.perf_counter()
    service = Service("--cache-dir", "/cache", binary=pathlib.Path("/skincell"), app="/app", before=enter)
    service.__enter__()
    status, _ = service.get("/healthz")
    assert status == 200, status
    return service, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--photos", type=int, default=20)
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: chroot needs root")
        sys.exit(2)
    binary = args.binary or build()
    linked = subprocess.run(["ldd", binary], capture_output=True, text=True)
    assert "=>" not in linked.stdout, f"{binary} is not static: {linked.stdout}"
    user = tomllib.loads((HERE / "figures.toml").read_text())["service"]["user"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        empty_root(folder, binary)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        os.chown(folder, user, user)
        service, first = start(folder, user)
        with_heatmaps = 0
        for photo in photos()[: args.photos]:
            connection = service.connect()
            connection.request("POST", "/predict", body=photo, headers={"Content-Type": "application/octet-stream"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            assert answer.status == 200 and len(body["results"]) == 7, body
            with_heatmaps += bool(body["heatmap_base64"])
            connection.close()
        memory = service.memory()
        service.__exit__()
        starts = []
        for _ in range(STARTS):
            service, seconds = start(folder, user)
            starts.append(seconds)
            service.__exit__()
        there = sorted(path.name for path in folder.iterdir())
    warm = statistics.median(starts)
    print(f"{machine()}")
    print(f"binary {binary.stat().st_size / MIB:.1f} MiB, static; the whole root {size / MIB:.1f} MiB: {', '.join(there)}")
    print(f"process start to /healthz: {first:.2f} s compiling, {warm * 1e3:.1f} ms with a warm cache (median of {STARTS})")
    print(f"{min(args.photos, len(photos()))} photos answered, {with_heatmaps} with heatmaps, as user {user}; "
          f"private {memory['private'] / MIB:.1f} MiB, peak {memory['peak'] / MIB:.1f} MiB")


if __name__ == "__main__":
    main()

"""The service under test: the repository's own application on a free port, killed at the end.

SKINCELL_BIN names another binary, SKINCELL_WASM another component, SKINCELL_URL a service that runs already.
Both must have been built.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 60
# What all services keep of compiled components, which takes seconds and depends on their bytes alone.
COMPILED = REPOSITORY / "target/wasm32-wasip2/release/tests-cache"


@contextlib.contextmanager
def serve(*options):
    """Yields the address of a running service, started with these options too, without a trailing slash."""
    running = os.environ.get("SKINCELL_URL")
    if running:
        yield running.rstrip("/")
        return
    with served(manifest(), ("skin", "imagenet"), *options) as address:
        yield address


def manifest():
    """The repository's own, with the component that was built."""
    wasm = os.environ.get("SKINCELL_WASM", REPOSITORY / "target/wasm32-wasip2/release/skincell.wasm")
    if not pathlib.Path(wasm).exists():
        raise SystemExit("build first: cargo build --release --target wasm32-wasip2 -p skincell")
    source = f"source = {json.dumps(str(wasm))}"
    return re.sub(r"(?m)^source = .*$", lambda _: source, (REPOSITORY / "spin.toml").read_text())


@contextlib.contextmanager
def served(manifest, models, *options, seconds=START_SECONDS):
    """Yields the address of a service of this manifest, beside whose file these models lie."""
    built = [REPOSITORY / "target" / profile / "skincell" for profile in ("release", "debug")]
    binary = os.environ.get("SKINCELL_BIN") or next((path for path in built if path.exists()), None)
    if not binary:
        raise SystemExit("build first: cargo build -p skincell-cli")
    with tempfile.TemporaryDirectory(prefix="skincell-clients-") as folder:
        pathlib.Path(folder, "spin.toml").write_text(manifest)
        # Copied, because links out of the application's folder are not mounted.
        for model in models:
            shutil.copytree(REPOSITORY / "models" / model, pathlib.Path(folder, "models", model))
        flags = ["up", "--from", folder, "--listen", "127.0.0.1:0", "--cache-dir", COMPILED, *options]
        child = subprocess.Popen([binary, *flags], stdout=subprocess.PIPE, text=True)
        try:
            yield address_of(child, seconds)
        finally:
            child.kill()
            child.wait()


def address_of(child, seconds):
    """The address that the service prints, waited for with a time limit."""
    found = []
    ready = threading.Event()

    def read():
        for line in child.stdout:
            match = re.search(r"http://[^\s/]+", line)
            if match and not found:
                found.append(match[0])
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not ready.wait(seconds) or not found:
        raise SystemExit(f"the service printed no address within {seconds} s")
    return found[0]

"""Starts a server, sends it requests, observes it through /proc, and stops it.

Only the standard library, so that a measurement needs no set-up. Loopback only, with time limits. The other
scripts in this folder measure, and `peers.py` starts other servers.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("SKINCELL_BIN", ROOT / "target" / "release" / "skincell"))
TIMEOUT_S = 60


class Server:
    """A process that answers HTTP at `host` and `port`, both set by the subclass."""

    process: subprocess.Popen
    host: str
    port: int
    started: float  # seconds of `time.perf_counter`

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit(f"{self.process.args[0]} did not stop on SIGTERM")

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def memory(self):
        """The kernel's figures in bytes: private (RssAnon), mapped (RssFile), peak (VmHWM), the sum over the
        process and its children."""
        names, total = {"private": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}, {}
        for pid in family(self.process.pid):
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
            kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
            for ours, kernels in names.items():
                total[ours] = total.get(ours, 0) + kib[kernels] * 1024
        return total

    def post_photos(self, photos, requests, clients, query=""):
        """Posts `requests` photos from `clients` connections; returns (seconds, status) of each."""

        def client(number):
            connection, outcomes = self.connect(), []
            for i in range(number, requests, clients):
                begin = time.perf_counter()
                connection.request(
                    "POST", "/predict" + query, body=photos[i % len(photos)],
                    headers={"Content-Type": "application/octet-stream"},
                )
                answer = connection.getresponse()
                answer.read()
                outcomes.append((time.perf_counter() - begin, answer.status))
            connection.close()
            return outcomes

        with ThreadPoolExecutor(clients) as pool:
            return [outcome for outcomes in pool.map(client, range(clients)) for outcome in outcomes]


class Service(Server):
    """`skincell up` on a free port, as a context manager."""

    def __init__(self, *flags, binary=BINARY, app=ROOT, before=None, env=None, stderr=None):
        """`before` is called in the child, between fork and exec; `env` replaces the environment."""
        self.before, self.env, self.stderr, self.flags = before, env, stderr, flags
        self.command = [str(binary), "up", "--from", str(app), "--listen", "127.0.0.1:0", *map(str, flags)]

    def __enter__(self):
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, preexec_fn=self.before, env=self.env,
            stderr=self.stderr,
        )
        line = self.process.stdout.readline()
        found = re.match(r"Serving https?://([\d.]+):(\d+)", line)
        if not found:
            self.process.kill()
            raise SystemExit(f"the runner did not start: {line!r}; build it with `cargo build --release`")
        self.host, self.port = found.group(1), int(found.group(2))
        if "--admin-listen" in self.flags:
            self.admin = int(self.process.stdout.readline().rsplit(":", 1)[1])
        return self


def family(pid):
    """A process and all its descendants."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [one for child in map(int, children) for one in family(child)]


def photos():
    """The test photos' bytes, in a fixed order."""
    folder = ROOT / "tests" / "photos"
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in kinds]


def machine():
    """The machine and date that a figure must be quoted with."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.M)
    cores = len(re.findall(r"^processor\s*:", info, re.M))
    return {"cpu": model.group(1) if model else "?", "cores": cores, "date": time.strftime("%Y-%m-%d")}


def keep(name, kept, figures):
    """Stores a proof's figures in `bench/results`, with machine and date."""
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    record = {"proof": name, "kept": kept, "machine": machine(), "commit": commit, **figures}
    (folder / f"soak-{name}.json").write_text(json.dumps(record) + "\n")

"""Attacks by hostile clients, and the rows of the fault table about them. `faults.py` runs the rows one by
one, `soak.py hostile` all attacks at once. Loopback only, with time limits, only the standard library
(certificates by the `openssl` command). Faults of files, guests and the disk are in `faults.py`.

An attack is a function of a `Target` and an event that ends it. Each comes from its own address (127.0.0.2 and
up) and sleeps most of the time, so that the service is measured and not the driver.
"""

import contextlib
import http.client
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import time

from proof import answer, application
from service import Service, photos

MIB = 1 << 20
TOKEN = "a-token-of-this-bench-0001"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PHOTO = photos()[0]


class Target:
    """The service to connect to, whether by TLS, and the client's own address."""

    def __init__(self, host, port, tls=False, source="127.0.0.1"):
        self.host, self.port, self.tls, self.source = host, port, tls, source

    def of(self, source):
        return Target(self.host, self.port, self.tls, source)

    def connect(self, timeout=10, receive=None):
        """A connected socket; `receive` is the size of its receive buffer in bytes."""
        plain = socket.socket()
        if receive:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        plain.settimeout(timeout)
        plain.bind((self.source, 0))
        try:
            plain.connect((self.host, self.port))
            return trusting().wrap_socket(plain) if self.tls else plain
        except OSError:
            plain.close()
            raise

    def get(self, path, headers=(), timeout=10):
        """Status and seconds of a GET on a new connection; status 0 if the connection broke."""
        begin = time.perf_counter()
        try:
            with self.connect(timeout) as client:
                lines = "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{lines}\r\n".encode())
                first = client.recv(4096)
                status = int(first.split(b" ")[1]) if first else 0
        except (OSError, IndexError, ValueError):
            status = 0
        return status, time.perf_counter() - begin

    def http(self):
        """A connection of `http.client`."""
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        more = {"context": trusting()} if self.tls else {}
        return kind(self.host, self.port, timeout=60, source_address=(self.source, 0), **more)


def trusting():
    """A TLS context that trusts any certificate, because that of the service is made for this run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certificate(folder):
    """The flags of a certificate made for this run."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "1", "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return ["--tls-cert", cert, "--tls-key", key]


def tokens(folder):
    """The flags of a tokens file with one token."""
    path = folder / "tokens"
    path.write_text(TOKEN + "\n")
    return ["--tokens-file", path]


def keep_open(target, count, begin, stop, between=None, receive=None):
    """Keeps `count` connections open, each prepared by `begin`; replaces at most 20 a second that ended."""
    clients = []
    while not stop.is_set():
        for client in list(clients):
            try:
                client.setblocking(False)
                if between:
                    between(client)
                # A connection that has ended is readable. Pending bytes stay unread.
                if client.fileno() < 0 or not isinstance(client, ssl.SSLSocket) and client.recv(1, socket.MSG_PEEK) == b"":
                    raise OSError("ended")
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                clients.remove(client)
                client.close()
        for _ in range(min(10, count - len(clients))):
            with contextlib.suppress(OSError):
                client = target.connect(2, receive)
                clients.append(client)
                client.setblocking(False)
                begin(client)
        stop.wait(0.5)
    for client in clients:
        client.close()


def unread(target, stop):
    """Clients pipeline 400 requests and never read."""
    def begin(client):
        client.setblocking(True)
        client.settimeout(0.2)
        client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 400)
    keep_open(target, 16, begin, stop, receive=4096)


def slow_uploads(target, stop):
    """Clients with a token announce bodies of 8 MiB and send 18 KiB a second."""
    head = f"POST /predict HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {8 * MIB}\r\n\r\n".encode()
    keep_open(target, 4, lambda client: client.send(head + b"x" * 20_000), stop, lambda client: client.send(b"x" * 9_000))


def open_bodies(target, stop):
    """Clients without a token send bodies to open routes."""
    head = f"GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: {7 * MIB}\r\n\r\n".encode()
    keep_open(target, 4, lambda client: client.send(head + b"x" * 20_000), stop, lambda client: client.send(b"x" * 20_000))


def silent(target, stop):
    """Clients connect and send nothing."""
    keep_open(target, 60, lambda client: None, stop)


def half_heads(target, stop):
    """Clients send their heads byte by byte."""
    keep_open(target, 16, lambda client: client.send(b"GET /heal"), stop, lambda client: client.send(b"t"))


def trailers(target, stop):
    """Clients end a body with a megabyte of trailers."""
    head = f"POST /predict HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = "X-Trailer: " + "y" * 8000 + "\r\n"
    while not stop.wait(1):
        with contextlib.suppress(OSError), target.connect(2) as client:
            client.sendall((head + "1\r\nx\r\n0\r\n" + line * 128 + "\r\n").encode())


def slow_readers(target, stop):
    """Clients without a token request an open route 50 times each, and read one byte a second."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n" * 50
    keep_open(target, 16, lambda client: client.send(ask), stop, lambda client: client.recv(1), receive=2048)


def leaving(target, stop):
    """Clients disconnect in the middle of a photo."""
    head = f"POST /predict HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(PHOTO)}\r\n\r\n".encode()
    while not stop.wait(0.5):
        with contextlib.suppress(OSError), target.connect(2) as client:
            client.sendall(head + PHOTO[: len(PHOTO) // 2])


def guessing(target, stop):
    """Clients guess tokens."""
    while not stop.wait(0.2):
        target.get("/memory", {"Authorization": "Bearer guessed-0123456789"}, 2)


ATTACKS = (unread, slow_uploads, open_bodies, silent, half_heads, trailers, slow_readers, leaving, guessing)


@contextlib.contextmanager
def attacked(target, *attacks, copies=1):
    """Runs all these attacks at once, each in its own process and from its own address."""
    children = []
    for number, attack in enumerate(list(attacks) * copies):
        pid = os.fork()
        if pid == 0:
            import threading
            stop = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            with contextlib.suppress(BaseException):
                attack(target.of(f"127.0.1.{number + 2}"), stop)
            os._exit(0)
        children.append(pid)
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        for pid in children:
            os.waitpid(pid, 0)


def probe(target, seconds, path="/healthz"):
    """Sorted seconds of GETs during this time, each on a new connection; a status but 200 counts as 10 s."""
    end, times = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        status, took = target.get(path)
        times.append(took if status == 200 else 10.0)
        time.sleep(0.05)
    return sorted(times)


def p99(times):
    return times[min(len(times) - 1, int(len(times) * 0.99))]


def tls_unread():
    """Row 1: over TLS, clients pipeline and never read. Probes answer, and SIGTERM does not wait for them."""
    with served("--memory-limit", "64MiB", tls=True) as (service, target):
        with attacked(target, unread, copies=5):
            time.sleep(3)
            times = probe(target, 10)
            begin = time.perf_counter()
            service.process.send_signal(signal.SIGTERM)
            service.process.wait(60)
            took = time.perf_counter() - begin
    return p99(times) <= 1 and took <= 10, f"/healthz p99 {p99(times) * 1e3:.0f} ms, SIGTERM took {took:.1f} s"


def uploads(target, photo):
    """Posts a photo ten times, each on a new connection; returns the statuses and the seconds each took."""
    statuses, times = [], []
    for _ in range(10):
        begin = time.perf_counter()
        connection = target.http()
        statuses.append(answer(None, connection, photo, "", BEARER)[0])
        connection.close()
        times.append(time.perf_counter() - begin)
    return statuses, times


def slow_announced():
    """Row 4: two clients announce 8 MiB and send 18 KiB/s, which once delayed all other uploads by 29 s."""
    with served("--memory-limit", "64MiB") as (_, target), attacked(target, slow_uploads):
        time.sleep(2)
        statuses, times = uploads(target, PHOTO + bytes(2 * MIB))
    times.sort()
    said = f"uploads of 2 MiB: median {times[5]:.2f} s, slowest {times[-1]:.2f} s, {set(statuses)}"
    return times[5] <= 5 and set(statuses) <= {200, 503}, said


def open_body():
    """Row 5: open routes accept no body without a token."""
    with served("--memory-limit", "64MiB") as (_, target):
        connection = target.http()
        connection.request("GET", "/health", body=bytes(7 * MIB))
        status = connection.getresponse().status
        plain = target.get("/health")[0]
    return (status, plain) == (401, 200), f"with a body {status}, without one {plain}"


def silence():
    """Row 6: three addresses fill the limit of connections with silent ones, and replace those that end."""
    with served("--memory-limit", "64MiB", "--admin-listen", "127.0.0.1:0") as (service, target):
        admin = Target("127.0.0.1", service.admin)
        with attacked(target, silent, silent, silent):
            time.sleep(3)
            own = probe(admin, 5)
            times = probe(target, 10, "/health")
    kept = p99(own) <= 0.1 and p99(times) <= 1
    return kept, f"/healthz on the admin port p99 {p99(own) * 1e3:.0f} ms, /health p99 {p99(times) * 1e3:.0f} ms"


def unread_buffers():
    """Row 7: clients stop reading; the kernel's buffers for them stay bounded."""
    with served("--memory-limit", "64MiB") as (_, target), attacked(target, unread, copies=4):
        most = 0
        for _ in range(20):
            time.sleep(0.5)
            rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
            own = [row for row in rows if row[1].endswith(f":{target.port:04X}")]
            most = max(most, sum(int(row[4].split(":")[0], 16) for row in own))
    return most <= 8 * MIB, f"at most {most / MIB:.1f} MiB queued to be sent"


def backlog():
    """Row 10: SIGTERM with connections in the kernel's backlog; SIGHUP."""
    with served("--memory-limit", "64MiB") as (service, target):
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        alive = service.process.poll() is None
        clients = []
        for number in range(200):
            client = target.of(f"127.0.2.{number % 8 + 1}").connect()
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
            clients.append(client)
        service.process.send_signal(signal.SIGTERM)
        answered = 0
        for client in clients:
            with contextlib.suppress(OSError), client:
                answered += client.recv(4096).startswith(b"HTTP/1.1 ")
        code = service.process.wait(40)
    return alive and answered == 200 and code == 0, f"after SIGHUP alive: {alive}; {answered} of 200 answered, exit code {code}"


def pipes():
    """Row 11: standard error is a pipe that is not read, and then one that is closed."""
    figures, kept = [], True
    for closed in (False, True):
        read, write = os.pipe()
        os.set_blocking(write, True)
        if closed:
            os.close(read)
        env = {**os.environ, "RUST_LOG": "debug"}
        with served("--quiet", env=env, stderr=write) as (service, target):
            os.close(write)
            times = sorted(target.get("/health")[1] for _ in range(1500))
            service.process.send_signal(signal.SIGTERM)
            code = service.process.wait(40)
        if not closed:
            os.close(read)
        kept &= code == 0 and times[-1] < 2
        figures.append(f"{'closed' if closed else 'unread'}: slowest of 1,500 {times[-1] * 1e3:.0f} ms, exit code {code}")
    return kept, "; ".join(figures)


def half_closed():
    """Row 12: the client closes its sending half after its request."""
    with served() as (_, target):
        seen = []
        photo = (f"POST /predict HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(PHOTO)}\r\n\r\n").encode() + PHOTO
        for request in (b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n", photo):
            with target.connect(60) as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                seen.append(client.makefile("rb").read()[:15].decode())
    return all(first == "HTTP/1.1 200 OK" for first in seen), str(seen)


def few_descriptors():
    """Row 15: the process may have 64 descriptors only."""
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with served(before=limit) as (_, target):
        held = []
        with contextlib.suppress(OSError):
            for number in range(60):
                held.append(target.of(f"127.0.2.{number % 8 + 1}").connect(2))
        connection = target.http()
        try:
            status = answer(None, connection, PHOTO, "", BEARER)[0]
        except OSError:
            status = 0
        for client in held:
            client.close()
        time.sleep(1.5)
        connection = target.http()
        after = answer(None, connection, PHOTO, "", BEARER)[0]
    return status in (200, 503) and after == 200, f"with 60 idle clients {status}, afterwards {after}"


def long_trailers():
    """A body is followed by a megabyte of trailers."""
    with served("--memory-limit", "64MiB") as (service, target):
        before = service.memory()["private"]
        with attacked(target, trailers, copies=4):
            time.sleep(8)
            times = probe(target, 3)
        grown = service.memory()["private"] - before
    return grown <= 4 * MIB and p99(times) <= 1, f"private memory {grown / MIB:+.1f} MiB, /healthz p99 {p99(times) * 1e3:.0f} ms"


def group_resized():
    """Row 16: the control group's limit is lowered and raised while the service runs."""
    import cgroup
    import json
    why = cgroup.available()
    if why:
        return True, f"SKIPPED: {why}"
    budgets = []
    with cgroup.Group("resized", 512 * MIB) as group:
        with served(before=group.enter) as (_, target):
            for limit in (512, 256, 384):
                group.resize(limit * MIB)
                time.sleep(1)
                connection = target.http()
                connection.request("GET", "/memory", headers=BEARER)
                budgets.append(json.loads(connection.getresponse().read())["memory"]["budget_mb"])
        time.sleep(1)
    return budgets == [512, 256, 384], f"budgets of {budgets} MiB"


def unread_answers():
    """Clients request open routes and hardly read the answers, whose memory once blocked photos for ever."""
    with served("--memory-limit", "64MiB") as (_, target), attacked(target, slow_readers, copies=5):
        time.sleep(4)
        statuses, times = uploads(target, PHOTO)
    return statuses == [200] * 10 and max(times) <= 5, f"photos {statuses}, slowest {max(times):.2f} s"


def crowded():
    """Row 6: one address holds all connections, with requests at work; other addresses still get theirs."""
    # The runner answers this itself, so it needs a connection but no instance.
    ask = f"GET /memory HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    work = f"POST /guest/loop HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1\r\n\r\nx".encode()
    only, others, clients = [], [], []
    with served("--memory-limit", "64MiB") as (_, target):
        for _ in range(64):
            clients.append(target.connect())
            clients[-1].sendall(ask)
            only.append(clients[-1].recv(65536)[9:12])
        for client in clients:
            client.sendall(work)
        time.sleep(0.5)
        for _ in range(16):
            clients.append(target.of("127.0.2.1").connect())
            clients[-1].sendall(ask)
            others.append(clients[-1].recv(65536)[9:12])
        probes = probe(target.of("127.0.2.2"), 1)
    kept = set(only) == set(others) == {b"200"} and p99(probes) <= 0.1
    return kept, f"{only.count(b'200')} of 64 of one address, then {others.count(b'200')} of 16 of another answered 200; /healthz p99 {p99(probes) * 1e3:.0f} ms"


@contextlib.contextmanager
def served(*flags, tls=False, **more):
    """A service that requires a token, and its target."""
    with application() as app:
        folder = pathlib.Path(app)
        flags = [*tokens(folder), *flags, *(certificate(folder) if tls else [])]
        with Service(*flags, app=app, **more) as service:
            yield service, Target(service.host, service.port, tls)


ROWS = (tls_unread, slow_announced, open_body, silence, unread_buffers, backlog, pipes, half_closed, few_descriptors,
        long_trailers, group_resized, unread_answers, crowded)

"""Sends requests, one after the other or concurrently, and measures their time.

Only the standard library. A client keeps its connection and sends the next request after the answer to the
last one.
"""

import http.client
import socket
import threading
import time

HEADERS = {"Content-Type": "application/octet-stream"}


class Photographer:
    """One client that posts photos one after the other over one connection."""

    def __init__(self, server, photos, query=""):
        self.server, self.photos, self.query = server, photos, query
        self.connection, self.next = None, 0

    def post(self):
        """Milliseconds from sending to the answer's last byte, and the answer's bytes."""
        photo = self.photos[self.next % len(self.photos)]
        self.next += 1
        begin = time.perf_counter()
        for attempt in (1, 2):
            self.connection = self.connection or self.server.connect()
            try:
                self.connection.request("POST", "/predict" + self.query, photo, HEADERS)
                answer = self.connection.getresponse()
                body = answer.read()
                break
            except (http.client.HTTPException, ConnectionError):
                # A server may close an idle connection; a second failure is an error.
                self.connection = None
                if attempt == 2:
                    raise
        if answer.status != 200:
            raise SystemExit(f"{type(self.server).__name__} answered {answer.status}: {body[:300]}")
        return (time.perf_counter() - begin) * 1e3, body


def crowd(server, photos, clients, seconds, query=""):
    """Runs `clients` concurrently for about this long: (answers per second, milliseconds of each)."""
    end, taken, lock = time.perf_counter() + seconds, [], threading.Lock()
    failures = []

    def client(number):
        photographer = Photographer(server, photos, query)
        photographer.next, own = number, []
        try:
            while time.perf_counter() < end:
                own.append(photographer.post()[0])
        except BaseException as error:
            failures.append(error)
        with lock:
            taken.extend(own)

    begin = time.perf_counter()
    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"a client failed: {failures[0]}")
    return len(taken) / (time.perf_counter() - begin), taken


def small_requests(server, path, clients, seconds):
    """GETs one path over bare sockets, for a cheap client: (answers per second, milliseconds of each)."""
    request = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode()
    end, taken, lock = time.perf_counter() + seconds, [], threading.Lock()

    def client():
        own, now = [], time.perf_counter
        with socket.create_connection((server.host, server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begin = now()
            while begin < end:
                connection.sendall(request)
                whole(connection)
                done = now()
                own.append((done - begin) * 1e3)
                begin = done
        with lock:
            taken.extend(own)

    begin = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken) / (time.perf_counter() - begin), taken


def whole(connection):
    """Reads one answer, with a declared length or in chunks."""
    data = connection.recv(65536)
    if not data.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"answered {data[:200]}")
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower()
    if b"content-length:" in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
    else:
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(65536)


def quantile(values, share):
    """The quantile: the value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values):
    """p50, p90 and p99."""
    return {f"p{int(share * 100)}": quantile(values, share) for share in (0.5, 0.9, 0.99)}

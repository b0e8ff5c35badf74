"""Proofs of the memory budget, with figures; exits with 1 if a promise is broken.

    cargo build --release && cargo build --release --target wasm32-wasip2 -p skincell
    python3 bench/soak.py small --model efficientnetv2-s.onnx   # 64 MiB control group, 500 photos, 32 clients
    python3 bench/soak.py large --model efficientnetv2-s.onnx   # the same with 12 megapixels; needs Pillow
    python3 bench/soak.py origin [--requests 20000]             # 512 MiB, concurrency 8: growth per request
    python3 bench/soak.py switch --model efficientnetv2-s.onnx  # two models, room for one, 200 switches
    python3 bench/soak.py mixed                                 # 5,000 requests: every answer as without load
    python3 bench/soak.py isolation                             # 1,000 guests search for each other's data
    python3 bench/soak.py hostile [--seconds 600]               # 64 MiB, TLS, 32 clients and all attacks
    python3 bench/soak.py health                                # /health under ten times the capacity

`make_models.py` in `bench/engine` makes the model: 80 MB of float32 weights, larger than the 64 MiB. Control
groups need root; without them, a message says so and the limit is given by --memory-limit. Figures are stored
in `bench/results`, with machine and date. Loopback only, with time limits. Only the standard library and
Pillow.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cgroup
from proof import WASM, answer, application, crowd
from service import BINARY, ROOT, Service, keep, machine, photos

MIB = 1 << 20


def model(*words):
    """`skincell model …`"""
    subprocess.run([str(BINARY), "model", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def big_app(folder, onnx, copies=1):
    """An application of `copies` models of this graph, big-0, big-1, …: prepared and packed."""
    labels = folder / "labels.txt"
    labels.write_text((ROOT / "models" / "labels" / "skin.txt").read_text())
    names = [f"big-{i}" for i in range(copies)]
    for name in names:
        model("prepare", onnx, "--labels", labels, "-o", folder / "models" / name, "--scores", "logits",
              "--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5", "--cam-target", "activation")
        if not (folder / "models" / name / "model.cell").exists():
            model("pack", folder / "models" / name)
    manifest = (ROOT / "spin.toml").read_text()
    manifest = manifest.replace("target/wasm32-wasip2/release/skincell.wasm", str(WASM))
    manifest = manifest.replace('["skin", "imagenet"]', json.dumps(names))
    manifest = manifest.replace('SKINCELL_MODEL = "skin"', f'SKINCELL_MODEL = "{names[0]}"')
    (folder / "spin.toml").write_text(manifest)
    return names


def halve(prepared):
    """Makes a prepared model one of fp16 weights, in place."""
    half = prepared.with_name(prepared.name + "-half")
    photo = ROOT / "tests" / "photos" / "drawn-acne-2.jpg"
    model("quantize", prepared, "-o", half, "--to", "fp16", "--photos", photo)
    shutil.rmtree(prepared)
    half.rename(prepared)


def forget_pages(folder):
    """Drops the files' pages from the cache, so that they count in the group that reads them next."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def limited(name, limit, *flags, **more):
    """A service in a control group of `limit` bytes, or with --memory-limit if no group can be created."""
    why = cgroup.available()
    if why is not None:
        print(f"no control group: {why}; --memory-limit holds instead")
        with Service("--memory-limit", str(limit), *flags, **more) as service:
            yield service, lambda: {}
        return
    with cgroup.Group(name, limit) as group:
        with Service(*flags, before=group.enter, **more) as service:
            yield service, group.figures
        for _ in range(50):
            # The group becomes empty a moment after its last process has ended.
            if not (group.path / "cgroup.procs").read_text():
                break
            time.sleep(0.1)


def twelve_megapixels():
    """Photos of 4000 × 3000 pixels like a phone's, from two of the test photos."""
    import io
    from PIL import Image
    large = []
    for name in ("skin.jpg", "drawn-eczema-1.jpg"):
        with Image.open(ROOT / "tests" / "photos" / name) as photo:
            file = io.BytesIO()
            photo.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
            large.append(file.getvalue())
    return large


def small(arguments):
    """Line 1: a model larger than the memory limit, and more clients than fit."""
    return with_little_memory(arguments, photos())


def large(arguments):
    """Line 1 again, with photos of 12 megapixels."""
    return with_little_memory(arguments, twelve_megapixels())


def with_little_memory(arguments, images):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        big_app(folder, arguments.model)
        with Service(app=folder) as service:
            # Outside the group: fills the compile cache and gets each photo's expected answer.
            alone = [outcome for outcome in crowd(service, [(image, "") for image in images], 1)]
        forget_pages(folder)
        with limited("small", 64 * MIB, app=folder) as (service, group):
            begin = time.perf_counter()
            jobs = [(images[i % len(images)], "") for i in range(arguments.requests)]
            outcomes = crowd(service, jobs, 32)
            took, memory, figures = time.perf_counter() - begin, service.memory(), group()
            budget = json.loads(service.get("/memory")[1])["memory"]
    statuses = collections.Counter(status for status, _ in outcomes)
    wrong = sum(o[0] == 200 and o != alone[i % len(images)] for i, o in enumerate(outcomes))
    print(f"{len(outcomes)} photos from 32 clients in {took:.0f} s: {dict(statuses)}, {wrong} of them wrong")
    print(f"alone: {collections.Counter(status for status, _ in alone)}")
    print(f"private {memory['private'] / MIB:.1f} MiB, mapped {memory['mapped'] / MIB:.1f}, budget {budget}")
    print(f"control group: {figures}, exit code {service.exit_code}")
    kept = (set(statuses) <= {200, 503} and statuses[200] > 0 and not wrong
            and not figures.get("killed") and service.exit_code == 0)
    return kept, {"photos": len(outcomes), "photo_bytes": [len(i) for i in images], "statuses": statuses, "wrong": wrong,
                  "seconds": round(took, 1), "memory": memory, "budget": budget, "group": figures}


def fitted(curve):
    """Slope of a straight line through (x, y), by least squares."""
    n, xs, ys = len(curve), [x for x, _ in curve], [y for _, y in curve]
    mx, my = sum(xs) / n, sum(ys) / n
    return sum((x - mx) * (y - my) for x, y in curve) / sum((x - mx) ** 2 for x in xs)


def origin(arguments):
    """Line 2: the growth of memory over many requests, with the limit of the origin app's platform."""
    images, curve = photos(), []
    with limited("origin", 512 * MIB) as (service, group):
        for done in range(100, arguments.requests + 1, 100):
            outcomes = service.post_photos(images, 100, 8)
            wrong = [status for _, status in outcomes if status != 200]
            if wrong:
                raise SystemExit(f"photos were answered {wrong}")
            curve.append((done, service.memory()["private"]))
        figures = group()
    after_500, last = dict(curve)[500], curve[-1][1]
    slope = fitted([point for point in curve if point[0] >= 500])
    print(f"{machine()}; {arguments.requests} photos with heatmaps, 8 clients, 512 MiB")
    print(f"RssAnon after 500: {after_500 / MIB:.2f} MiB, after {curve[-1][0]}: {last / MIB:.2f} MiB")
    print(f"growth {(last - after_500) / MIB:+.2f} MiB (at most 1), slope {slope:+.2f} bytes a request (at most 64)")
    print(f"control group: {figures}, exit code {service.exit_code}")
    kept = last <= after_500 + MIB and slope <= 64 and not figures.get("killed")
    return kept, {"requests": arguments.requests, "growth": last - after_500, "slope": round(slope, 2), "curve": curve, "group": figures}


def switch(arguments):
    """Line 3: two models that do not fit together, used alternately. Mapped models always fit, so these are
    stored as fp16, of which rten makes private float32 copies of 80 MB each."""
    image = photos()[0]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        names = big_app(folder, arguments.model, copies=2)
        for name in names:
            halve(folder / "models" / name)
        with limited("switch", arguments.limit * MIB, "--engine", "rten", app=folder) as (service, group):
            jobs = [(image, f"?model={names[i % 2]}") for i in range(201)]
            begin = time.perf_counter()
            outcomes = crowd(service, jobs, 1)
            took = time.perf_counter() - begin
            metrics = service.get("/metrics")[1].decode()
            figures, memory = group(), service.memory()
    statuses = collections.Counter(status for status, _ in outcomes)
    evicted = sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines()
                  if line.startswith("skincell_model_unloads_total") and "evicted" in line)
    print(f"200 switches in {took:.0f} s: {dict(statuses)}, {evicted:.0f} evictions; "
          f"private {memory['private'] / MIB:.1f} MiB; control group {figures}")
    kept = statuses == {200: 201} and evicted >= 200 and not figures.get("killed")
    return kept, {"limit_mib": arguments.limit, "statuses": statuses, "evictions": evicted, "seconds": round(took, 1),
                  "memory": memory, "group": figures}


def mixed(arguments):
    """Line 5: 32 clients post 32 photos concurrently; each answer equals the one without load."""
    from different import variants
    images = variants(photos(), 32)
    with Service("--queue", "64") as service:
        alone = crowd(service, [(image, "") for image in images], 1)
        jobs = [(images[i % 32], "") for i in range(arguments.requests)]
        outcomes = crowd(service, jobs, 32)
    statuses = collections.Counter(status for status, _ in outcomes)
    different = len({body for _, body in alone})
    wrong = sum(outcome != alone[i % 32] for i, outcome in enumerate(outcomes))
    print(f"{len(outcomes)} requests, 32 clients, 32 photos with {different} different answers: {dict(statuses)}, {wrong} wrong")
    kept = wrong == 0 and statuses == {200: len(outcomes)} and different == 32
    return kept, {"requests": len(outcomes), "statuses": statuses, "different": different, "wrong": wrong}


def isolation(_):
    """Line 6: each guest searches its memory for the marker that every earlier guest left in its own."""
    with application() as app, Service(app=app) as service:
        control = service.get("/guest/scan?control")[1]

        def look(_):
            return service.get("/guest/scan")[1]

        with ThreadPoolExecutor(8) as pool:
            seen = collections.Counter(pool.map(look, range(1000)))
    print(f"1,000 guests looked, 8 at a time: {dict(seen)}; one that left the marker itself first: {control}")
    return seen == {b"nothing": 1000} and control.startswith(b"found"), {"found_nothing": seen[b"nothing"]}


def health(_):
    """Line 8: /health answers while ten times as many photos are posted as can be at work and queued."""
    images = photos()
    with Service("--queue", "4") as service:
        service.get("/health")
        crowd(service, [(images[0], "")] * 4, 1)
        capacity = (os.cpu_count() or 1) + 4
        stop, times, statuses = threading.Event(), [], collections.Counter()

        def post():
            while not stop.is_set():
                connection = service.connect()
                try:
                    statuses[answer(service, connection, images[0])[0]] += 1
                except OSError:
                    statuses[0] += 1
                connection.close()

        posters = [threading.Thread(target=post) for _ in range(10 * capacity)]
        for poster in posters:
            poster.start()
        # A process of its own: this one's threads share an interpreter.
        probe = subprocess.run([sys.executable, __file__, "probe", service.host, str(service.port)],
                               capture_output=True, text=True, timeout=120)
        stop.set()
        for poster in posters:
            poster.join()
    times = sorted(map(float, probe.stdout.split()))
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"{10 * capacity} clients post ({dict(statuses)}); {len(times)} × /health: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
          f"slowest {times[-1]:.1f} ms (p99 at most 50)")
    kept = p99 <= 50 and statuses[0] == 0
    return kept, {"clients": 10 * capacity, "photos": statuses, "health": len(times), "p50_ms": p50, "p99_ms": p99, "slowest_ms": times[-1]}


def hostile(arguments):
    """Well-behaved clients are served during all attacks of `strangers.py` at once, over TLS with tokens."""
    import strangers
    images = photos()[:8]
    with tempfile.TemporaryDirectory() as folder, application() as app:
        flags = [*strangers.tokens(pathlib.Path(folder)), *strangers.certificate(pathlib.Path(folder)),
                 "--quiet"]
        with Service(*flags, app=app) as service:
            target = strangers.Target(service.host, service.port, tls=True)
            alone = [good(target, image) for image in images]
        with limited("hostile", 64 * MIB, *flags, app=app) as (service, group):
            target = strangers.Target(service.host, service.port, tls=True)
            # Each well-behaved client has its own address, as each attack has, and has been served once.
            clients = [target.of(f"127.0.3.{number + 1}") for number in range(32)]
            with ThreadPoolExecutor(len(clients)) as pool:
                list(pool.map(good, clients, images * 4))
            time.sleep(6)
            before, seen = state(service), collections.Counter()
            wrong, lock, end = [0], threading.Lock(), time.time() + arguments.seconds

            def client(number):
                while time.time() < end:
                    outcome = good(clients[number], images[number % len(images)])
                    with lock:
                        seen[outcome[0]] += 1
                        wrong[0] += outcome[0] == 200 and outcome != alone[number % len(images)]
                    time.sleep(0.2)

            with strangers.attacked(target, *strangers.ATTACKS):
                threads = [threading.Thread(target=client, args=(number,)) for number in range(len(clients))]
                for one in threads:
                    one.start()
                # A process of its own: this one's threads share an interpreter.
                probe = subprocess.run([sys.executable, __file__, "probe-tls", service.host, str(service.port),
                                        str(arguments.seconds)], capture_output=True, text=True)
                for one in threads:
                    one.join()
            time.sleep(20)
            after, figures = state(service), group()
    times = sorted(map(float, probe.stdout.split()))
    p99 = strangers.p99(times)
    grown = {name: after[name] - before[name] for name in before}
    print(f"{arguments.seconds} s, 32 good clients: {dict(seen)}, {wrong[0]} wrong; {len(times)} x /healthz: "
          f"p50 {times[len(times) // 2]:.1f} ms, p99 {p99:.1f} ms (at most 100), slowest {times[-1]:.1f} ms")
    print(f"before {before}, afterwards {after}; control group {figures}, exit code {service.exit_code}")
    kept = (set(seen) <= {200, 503} and seen[200] > 0 and not wrong[0] and p99 <= 100 and not figures.get("killed")
            and grown["private"] <= MIB and grown["descriptors"] <= 0 and grown["threads"] <= 0)
    return kept, {"seconds": arguments.seconds, "statuses": seen, "wrong": wrong[0], "healthz_p99_ms": p99, "healthz": len(times),
                  "before": before, "after": after, "group": figures}


def good(target, image):
    """Posts a photo on a new connection, as a well-behaved client does."""
    import strangers
    connection = target.http()
    try:
        return answer(None, connection, image, "", strangers.BEARER)
    except OSError as error:
        return 0, repr(error)
    except http.client.HTTPException as error:
        return 0, repr(error)
    finally:
        connection.close()


def state(service):
    """A service's private memory, descriptors and threads."""
    process = pathlib.Path(f"/proc/{service.process.pid}")
    return {"private": service.memory()["private"], "descriptors": len(list((process / "fd").iterdir())),
            "threads": len(list((process / "task").iterdir()))}


def probe_tls(host, port, seconds):
    """Prints the times of /healthz over TLS in milliseconds, one a line; any status but 200 counts as 10 s."""
    import strangers
    for took in strangers.probe(strangers.Target(host, int(port), tls=True), float(seconds)):
        print(f"{took * 1e3:.3f}")


def probe(host, port):
    """Prints the times of /health in milliseconds, one a line; any status but 200 counts as one second."""
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    for _ in range(1000):
        begin = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        took = (time.perf_counter() - begin) * 1e3
        print(f"{took if response.status == 200 else 1000:.3f}")
        time.sleep(0.01)


def main():
    if sys.argv[1:2] == ["probe"]:
        return probe(*sys.argv[2:])
    if sys.argv[1:2] == ["probe-tls"]:
        return probe_tls(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = {work.__name__: work for work in (small, large, origin, switch, mixed, isolation, health, hostile)}
    parser.add_argument("proof", choices=kinds)
    parser.add_argument("--model", type=pathlib.Path, help="an ONNX file of `make_models.py`")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--seconds", type=int, default=600, help="for `hostile`")
    parser.add_argument("--limit", type=int, default=160, help="MiB, for `switch`")
    arguments = parser.parse_args()
    if arguments.requests is None:
        arguments.requests = {"small": 500, "large": 500, "origin": 20_000, "mixed": 5000}.get(arguments.proof)
    kept, figures = kinds[arguments.proof](arguments)
    keep(arguments.proof, kept, figures)
    print("kept" if kept else "BROKEN")
    sys.exit(not kept)


if __name__ == "__main__":
    main()

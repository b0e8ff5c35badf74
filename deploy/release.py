"""Builds a release, and tests it where there is nothing else: an empty root, and a clean virtual environment.

    target/deploy-venv/bin/python deploy/release.py [--target TRIPLE] [--binary FILE] [--out FOLDER]

Makes in FOLDER (target/dist)
    skincell-<version>-<target>.tar.gz   program, component, manifest, models/skin, the engine for browsers, completions,
                                         manual pages, licences, and deploy/archive.md as README.md
    skincell-<version>-....whl           the same program as a Python package
    SHA256SUMS                           of all archives and wheels there, those of other targets among them
and prints bytes and seconds. The program contains the component and the page (feature `embed`). It is static if the
target is musl, which needs `rustup target add` and a musl C compiler (Debian: musl-tools); the default is musl where
that is there. With --binary an existing program is packed, which must have been built so. The test in an empty root
needs root for chroot, and is skipped without. Exits with 1 if a test fails. Needs `wheel` (deploy/requirements.txt).

For another processor, such as aarch64-unknown-linux-musl, `cargo zigbuild` compiles (deploy/cross.txt beside the other
packages), and what was built is packed and tested by an emulator (Debian: qemu-user-static).
"""

import argparse
import base64
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "bench")]
import make_wheel as wheels  # noqa: E402
from service import machine  # noqa: E402

NAME = "skincell"
ENGINE = ROOT / "target" / "browser"
WASM = pathlib.Path("wasm32-wasip2/release/skincell.wasm")
PHOTO = ROOT / "tests" / "photos" / "drawn-acne-1.jpg"
CLASS = "Acne and Rosacea Photos"
MIB = 1 << 20
START_S = 120


def cargo(*arguments, command="build", **environment):
    # cargo finds its subcommand, and that its compiler, beside this Python.
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["cargo", command, "--release", "--locked", *arguments], cwd=ROOT, check=True,
                   env=os.environ | {"PATH": path} | environment)


def default_target():
    kind = "musl" if shutil.which("musl-gcc") else "gnu"
    return f"{platform.machine()}-unknown-linux-{kind}"


def emulator(target):
    """What runs programs of `target` here, as the beginning of a command; empty on the same processor."""
    processor = target.split("-")[0]
    if processor == platform.machine():
        return []
    found = shutil.which(f"qemu-{processor}-static")
    return [found] if found else sys.exit(f"{target} needs qemu-{processor}-static (Debian: qemu-user-static)")


def build(target, binary):
    """The component's and the program's files. The engine for browsers is made beside them, in `ENGINE`."""
    cargo("--target", "wasm32-wasip2", "-p", NAME)
    subprocess.run([ROOT / "browser" / "build"], check=True)
    component = ROOT / "target" / WASM
    if binary is None:
        cargo("--target", target, "-p", "skincell-cli", "--features", "embed", SKINCELL_COMPONENT=str(component),
              command="zigbuild" if emulator(target) else "build")
        binary = ROOT / "target" / target / "release" / NAME
    return component, binary


def manifest():
    """The repository's spin.toml with the paths of the archive, which has one component and one model."""
    text = (ROOT / "spin.toml").read_text()
    text = text.replace(f'source = "target/{WASM}"', 'source = "skincell.wasm"')
    text = text.replace('ai_models = ["skin", "imagenet"]', 'ai_models = ["skin"]')
    for table in ("dependencies", "build"):
        text = re.sub(rf"(?ms)^(#[^\n]*\n)*\[component\.skincell\.{table}\]\n.*?(?=^#[^\n]*\n\[|^\[|\Z)", "", text)
    text = re.sub(r'(?m)^files = .*$', 'files = ["models/*/card.json"]', text)
    text = re.sub(r"(?m)^(#[^\n]*\n)*(dependencies_inherit_configuration|build) = .*\n", "", text)
    found = tomllib.loads(text)["component"][NAME]
    assert found["source"] == "skincell.wasm" and "dependencies" not in found and "build" not in found, found
    return text


def fill(folder, component, binary, emulated):
    """Writes the contents of the archive; `emulated` begins a command that runs the program."""
    shutil.copy2(binary, folder / NAME)
    shutil.copy2(component, folder / "skincell.wasm")
    (folder / "spin.toml").write_text(manifest())
    for name in ("LICENSE", "NOTICE.md", "SECURITY.md"):
        shutil.copy2(ROOT / name, folder / name)
    shutil.copy2(HERE / "archive.md", folder / "README.md")
    skin = folder / "models" / "skin"
    skin.mkdir(parents=True)
    for name in ("card.json", "model.onnx", "model.onnx.data"):
        shutil.copy2(ROOT / "models" / "skin" / name, skin / name)
    (folder / "browser").mkdir()
    for build in ("relaxed.wasm", "simd.wasm"):
        shutil.copy2(ENGINE / build, folder / "browser" / build)
    program = [*emulated, folder / NAME]
    subprocess.run([*program, "model", "pack", skin], check=True)
    (folder / "completions").mkdir()
    for shell, (name, _) in wheels.COMPLETIONS.items():
        script = subprocess.run([*program, "completions", shell], check=True, capture_output=True).stdout
        (folder / "completions" / name).write_bytes(script)
    subprocess.run([*program, "man", folder / "man" / "man1"], check=True)


def archive(folder, path):
    """Packs `folder` reproducibly: sorted, without times and owners."""
    def plain(member):
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for file in sorted(folder.rglob("*")):
            out.add(file, f"{folder.name}/{file.relative_to(folder)}", recursive=False, filter=plain)
    path.write_bytes(gzip.compress(tar.getvalue(), mtime=0))


@contextlib.contextmanager
def with_proc(root):
    """The kernel's /proc in that root, as every container has it: the runner reads its own mappings there."""
    (root / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


@contextlib.contextmanager
def serving(command, **options):
    """Starts a service on a free port; gives its port and the seconds from its start to its first line."""
    begin = time.perf_counter()
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, **options)
    try:
        for line in process.stdout:
            found = re.match(r"Serving http://[\d.]+:(\d+)", line)
            if found:
                break
        else:
            sys.exit(f"{command} did not start; its exit code is {process.wait()}")
        yield int(found.group(1)), time.perf_counter() - begin
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_S)


def ask(port):
    """Posts a photo; returns the seconds until its answer, which must be right and have a heatmap."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    connection.request("POST", "/predict", body=PHOTO.read_bytes(), headers={"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status == 200 and body["results"][0]["class"] == CLASS, body
    assert base64.b64decode(body["heatmap_base64"]).startswith(b"\x89PNG"), body
    connection.request("GET", "/")
    page = connection.getresponse()
    assert page.status == 200 and b"<html" in page.read(), "the page"
    return time.perf_counter() - begin


def write_page(command, folder, **options):
    """Writes the page for devices to `folder` with `command`, and checks that it has what browsers load first."""
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, **options)
    index = json.loads((folder / "page" / "device" / "index.json").read_text())
    assert index["default"] == "skin" and len(index["engines"]) == 2, index


def libraries(binary):
    """The shared libraries that a program needs, by their paths; none if it is static."""
    run = subprocess.run(["ldd", binary], capture_output=True, text=True)
    return [pathlib.Path(path) for path in re.findall(r"(/\S+) \(0x", run.stdout)]


def test_archive(path, user, emulated):
    """Unpacks the archive in an empty root and serves there, as a user without rights. Returns a sentence."""
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        begin = time.perf_counter()
        with tarfile.open(path) as packed:
            packed.extractall(root, filter="data")
        unpacked = time.perf_counter() - begin
        app = next(root.iterdir())
        needed = libraries(app / NAME)
        for library in needed:
            (root / library.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.relative_to("/"))
        for program in emulated:
            shutil.copy(program, root)
        (root / "cache").mkdir()
        for folder in (root, root / "cache"):
            os.chown(folder, user, user)

        def enter():
            os.chroot(root)
            os.chdir("/")
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)

        inside = [*(f"/{pathlib.Path(program).name}" for program in emulated), f"/{app.name}/{NAME}"]
        common = {"preexec_fn": enter, "env": {"XDG_CACHE_HOME": "/cache"}}
        with with_proc(root):
            with serving([*inside, "serve"], **common) as (port, first):
                answered = ask(port)
            with serving([*inside, "serve"], **common) as (port, warm):
                ask(port)
            with serving([*inside, "up", "--from", f"/{app.name}"], **common) as (port, _):
                ask(port)
            common["env"] |= {"TMPDIR": "/cache"}
            write_page([*inside, "page", "-o", "/cache/page"], root / "cache" / "page", **common)
    beside = f" and {len(needed)} libraries of this system" if needed else ""
    beside += " and an emulator" if emulated else ""
    return (f"empty root with the archive{beside} and /proc, user {user}: unpacked in {unpacked:.1f} s, serving after "
            f"{first:.2f} s (compiling; {warm:.2f} s the next time), photo and page in {answered:.2f} s")


PYTHON_TEST = """
import contextlib, sys, skincell
with contextlib.nullcontext(skincell.Client(sys.argv[3])) if len(sys.argv) > 3 else skincell.serve() as client:
    answer = client.predict(sys.argv[1], top_k=2)
    assert client.is_ready() and len(answer.results) == 2, answer.raw
    assert answer.results[0].label == sys.argv[2] and answer.heatmap.startswith(b'\\x89PNG'), answer.raw
    try:
        client.predict(b'no photo')
        sys.exit('no photo was answered')
    except skincell.Problem as problem:
        assert problem.status == 415, problem.status
"""


def test_wheel(path, emulated):
    """Installs the wheel in a clean virtual environment, without an index, and serves. Returns a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, "venv")
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        begin = time.perf_counter()
        pip = [place / "bin" / "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", path]
        programs, environment = place / "bin", {"PATH": "/usr/bin:/bin", "HOME": folder}
        if emulated:  # pip puts what is for another processor only where nobody takes it for this one's
            platform_ = path.stem.split("-")[-1].split(".")[0]
            pip += ["--target", place / "other", "--platform", platform_, "--only-binary", ":all:", "--no-deps"]
            programs = place / "other" / "bin"
            environment["PYTHONPATH"] = str(place / "other")
        subprocess.run(pip, check=True)
        installed = time.perf_counter() - begin
        program = [*emulated, programs / NAME]
        tell = [place / "bin" / "python", "-c", PYTHON_TEST, PHOTO, CLASS]
        common = {"cwd": folder, "env": environment}
        with serving([*program, "serve"], **common) as (port, first):
            answered = ask(port)
            if emulated:  # Python could not start the program itself
                subprocess.run([*tell, f"http://127.0.0.1:{port}"], check=True, **common)
        if not emulated:
            subprocess.run(tell, check=True, **common)
            program = [place / "bin" / "python", "-m", NAME]
            write_page([*program, "page", "-o", "page"], pathlib.Path(folder, "page"), **common)
        version = subprocess.run([*program, "--version"], check=True, capture_output=True, text=True, **common).stdout.strip()
    started = "Client" if emulated else "serve"
    return (f"clean virtual environment: installed in {installed:.1f} s, {version} serving after {first:.2f} s, photo and "
            f"page in {answered:.2f} s; skincell.{started}, predict and Problem as documented")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default=default_target())
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "dist")
    args = parser.parse_args()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    component, binary = build(args.target, args.binary)
    emulated = emulator(args.target)
    args.out.mkdir(parents=True, exist_ok=True)
    packed = args.out / f"{NAME}-{version}-{args.target}.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder, f"{NAME}-{version}-{args.target}")
        folder.mkdir()
        fill(folder, component, binary, emulated)
        archive(folder, packed)
        wheel = wheels.make(binary, folder, args.out)
    made = sorted(path for path in args.out.iterdir() if path.suffix in (".gz", ".whl"))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (args.out / "SHA256SUMS").write_text(sums)
    print(machine())
    kind = "static" if not libraries(binary) else f"for {wheels.tags(binary)[0]} and newer"
    print(f"program {binary.stat().st_size / MIB:.1f} MiB, {kind}")
    for path in (packed, wheel):
        print(f"{path.name}: {path.stat().st_size / MIB:.1f} MiB")
    user = tomllib.loads((HERE / "figures.toml").read_text())["service"]["user"]
    print(test_archive(packed, user, emulated) if os.geteuid() == 0 else "skipped: chroot needs root")
    print(test_wheel(wheel, emulated))


if __name__ == "__main__":
    main()

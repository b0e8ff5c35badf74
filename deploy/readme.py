"""Follows the README word by word in a bare root, as somebody who has just cloned the project.

    python3 deploy/readme.py [--toolchain HOME] [--root FOLDER] [--only TEXT]

The root is a minimal Debian (`mmdebstrap`) with what the README says must be there: a C compiler, and curl. Rust is
installed by rustup as the README says, or, with --toolchain, is that of another home folder, whose .rustup and .cargo
are mounted read-only; then no crate is fetched that is not there. The checkout is the last commit (`git archive`).

Every line of the README's `sh` blocks is run in order, or has a reason in SKIPPED. The service that a line starts goes
on until the end. Answers to photos must have what the README's JSON block shows. Prints seconds and bytes; exits with 1
if a command fails or an answer differs. Needs root for chroot and mounts, which end with this program. The compiling
takes ten minutes and 1.6 GB on two cores; --only runs just the lines that contain TEXT. Only the standard library.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE = "bookworm"
PACKAGES = "ca-certificates,curl,gcc,libc6-dev"
RUSTUP = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
CHECKOUT = "skincell"
PHOTO = ROOT / "tests" / "photos" / "drawn-acne-1.jpg"
PORT = 3000
MIB = 1 << 20

# Lines that are not run, by their beginning.
SKIPPED = {
    "pip install skincell-": "deploy/release.py installs the wheel in a clean environment",
    "skincell serve": "deploy/release.py serves from the archive and the wheel",
    "skincell page": "tests/browser builds and tries the page on the device",
    "skincell up --listen": "needs a certificate and tokens of one's own; tests/cases/access.rs",
    "cargo run --release -- model prepare": "needs a Keras model of one's own; tests/cases/keras.rs",
    "cargo test": "is what .ci/run runs",
}


def blocks(text, language):
    """The contents of the code blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(text):
    """The lines of all `sh` blocks, continued ones joined, without comments."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s+#\s.*$", "", line).strip() for line in lines]
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def shown_answer(text):
    """The README's example of an answer, without the members it leaves out."""
    return json.loads(re.sub(r", …(?=\])", "", blocks(text, "json")[0]))


def differences(shown, found, at="answer"):
    """Where `found` lacks what `shown` has: members, kinds of values, and texts that are shown whole."""
    if isinstance(shown, dict):
        if not isinstance(found, dict):
            return [f"{at} is no object"]
        inner = [differences(value, found[key], f"{at}.{key}") for key, value in shown.items() if key in found]
        return [f"{at} has no {key}" for key in shown if key not in found] + sum(inner, [])
    if isinstance(shown, list):
        inner = [differences(one, other, f"{at}[{i}]") for i, (one, other) in enumerate(zip(shown, found))]
        return ([f"{at} is shorter"] if len(found) < len(shown) else []) + sum(inner, [])
    if isinstance(shown, str):
        return [] if "…" in shown or shown == found else [f"{at} is {found!r}, the README shows {shown!r}"]
    return [] if isinstance(found, (int, float)) else [f"{at} is {found!r}, no number"]


class Root:
    """The bare root; commands run in its checkout."""

    def __init__(self, folder, toolchain):
        self.folder, self.services = folder, []
        self.environment = {"HOME": "/root", "PATH": "/root/.cargo/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        if toolchain:
            self.environment["CARGO_NET_OFFLINE"] = "true"
        for source, target, flags in [("/proc", "proc", "rbind"), ("/dev", "dev", "rbind")] + [
            (toolchain / name, f"root/{name}", "bind,ro") for name in (".rustup", ".cargo") if toolchain
        ]:
            (folder / target).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-o", flags, source, folder / target], check=True)

    def process(self, line, folder=f"/{CHECKOUT}", **how):
        inside = [shutil.which("chroot"), self.folder, "sh", "-c", f"cd {folder} && {line}"]
        return subprocess.Popen(inside, env=self.environment, text=True, **how)

    def run(self, line, folder=f"/{CHECKOUT}"):
        """The standard output of a command, which must succeed."""
        process = self.process(line, folder, stdout=subprocess.PIPE)
        out, _ = process.communicate()
        if process.returncode:
            sys.exit(f"failed with {process.returncode}: {line}\n{out}")
        return out

    def serve(self, line):
        """Starts a service and waits until it says that it serves."""
        process = self.process(f"exec {line}", stdout=subprocess.PIPE)
        self.services.append(process)
        for said in process.stdout:
            if said.startswith("Serving http"):
                return
        sys.exit(f"ended before it served: {line}")


def mib(path):
    out = subprocess.run(["du", "-sxb", path], capture_output=True, text=True, check=True).stdout
    return int(out.split()[0]) / MIB


def make_root(folder):
    subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder], check=True,
                   stderr=subprocess.DEVNULL)


def check_out(root):
    """The last commit as files, and a photo of one's own."""
    (root.folder / CHECKOUT).mkdir(exist_ok=True)
    archive = subprocess.Popen(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", root.folder / CHECKOUT], stdin=archive.stdout, check=True)
    shutil.copy(PHOTO, root.folder / CHECKOUT / "photo.jpg")


def follow(root, line, shown):
    """Runs one line of the README; returns what was seen."""
    if line.startswith("curl"):
        photo = base64.b64encode(PHOTO.read_bytes()).decode()
        answer = json.loads(root.run(line.replace("/9j/4AAQ…", photo)))
        wrong = differences(shown, answer)
        if wrong:
            sys.exit("\n".join([line, *wrong]))
        best = answer["results"][0]
        return f"{best['display']} {best['probability']} %, heatmap of {len(answer['heatmap_base64'])} characters"
    if " up " in line:
        if root.services:
            return "runs already"
        root.serve(line)
        return "serves"
    out = root.run(line)
    written = re.findall(r"\S+\.(?:csv|png)\b", line)
    sizes = [f"{name} {(root.folder / CHECKOUT / name).stat().st_size} bytes" for name in written]
    return ", ".join(sizes) or f"{len(out)} characters"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toolchain", type=pathlib.Path)
    parser.add_argument("--root", type=pathlib.Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("unshare"):
        print("skipped: chroot and mounts need root")
        sys.exit(2)
    if not os.environ.get("README_UNSHARED"):
        # Removed out here, where none of the mounts is.
        folder = args.root or pathlib.Path(tempfile.mkdtemp(prefix="readme-"))
        inside = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv, "--root", folder]
        code = subprocess.run(inside, env=os.environ | {"README_UNSHARED": "1"}).returncode
        if not args.root:
            shutil.rmtree(folder)
        sys.exit(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", PORT))  # The README's commands name it.
    readme = (ROOT / "README.md").read_text()
    begin, folder = time.monotonic(), args.root
    if not (folder / "usr").exists():
        make_root(folder)
    print(f"{time.monotonic() - begin:7.1f} s  root of {mib(folder):.0f} MiB with {PACKAGES}", flush=True)
    root = Root(folder, args.toolchain)
    try:
        check_out(root)
        if not args.toolchain:
            root.run(RUSTUP, "/")
        for line in [line for line in commands(readme) if args.only in line]:
            reason = next((why for start, why in SKIPPED.items() if line.startswith(start)), None)
            begin = time.monotonic()
            seen = f"not run: {reason}" if reason else follow(root, line, shown_answer(readme))
            print(f"{time.monotonic() - begin:7.1f} s  {line}\n           {seen}", flush=True)
        built = folder / CHECKOUT / "target"
        if built.exists():
            print(f"target {mib(built):.0f} MiB, of them the program {mib(built / 'release' / 'skincell'):.1f} MiB")
    finally:
        for service in root.services:
            service.terminate()
            service.wait()


if __name__ == "__main__":
    main()

"""Makes the Spin plugin from the binary, and tests it by installing it as Spin does.

    python3 deploy/plugin.py [--binary FILE] [--out FOLDER] [--url URL]
    spin plugins install --file target/plugin/skincell.json
    spin skincell up

Writes FOLDER/skincell-<version>-<os>-<arch>.tar.gz and FOLDER/skincell.json, the manifest. Without --url the
manifest names the package by its path; with it, the package must be at URL/<its name>. Only the standard
library, and `jsonschema` if it is installed. Exits with 1 if Spin would not accept the result.
"""

import argparse
import gzip
import hashlib
import io
import json
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
NAME = "skincell"
# The binary serves requests itself; Spin only starts it.
SPIN = ">=2.0"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64", "arm64": "aarch64"}
SYSTEMS = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}


def pack(binary):
    """The package's bytes: the licence, and the binary under the plugin's name; reproducible."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, path, mode in ((NAME, binary, 0o755), ("LICENSE", ROOT / "LICENSE", 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, mode
            with path.open("rb") as file:
                archive.addfile(member, file)
    return gzip.compress(tar.getvalue(), mtime=0)


def manifest(version, package, digest, url):
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    return {
        "name": NAME,
        "description": "Serves Spin HTTP applications with a native wasi-nn: `spin skincell up`",
        "version": version,
        "spinCompatibility": SPIN,
        "license": cargo["license"],
        "packages": [{
            "os": SYSTEMS[platform.system()],
            "arch": ARCHITECTURES[platform.machine()],
            "url": f"{url}/{package.name}" if url else package.resolve().as_uri(),
            "sha256": digest,
        }],
    }


def check(path):
    """The problems of a manifest and its package by Spin's rules, with the package unpacked as Spin does."""
    text = json.loads(path.read_text())
    try:
        import jsonschema
    except ImportError:
        print("skipped: the check against the schema, because `jsonschema` is not installed")
    else:
        schema = json.loads((HERE / "schemas" / "plugin.json").read_text())
        for error in jsonschema.Draft202012Validator(schema).iter_errors(text):
            yield f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
    package = path.parent / text["packages"][0]["url"].rsplit("/", 1)[1]
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != text["packages"][0]["sha256"]:
        yield f"{package.name} has the digest {digest}, which is not the one in the manifest"
    with tempfile.TemporaryDirectory() as plugins:
        folder = pathlib.Path(plugins) / text["name"]
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="data")
        # `spin skincell up …` runs plugins/skincell/skincell with `up …`.
        for arguments, expected in (
            (["--version"], rf"{NAME} {re.escape(text['version'])}\n"),
            (["up", "--help"], r"(?s).*--listen"),
            (["up", "--help-args-only"], r"(?s).*--listen"),
        ):
            run = subprocess.run([folder / text["name"], *arguments], capture_output=True, text=True, timeout=60)
            if run.returncode or not re.match(expected, run.stdout):
                yield f"{NAME} {' '.join(arguments)} printed {run.stdout!r} {run.stderr!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / NAME)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "plugin")
    parser.add_argument("--url", help="the URL of the folder that the package will be in")
    args = parser.parse_args()
    if not args.binary.exists():
        sys.exit(f"there is no {args.binary}; build it with `cargo build --release`")
    printed = subprocess.run([args.binary, "--version"], capture_output=True, text=True, check=True).stdout
    version = printed.split()[1]
    args.out.mkdir(parents=True, exist_ok=True)
    system, architecture = SYSTEMS[platform.system()], ARCHITECTURES[platform.machine()]
    package = args.out / f"{NAME}-{version}-{system}-{architecture}.tar.gz"
    package.write_bytes(pack(args.binary))
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    path = args.out / f"{NAME}.json"
    path.write_text(json.dumps(manifest(version, package, digest, args.url), indent=2) + "\n")
    problems = list(check(path))
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"{path}: {package.name}, {package.stat().st_size / 2**20:.1f} MiB, sha256 {digest}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

"""Makes the Python wheel from the binary that `deploy/release.py` has built.

    python3 deploy/make_wheel.py --binary FILE --contents FOLDER --out FOLDER

The wheel contains the program, the package `python/skincell`, and of the unpacked archive `--contents` the model
`skin`, the engine for browsers, the completions and the manual pages. It is packed by `wheel`, so that the program in
it is the one in the archive, byte for byte; maturin would build it again. Prints the wheel's path.
Needs the package `wheel` (deploy/requirements.txt).
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
NAME = "skincell"
SUMMARY = "Serves image classifiers with Grad-CAM heatmaps: a photo in, ranked classes and a heatmap out"
PYTHON = ">=3.9"
# ELF's numbers of machines.
MACHINES = {62: "x86_64", 183: "aarch64"}
# The oldest C library that a static program is declared for; it uses none.
STATIC = ["manylinux_2_17", "manylinux2014", "musllinux_1_1"]
# Frameworks whose models `prepare` exports, by the name of the extra that installs them.
EXTRAS = {"keras": "models/keras/requirements.txt", "torch": "models/torch/requirements.txt"}


def tags(binary):
    """The platforms that the program runs on: read from the file, never assumed."""
    elf = binary.read_bytes()
    if elf[:4] != b"\x7fELF":
        sys.exit(f"{binary} is no program for Linux; wheels for other systems are not made yet")
    machine = MACHINES[int.from_bytes(elf[18:20], "little")]
    used = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", elf)]
    if not used and b"ld-linux" not in elf and b"ld-musl" not in elf:
        return [f"{tag}_{machine}" for tag in STATIC]
    return [f"manylinux_2_{max(used)}_{machine}"]


def requirements():
    """The extras, as lines of metadata."""
    for extra, path in EXTRAS.items():
        yield f"Provides-Extra: {extra}"
        for line in (ROOT / path).read_text().splitlines():
            if line and not line.startswith("#"):
                yield f'Requires-Dist: {line}; extra == "{extra}"'


def metadata(version, cargo):
    """The package's core metadata, version 2.4."""
    lines = [
        "Metadata-Version: 2.4", f"Name: {NAME}", f"Version: {version}", f"Summary: {SUMMARY}",
        f"License-Expression: {cargo['license']}", "License-File: LICENSE", "License-File: NOTICE.md",
        f"Requires-Python: {PYTHON}", "Classifier: Operating System :: POSIX :: Linux", "Classifier: Typing :: Typed",
        *requirements(), "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (ROOT / "python" / "README.md").read_text()


# Completions by shell: the file in the archive, and where it belongs below share.
COMPLETIONS = {
    "bash": (f"{NAME}.bash", f"bash-completion/completions/{NAME}"),
    "zsh": (f"_{NAME}", f"zsh/site-functions/_{NAME}"),
    "fish": (f"{NAME}.fish", f"fish/vendor_completions.d/{NAME}.fish"),
}
# Where shells and `man` look for the files of the archive, below the environment that pip installs into.
SHARED = {f"completions/{file}": place for file, place in COMPLETIONS.values()} | {"man/man1": "man/man1"}


def make(binary, contents, out):
    """Packs the wheel into the folder `out`; returns its path."""
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    version = cargo["version"]
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder, "tree")
        shutil.copytree(ROOT / "python" / NAME, tree / NAME, ignore=shutil.ignore_patterns("__pycache__"))
        data = tree / f"{NAME}-{version}.data"
        (data / "scripts").mkdir(parents=True)
        shutil.copy2(binary, data / "scripts" / NAME)
        # pip places these at <environment>/share/skincell, where the program looks for them.
        share = data / "data" / "share"
        for part in ("models", "browser"):
            shutil.copytree(contents / part, share / NAME / part)
        for source, place in SHARED.items():
            (share / place).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (contents / source).is_dir() else shutil.copy2
            copy(contents / source, share / place)
        info = tree / f"{NAME}-{version}.dist-info"
        (info / "licenses").mkdir(parents=True)
        for name in ("LICENSE", "NOTICE.md"):
            shutil.copy2(ROOT / name, info / "licenses" / name)
        (info / "METADATA").write_text(metadata(version, cargo))
        wheel = ["Wheel-Version: 1.0", "Generator: deploy/make_wheel.py", "Root-Is-Purelib: false"]
        wheel += [f"Tag: py3-none-{tag}" for tag in tags(binary)]
        (info / "WHEEL").write_text("\n".join(wheel) + "\n")
        out.mkdir(parents=True, exist_ok=True)
        packed = pathlib.Path(folder, "packed")
        packed.mkdir()
        pack = [sys.executable, "-m", "wheel", "pack", str(tree), "--dest-dir", str(packed)]
        done = subprocess.run(pack, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"wheel pack: {done.stderr}install it with `pip install -r deploy/requirements.txt`")
        wheel = next(packed.iterdir())
        return pathlib.Path(shutil.move(wheel, out / wheel.name))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--contents", type=pathlib.Path, required=True, help="the archive, unpacked")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "dist")
    args = parser.parse_args()
    print(make(args.binary, args.contents, args.out))


if __name__ == "__main__":
    main()

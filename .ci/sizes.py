#!/usr/bin/env python3
"""Lists source files of more than 500 lines and lines of comment of more than 110 characters, and exits with 1
if there are any. Functions are left to clippy (clippy.toml).

    python3 .ci/sizes.py
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ["*.rs", "*.py", "*.js", "*.mjs"]
MOST_LINES, MOST_CHARACTERS = 500, 110


def too_large(path: str) -> list[str]:
    """What is too large in one file, a line of text each."""
    lines = (ROOT / path).read_text().splitlines()
    found = [f"{path}: {len(lines)} lines"] if len(lines) > MOST_LINES else []
    if path.endswith(".rs"):
        comments = ((at, len(line)) for at, line in enumerate(lines, 1) if line.lstrip().startswith("//"))
        found += [f"{path}:{at}: {length} characters" for at, length in comments if length > MOST_CHARACTERS]
    return found


def main():
    paths = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [line for path in paths.stdout.split() for line in too_large(path)]
    print(*found, f"{len(found)} too large", sep="\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

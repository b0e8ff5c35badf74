#!/usr/bin/env python3
"""Lists modules that import each other, and exits with 1 if any are not listed in KNOWN.

Modules of one folder are compared with one another, each with everything below it: crate by crate for Rust
(`src/`), and file by file for the Python of `bench/` and `tests/`. A circle of more than two modules is listed as
one. A module and its own parent are not compared: they are read together. Tests inside a file are left out, for
nothing imports them; so are comments.

    python3 .ci/modules.py            circles, one a line
    python3 .ci/modules.py --imports  every import between neighbours, to look one up
"""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATES = ["", "vision", "onnx", "engines", "runner", "runner/hosts", "modelkit", "cli", "cellnet", "portable", "portable/host", "browser", "tests/guests"]
PYTHON = ["bench", "bench/engine", "deploy", "tests/clients", "tests/guests", "models"]

# Circles that are still to be opened. A line that is no longer true fails too, so that the list only shrinks.
KNOWN = set()


def without_comments(text: str) -> str:
    """Rust without comments, strings and `#[cfg(test)]` modules. Lengths are not kept."""
    text = re.sub(r'r#*".*?"#*|"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    kept, rest = [], text
    while (found := re.search(r"#\[cfg\(test\)\]\s*(?:#!?\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod \w+\s*\{", rest)) is not None:
        kept.append(rest[: found.start()])
        depth, at = 1, found.end()
        while depth and at < len(rest):
            depth += {"{": 1, "}": -1}.get(rest[at], 0)
            at += 1
        rest = rest[at:]
    return "".join(kept) + rest


def use_paths(tree: str) -> list[list[str]]:
    """`a::{b, c::{d, self}}` as paths."""
    tree = tree.strip()
    if "{" not in tree:
        path = [part.strip() for part in re.sub(r"\s+as\s+\w+", "", tree).split("::")]
        return [path]
    head, _, inside = tree.partition("{")
    head = [part.strip() for part in head.split("::") if part.strip()]
    inside, parts, depth, start = inside.rstrip().removesuffix("}"), [], 0, 0
    for at, char in enumerate(inside + ","):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(inside[start:at])
            start = at + 1
    return [head + path for part in parts if part.strip() for path in use_paths(part)]


class Crate:
    """The modules of one crate and what each imports."""

    def __init__(self, folder: pathlib.Path):
        self.source = folder / "src"
        self.texts = {}
        for file in sorted(self.source.rglob("*.rs")):
            parts = list(file.relative_to(self.source).with_suffix("").parts)
            if parts[-1] in ("mod", "lib", "main"):
                parts.pop()
            self.texts.setdefault(tuple(parts), "")
            self.texts[tuple(parts)] += without_comments(file.read_text())
        # Of a module: the names that it passes on, and the module each comes from.
        self.passed_on = {module: {} for module in self.texts}
        for _ in range(3):  # a name may be passed on more than once
            for module, text in self.texts.items():
                for path in self.uses(text, passed_on=True):
                    if (target := self.target(module, path)) and target != module:
                        self.passed_on[module][path[-1]] = target

    @staticmethod
    def uses(text: str, passed_on: bool = False) -> list[list[str]]:
        public = r"pub(?:\([^)]*\))?\s+"
        pattern = rf"\b{public}use\s+([^;]+);" if passed_on else r"\buse\s+([^;]+);"
        return [path for tree in re.findall(pattern, text) for path in use_paths(tree)]

    def target(self, module: tuple, path: list[str]) -> tuple | None:
        """The module that `path`, written in `module`, leads into; None for another crate."""
        if path[0] == "crate":
            here, rest = (), path[1:]
        elif path[0] in ("self", "super"):
            here, rest = module, list(path)
            while rest and rest[0] in ("self", "super"):
                here = here[:-1] if rest[0] == "super" else here
                rest = rest[1:]
        elif (*module, path[0]) in self.texts:
            here, rest = module, path
        else:
            return None
        while rest:
            if (*here, rest[0]) in self.texts:
                here = (*here, rest[0])
            elif rest[0] in self.passed_on.get(here, {}):
                here = self.passed_on[here][rest[0]]
            else:
                break
            rest = rest[1:]
        return here

    def imports(self) -> set[tuple[tuple, tuple]]:
        found = set()
        for module, text in self.texts.items():
            inline = re.findall(r"\b((?:crate|self|super)(?:::\w+)+)", text)
            for path in self.uses(text) + [path.split("::") for path in inline]:
                target = self.target(module, path)
                if target is not None and target != module:
                    found.add((module, target))
        return found


def neighbours(imports: set[tuple[tuple, tuple]]) -> dict[tuple, set[tuple[str, str]]]:
    """For each folder the imports between what lies in it."""
    folders = {}
    for one, other in imports:
        level = 0
        while level < min(len(one), len(other)) and one[level] == other[level]:
            level += 1
        if level < min(len(one), len(other)):
            folders.setdefault(one[:level], set()).add((one[level], other[level]))
    return folders


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Strongly connected parts of more than one module."""
    reach = {}
    nodes = {node for edge in edges for node in edge}
    for node in nodes:
        seen, waiting = set(), [node]
        while waiting:
            for one, other in edges:
                if one == waiting[-1] and other not in seen:
                    seen.add(other)
                    waiting.insert(0, other)
            waiting.pop()
        reach[node] = seen
    found = {frozenset(m for m in nodes if m in reach[n] and n in reach[m]) for n in nodes if n in reach[n]}
    return sorted(sorted(part) for part in found if len(part) > 1)


def python_imports(folder: pathlib.Path) -> set[tuple[tuple, tuple]]:
    found = set()
    files = {file.stem: file for file in folder.glob("*.py")}
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names if not node.module)]
            found |= {((name,), (other,)) for other in names if other in files and other != name}
    return found


def main() -> int:
    parts = [(crate or "src", Crate(ROOT / crate).imports()) for crate in CRATES]
    parts += [(folder, python_imports(ROOT / folder)) for folder in PYTHON]
    lines = []
    for name, imports in parts:
        for folder, edges in sorted(neighbours(imports).items()):
            where = "/".join([name, *folder])
            if "--imports" in sys.argv:
                print("\n".join(f"{where}: {one} -> {other}" for one, other in sorted(edges)))
            lines += [f"{where}: {' <-> '.join(part)}" for part in circles(edges)]
    new, gone = set(lines) - KNOWN, KNOWN - set(lines)
    for line in sorted(lines):
        print(line, "" if line in new else "(known)")
    for line in sorted(gone):
        print(f"{line}: is open by now; take it off KNOWN")
    print(f"{len(lines)} circles of modules, {len(new)} of them new")
    return 1 if new or gone else 0


if __name__ == "__main__":
    sys.exit(main())

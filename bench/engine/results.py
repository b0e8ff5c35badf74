"""Compares the results of the scripts in this folder with the promises, and stores them.

Every script makes one `Results`, adds its figures, and exits with `results.end()`: 1 if a promise is broken.
With `--keep` the figures are written to `bench/results/engine.json`, each with limit, machine, date and
commit, replacing the earlier figure of the same name. `python results.py` writes them into the table in
`cellnet/README.md`.
"""

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = REPOSITORY / "bench" / "results" / "engine.json"
README = REPOSITORY / "cellnet" / "README.md"
BEGIN, END = "<!-- figures: python bench/engine/results.py -->\n", "<!-- end of figures -->\n"


def machine():
    """Processor, cores and widest vectors."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*:\s*(.+)", text)
    family = re.search(r"cpu family\s*:\s*(\d+)", text)
    vectors = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    which = f"{name.group(1).strip() if name else 'unknown'} (family {family.group(1) if family else '?'})"
    return f"{which}, {os.cpu_count()} cores, {vectors}"


def commit():
    git = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "cellnet"]).returncode
    return head + ("+" if changed else "")


class Results:
    def __init__(self, keep):
        self.keep, self.figures = keep, {}

    def add(self, line, name, figure, limit=None, unit="", note=""):
        """Adds a figure; `limit` is its largest promised value, if there is one."""
        holds = None if limit is None else bool(figure <= limit)
        self.figures[name] = {
            "line": line, "figure": float(f"{figure:.4g}"), "limit": limit, "unit": unit, "holds": holds,
            "note": note, "machine": machine(), "date": datetime.date.today().isoformat(), "commit": commit(),
        }
        word = "" if holds is None else f", at most {limit:g}: {'holds' if holds else 'BROKEN'}"
        print(f"  {name}: {figure:.4g}{' ' + unit if unit else ''}{word}{'; ' + note if note else ''}", flush=True)

    def end(self):
        """Stores the figures if `--keep` is given; returns the exit code."""
        if self.keep:
            kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
            kept.update(self.figures)
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        broken = [name for name, figure in self.figures.items() if figure["holds"] is False]
        if broken:
            print("broken: " + "; ".join(broken))
        return 1 if broken else 0


def table(kept):
    """The figures as Markdown, grouped by machine and commit."""
    lines = ["| | figure | at most | holds |", "|---|---|---|---|"]
    for name, figure in sorted(kept.items(), key=lambda item: (item[1]["line"], item[0])):
        unit = f" {figure['unit']}" if figure["unit"] else " ×" if "beside" in name else ""
        limit = f"{figure['limit']:.3g}" if figure["limit"] is not None else ""
        holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
        lines.append(f"| {name} | {figure['figure']:.3g}{unit} | {limit} | {holds} |")
    places = sorted({(f["machine"], f["date"]) for f in kept.values()})
    where = "; ".join(f"{machine}, {date}" for machine, date in places)
    return "\n".join(lines) + f"\n\nMeasured on: {where}. Commits are in `bench/results/engine.json`.\n"


def main():
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + "\n" + table(json.loads(KEPT.read_text())) + "\n" + END + after)


if __name__ == "__main__":
    sys.exit(main())

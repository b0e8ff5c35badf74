"""The zoo: nets of public libraries, each prepared, served and compared with its own framework.

    python3 tests/reference/zoo.py FOLDER --keras KERAS_PYTHON --torch TORCH_PYTHON      # all, about 40 minutes
    python3 tests/reference/zoo.py FOLDER --keras … --torch … keras:VGG16 timm:dla34     # only these, again
    python3 tests/reference/zoo.py FOLDER --table                                        # from the kept results

KERAS_PYTHON has models/keras/requirements.txt, TORCH_PYTHON models/torch/requirements.txt and the packages
timm, torchvision, transformers, onnxsim and onnxconverter-common; both have onnxruntime and pillow. No
weights are downloaded: weights are seeded, batch norms have seen three photos, and last layers are scaled so
that classes differ. Needs target/release/skincell ($SKINCELL names another) and the component. Every engine
that can run the folder serves it; ONNX Runtime is included if ORT_DYLIB_PATH names its library.

Each net runs in its own process and gives a line of FOLDER/results.jsonl; nets with a line are not run again.
The table is written into docs/models.md between its marks. Exits with 1 if an answer is wrong: a probability
by more than 1e-4 from the framework's in float64, or a heatmap by more than 2e-3 of its maximum (more if the file
itself rounds, see zoo_nets/onnx_nets.py).
"""

import argparse
import collections
import datetime
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from zoo_nets import nets

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
TIMEOUT = 3600
# Each source, the Python it needs, and its module.
SOURCES = {"keras": ("keras", "keras_nets"), "torchvision": ("torch", "torch_nets"), "timm": ("torch", "torch_nets"),
           "transformers": ("torch", "torch_nets"), "onnx": ("torch", "onnx_nets"), "own Keras": ("keras", "own_keras"),
           "own PyTorch": ("torch", "own_torch")}


def names():
    """Every net as source:name."""
    lists = {"keras": nets.KERAS, "torchvision": nets.TORCHVISION, "timm": nets.TIMM, "transformers": nets.TRANSFORMERS,
             "onnx": nets.VARIANTS, "own Keras": nets.OWN_KERAS, "own PyTorch": nets.OWN_TORCH}
    return [f"{source}:{name}" for source, held in lists.items() for name in held]


def one(name, cache):
    """Runs one net in this process and prints its row."""
    from zoo_nets import look

    source, net = name.split(":", 1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made = importlib.import_module(f"zoo_nets.{SOURCES[source][1]}").make(source, net, folder)
        row = look.compare(made, folder, cache)
    print("row: " + json.dumps({"exported": made.exported} | row), flush=True)


def run(name, asked):
    """Runs one net in its own process; returns its row."""
    python = {"keras": asked.keras, "torch": asked.torch}[SOURCES[name.split(":")[0]][0]]
    began = time.time()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [python, __file__, str(asked.folder), "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
        rows = re.findall(r"^row: (.*)$", done.stdout, re.M)
        row = json.loads(rows[-1]) if rows else {"outcome": "failed", "reason": done.stderr.strip()[-600:]}
    except subprocess.TimeoutExpired:
        row = {"outcome": "failed", "reason": f"not done in {TIMEOUT} s"}
    where = {"date": datetime.date.today().isoformat(), "machine": machine()}
    return {"name": name, "seconds": round(time.time() - began)} | where | row


def results(folder):
    """The last row of each net."""
    file = folder / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {row["name"]: row for row in rows}


def short(reason):
    """A reason, shortened to fit a cell of the table."""
    text = " ".join(reason.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 240 else text[:239] + "…"


def machine():
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{name[1] if name else 'unknown processor'}, {os.cpu_count()} cores"


def summary(rows):
    outcomes = [row["outcome"] for row in rows]
    wrong = sum(outcome in ("wrong", "unseen", "failed") for outcome in outcomes)
    shown = sum(bool(row.get("maps")) for row in rows)
    return wrong, f"{len(rows)} models, {wrong} wrong, {100 * shown / max(len(rows), 1):.0f} % with a heatmap"


def table(rows):
    number = lambda value: "" if value is None else f"{value:.1e}"
    lines = ["| model | file | outcome | engines | probabilities | heatmaps | layer of the heatmap, or why there is none |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["outcome"] == "refused":
            cells = ["refused", "", "", "", short(row["reason"])]
        else:
            where = f"`{row['layer']}`, {row['map']}" if row.get("layer") else short(row.get("reason", ""))
            cells = [row["outcome"], ", ".join(row.get("engines", [])), number(row.get("probability")),
                     number(row.get("heatmap")), where]
        lines.append(f"| {row['name']} | {row.get('exported', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(rows):
    """Puts the table into docs/models.md."""
    page = ROOT / "docs" / "models.md"
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    runs = collections.Counter((row["date"], row["machine"]) for row in rows)
    made = [f"{count} on {machine}, {date}" for (date, machine), count in sorted(runs.items())]
    head = f"{summary(rows)[1]}; {'; '.join(made)}."
    page.write_text(f"{before}{BEGIN}\n{head}\n\n{table(rows)}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="source:net to run again (default: nets without a result)")
    parser.add_argument("--keras", default=sys.executable, help="the Python with Keras")
    parser.add_argument("--torch", default=sys.executable, help="the Python with PyTorch")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    asked = parser.parse_intermixed_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.one:
        return one(asked.one, asked.folder / "cache")
    order, there = names(), results(asked.folder)
    wanted = [] if asked.table else asked.names or [name for name in order if name not in there]
    for name in wanted:
        row = run(name, asked)
        with open(asked.folder / "results.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name:40} {row['outcome']:8} {row.get('probability')} {row.get('heatmap')} {row.get('maps', '')} "
              f"{row['seconds']} s {short(row.get('reason', ''))}", flush=True)
    there = results(asked.folder)
    rows = [there[name] for name in order if name in there]
    if rows and len(rows) == len(order):
        write(rows)
    wrong, said = summary(rows)
    print(said)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

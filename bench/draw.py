"""Draws the results of benchmarks: bars of a comparison, curves over clients, megapixels and weights.

    bench/.env/python/bin/python bench/draw.py compare bench/results/compare.json
    bench/.env/python/bin/python bench/draw.py curves bench/results/curves.json

Pictures go to docs/images, with machine and date at the bottom. All figures come from the file.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e4e8ec"
# Name, colour and mark of each server; ours are warm.
SERVERS = {
    "cellnet": ("skincell (cellnet)", "#c8452e", "o"),
    "rten": ("skincell (rten)", "#e39b2d", "s"),
    "onnxruntime": ("skincell (onnxruntime)", "#8a5bb5", "D"),
    "fastapi": ("FastAPI + ONNX Runtime", "#2f7f9c", "^"),
    "wasmtime": ("wasmtime serve + OpenVINO", "#4c9a6a", "v"),
    "keras": ("gunicorn + Keras", "#7b8794", "P"),
}
plt.rcParams.update({
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "figure.facecolor": "white", "savefig.dpi": 144,
})  # fmt: skip


def plain(value, _=None):
    """Formats a number for people."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def foot(figure, machine, words):
    text = f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}  ·  {words}"
    figure.text(0.012, 0.015, text, fontsize=8, color=FAINT)


def save(figure, name):
    path = IMAGES / name
    figure.savefig(path)
    plt.close(figure)
    print(f"drawn: {path.relative_to(IMAGES.parents[1])}")


def bars(axes, values, title):
    """Horizontal bars with their values, the shortest first."""
    names = sorted(values, key=values.get, reverse=True)
    for row, name in enumerate(names):
        label, colour, _ = SERVERS[name]
        axes.barh(row, values[name], color=colour, height=0.62)
        axes.annotate(plain(values[name]), (values[name], row), (5, 0), textcoords="offset points",
                      va="center", fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(names)), [SERVERS[n][0] for n in names], color=INK)
    axes.set_xlim(0, max(values.values()) * 1.15)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title)


def compare(result):
    systems = result["systems"]
    with_map = {n: s["ways"]["heatmap"]["p50"] for n, s in systems.items() if "heatmap" in s["ways"]}
    without = {n: s["ways"]["plain"]["p50"] for n, s in systems.items()}
    private = {n: s["memory"]["private"] / 2**20 for n, s in systems.items()}
    cold = {n: s["cold_s"] * 1e3 for n, s in systems.items()}
    figure, axes = plt.subplots(2, 2, figsize=(12, 6.4))
    bars(axes[0][0], with_map, "A photo with its heatmap, p50 in ms")
    bars(axes[0][1], without, "A photo without a heatmap, p50 in ms")
    bars(axes[1][0], private, f"Private memory after {result['clients']} clients, MiB")
    bars(axes[1][1], cold, "Process start to first answer, ms")
    foot(figure, result["machine"],
         f"EfficientNetV2-S 300×300, {result['threads']} thread(s); shorter is better")  # fmt: skip
    figure.tight_layout(rect=(0, 0.04, 1, 1), h_pad=2.5, w_pad=3)
    save(figure, "compare.png")


def curves(axes, rows, what, title, unit, over):
    """One curve for each server, with its name at the curve's end."""
    ends = []
    for name in SERVERS:
        points = sorted((row["x"], row[what]) for row in rows if row["server"] == name)
        if not points:
            continue
        label, colour, mark = SERVERS[name]
        xs, ys = zip(*points)
        axes.plot(xs, ys, color=colour, marker=mark, markersize=5, linewidth=2, clip_on=False)
        if xs[-1] == max(row["x"] for row in rows):
            ends.append([xs[-1], ys[-1], label, colour])
        else:  # it ends between other curves
            axes.annotate(label, (xs[-1], ys[-1]), (4, 8), textcoords="offset points", color=colour,
                          fontsize=9, fontweight="bold", ha="right")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({row["x"] for row in rows})
    axes.set_xticks(ticks, [plain(round(tick, 1)) for tick in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.grid(color=GRID)
    axes.tick_params(length=0)
    axes.set_title(f"{title}, {unit}")
    axes.set_xlabel(over)
    name_ends(axes, ends)


def name_ends(axes, ends):
    """Writes each name at its curve's end, moved apart if they would overlap."""
    low, high = axes.get_ylim()
    if high / low < 10:  # at least a decade, so that a flat curve looks flat
        middle = (low * high) ** 0.5
        low, high = middle / 3.2, middle * 3.2
        axes.set_ylim(low, high)
    step, least = (high / low) ** 0.062, 0
    for end in sorted(ends, key=lambda end: end[1]):
        height = max(end[1], least * step)
        axes.annotate(end[2], (end[0], end[1]), (end[0] * 1.06, height), color=end[3], fontsize=9,
                      fontweight="bold", va="center", annotation_clip=False)  # fmt: skip
        least = height


PICTURES = {
    "clients": ("clients at the same time", "no heatmap, 1 inference thread each"),
    "megapixels": ("megapixels of the JPEG", "no heatmap, 1 inference thread, 1 client"),
    "weights": ("MB of float32 weights (EfficientNetV2-S of several widths)",
                "with heatmaps, 1 inference thread, 1 client"),
}  # fmt: skip


def draw_curves(result):
    for name, (over, words) in PICTURES.items():
        if name not in result:
            continue
        rows = result[name]["rows"]
        figure, axes = plt.subplots(1, 2, figsize=(13, 4.6))
        curves(axes[0], rows, "p50", "Latency, median", "ms", over)
        curves(axes[1], rows, "private", "Private memory, at its most", "MiB", over)
        foot(figure, result[name]["machine"], f"EfficientNetV2-S, {words}")
        figure.subplots_adjust(left=0.05, right=0.855, top=0.91, bottom=0.19, wspace=0.58)
        save(figure, f"curve-{name}.png")


if __name__ == "__main__":
    what, path = sys.argv[1:3]
    {"compare": compare, "curves": draw_curves}[what](json.loads(pathlib.Path(path).read_text()))

"""Draws `docs/images/memory.png`: private memory over photos, beside the origin app's own report.

    python3 bench/soak.py origin
    python3 bench/curve.py          # needs matplotlib

skincell's numbers come from `bench/results/soak-origin.json`, the origin app's from its own report, described
in `docs/memory.md`.
"""

import json

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

from service import ROOT

MIB = 1 << 20
# The origin app's report in MB: process, model and warm-up before the first photo, and growth per photo.
BEFORE, EACH, AT_WORK = (150 + 250 + 50, 200 + 300 + 50), (20, 30), (150, 200)
INK, QUIET, OURS, THEIRS, LIMIT = "#1d2433", "#6b7486", "#0b6e8f", "#c2571a", "#b3203a"


def axes_in_our_style():
    plt.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": QUIET,
        "axes.edgecolor": "#c9ced8", "xtick.color": QUIET, "ytick.color": QUIET, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#e8ebf0", "axes.axisbelow": True,
    })
    figure, both = plt.subplots(1, 2, figsize=(11, 4.2), gridspec_kw={"width_ratios": [3, 2]})
    figure.patch.set_facecolor("white")
    return figure, both


def beside(axes, photos, mib):
    """Left: both, on a logarithmic scale."""
    axes.set_xscale("log")
    axes.set_xlim(0.8, photos[-1] * 1.6)
    axes.set_ylim(0, 960)
    axes.axhline(512, color=LIMIT, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.text(photos[-1] * 1.5, 524, "512 MB, the plan's limit", color=LIMIT, ha="right", fontsize=9)
    theirs = range(1, 6)
    low, high = ([before + each * n for n in theirs] for before, each in zip(BEFORE, EACH))
    axes.fill_between(theirs, [v + AT_WORK[0] for v in low], [v + AT_WORK[1] for v in high], color=THEIRS, alpha=0.16, linewidth=0)
    axes.fill_between(theirs, low, high, color=THEIRS, alpha=0.45, linewidth=0)
    axes.plot([5], [high[-1] + AT_WORK[1]], marker="X", color=LIMIT, markersize=10, clip_on=False)
    axes.text(6.2, high[-1] + AT_WORK[1], "killed by the fifth photo", va="center", color=LIMIT, fontsize=9)
    axes.text(6.2, 800, "the origin app, as reported:\nat rest, and with Grad-CAM at work", va="center", color=THEIRS, fontsize=9)
    axes.plot(photos, mib, color=OURS, linewidth=2.6, solid_capstyle="round")
    axes.text(photos[-1] * 1.5, mib[-1] + 16, f"skincell: {mib[-1]:.1f} MiB after {photos[-1]:,} photos, heatmaps included",
              ha="right", color=OURS, fontsize=9, weight="bold")
    axes.set_xticks([1, 10, 100, 1000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    axes.set_yticks([0, 256, 512, 768])
    axes.set_xlabel("photos answered")
    axes.set_title("Private memory in MiB", loc="left", fontsize=11, weight="bold")


def close_up(axes, photos, mib, slope):
    """Right: skincell alone, on linear scales."""
    axes.plot(photos, mib, color=OURS, linewidth=1.4)
    axes.axvline(500, color=QUIET, linewidth=0.8, linestyle=":")
    top = max(mib) * 1.6
    axes.set_ylim(0, top)
    axes.set_xlim(0, photos[-1])
    axes.text(photos[-1] / 2, max(mib) * 1.15, f"slope from the 500th photo on: {slope:+.1f} bytes a photo", ha="center", color=OURS,
              fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("photos answered, 8 clients at once")
    axes.set_title("The same, close up", loc="left", fontsize=11, weight="bold")


def main():
    record = json.loads((ROOT / "bench" / "results" / "soak-origin.json").read_text())
    photos, mib = zip(*((n, b / MIB) for n, b in record["curve"]))
    figure, (left, right) = axes_in_our_style()
    beside(left, photos, mib)
    close_up(right, photos, mib, record["slope"])
    machine = record["machine"]
    figure.text(0.995, 0.01, f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}; in a control group of 512 MiB", ha="right",
                color=QUIET, fontsize=7.5)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(ROOT / "docs" / "images" / "memory.png", dpi=160)


if __name__ == "__main__":
    main()

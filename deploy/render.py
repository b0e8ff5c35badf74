"""Renders the files of this folder, and the tables of docs/deploy.md, from figures.toml.

    python3 deploy/render.py            writes the files
    python3 deploy/render.py --check    lists files that are out of date; exits with 1 if there are any

Only the standard library. validate.py checks the results.
"""

import math
import pathlib
import string
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BEGIN, END = "<!-- rendered by deploy/render.py -->", "<!-- end -->"
GENERATED = "Rendered by deploy/render.py from deploy/figures.toml and deploy/templates/. Do not edit."
HOURS_A_MONTH = 730


def rounded(mib, step=16):
    """Mebibytes, up to whole steps."""
    return math.ceil(mib / step) * step


def values(figures):
    """The values that templates may use, by name."""
    service, kubernetes, render = figures["service"], figures["kubernetes"], figures["render"]
    measured, room = figures["measured"], figures["room"]
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    request = rounded(measured["peak_mib"] * room["request"])
    wasm_request = rounded(figures["wasm"]["private_mib"] * room["request"])
    return {
        **service, **kubernetes,
        "generated": GENERATED,
        "version": cargo["workspace"]["package"]["version"],
        "memory_request_mib": request,
        "memory_limit_mib": rounded(request * room["limit"]),
        "wasm_request_mib": wasm_request,
        "wasm_limit_mib": rounded(wasm_request * room["limit"]),
        # The drain timeout, and time to close the remaining connections.
        "shutdown_seconds": service["drain_seconds"] + 10,
        **{f"render_{name}": value for name, value in render.items()},
    }


def cost_table(figures):
    """The cost of a million photos, as Markdown."""
    measured, prices, render = figures["measured"], figures["prices"], figures["render"]
    per_core = measured["photos_per_second"] / measured["cores"]
    wasm_per_core = 1 / figures["wasm"]["seconds"]
    rows = [
        ("a machine of 2 cores, the runner", 2 * per_core, prices["vm_2_cores"]),
        (f"Render `{render['plan']}`, the runner", render["cores"] * per_core, prices["render_starter"]),
        ("a machine of 2 cores, inference in Wasm", 2 * wasm_per_core, prices["vm_2_cores"]),
    ]
    lines = [
        f"Measured: {measured['photos_per_second']:g} photos a second on {measured['cores']} cores"
        f" ({measured['machine']}); {figures['wasm']['seconds']:g} s a photo on one core in Wasm"
        f" ({figures['wasm']['machine']}).",
        "",
        "| where | photos a second | dollars a month | photos a month at half load | dollars a million photos |",
        "|---|---|---|---|---|",
    ]
    for where, rate, price in rows:
        monthly = rate * 0.5 * 3600 * HOURS_A_MONTH
        lines.append(f"| {where} | {rate:.1f} | {price:.0f} | {monthly / 1e6:.1f} million | {price / monthly * 1e6:.2f} |")
    return "\n".join(lines)


def size_table(figures):
    """The resources of each deployment, as Markdown."""
    v = values(figures)
    return "\n".join([
        "| where | memory request | memory limit | CPU |",
        "|---|---|---|---|",
        f"| Kubernetes | {v['memory_request_mib']} MiB | {v['memory_limit_mib']} MiB | {v['cpu']} core |",
        f"| Render | {v['render_memory_mib']} MiB, the plan's | the same | {v['render_cores']} core |",
        f"| SpinKube | {v['wasm_request_mib']} MiB | {v['wasm_limit_mib']} MiB | {v['cpu']} core |",
    ])


def rendered():
    """Path and text of every rendered file."""
    figures = tomllib.loads((HERE / "figures.toml").read_text())
    names = values(figures)
    for template in sorted((HERE / "templates").iterdir()):
        yield HERE / template.name, string.Template(template.read_text()).substitute(names)
    page = ROOT / "docs" / "deploy.md"
    parts = page.read_text().split(BEGIN)
    tables = [size_table(figures), cost_table(figures)]
    if len(parts) != len(tables) + 1:
        raise SystemExit(f"{page} must have {len(tables)} places for tables, each {BEGIN} … {END}")
    rest = [part.split(END, 1)[1] for part in parts[1:]]
    filled = [f"{BEGIN}\n{table}\n{END}{after}" for table, after in zip(tables, rest)]
    yield page, parts[0] + "".join(filled)


def main():
    stale = [(path, text) for path, text in rendered() if not path.exists() or path.read_text() != text]
    if sys.argv[1:] == ["--check"]:
        for path, _ in stale:
            print(f"{path.relative_to(ROOT)} is out of date; run `python3 deploy/render.py`")
        sys.exit(1 if stale else 0)
    for path, text in stale:
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

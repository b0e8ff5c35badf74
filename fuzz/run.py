"""Builds a fuzz target and runs it for a given time. Exits with 1 if it finds something.

    python3 fuzz/run.py photo upload card manifest prepare nn [--seconds 600] [--json FILE]

Works with the pinned toolchain: `instrument` adds the coverage counters. The corpus and findings stay in
`fuzz/work`; `--keep` writes the smallest corpus with the same coverage to `fuzz/corpus`, if it is small
enough. Only the standard library.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = HERE / "work"
TARGETS = ("photo", "upload", "card", "manifest", "prepare", "nn")
# Where else seeds lie, beside `corpus`.
SEEDS = {
    "photo": [ROOT / "vision" / "tests" / "fixtures", ROOT / "tests" / "photos"],
    "card": [ROOT / "models" / "skin", ROOT / "models" / "imagenet"],
    "manifest": [ROOT / "runner" / "tests" / "manifests"],
}
KINDS = {"photo": {".jpg", ".png", ".webp", ".gif", ".bmp"}, "card": {".json"}, "manifest": {".toml"}}
LIMITS = {"photo": 150_000, "upload": 4096, "card": 64_000, "manifest": 8192, "prepare": 8192, "nn": 512}
KEPT_FILE, KEPT_ALL = 2048, 200


def build(target):
    environment = dict(os.environ, RUSTC_WRAPPER=str(HERE / "instrument"))
    package = "skincell-fuzz-host" if target in ("manifest", "nn") else "skincell-fuzz"
    subprocess.run(["cargo", "build", "-p", package, "--bin", target], cwd=HERE, env=environment, check=True)
    return HERE / "target" / "debug" / target


def seeds(target):
    """A folder of the seeds: those kept here, and small files of the repository."""
    folder = WORK / target / "seeds"
    folder.mkdir(parents=True, exist_ok=True)
    kept = HERE / "corpus" / target
    found = [p for p in kept.iterdir()] if kept.exists() else []
    for place in SEEDS.get(target, []):
        found += [p for p in place.iterdir() if p.suffix in KINDS[target]]
    for path in found:
        data = path.read_bytes()
        if target == "photo" and path.parent != kept:
            data = b"\x20" + data  # the first byte is the size that is asked for
        if len(data) <= LIMITS[target]:
            (folder / path.name).write_bytes(data)
    return folder


def run(target, seconds):
    binary, corpus, given = build(target), WORK / target / "corpus", seeds(target)
    findings = WORK / target / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    earlier = set(findings.iterdir())
    command = [binary, corpus, given, f"-max_total_time={seconds}", f"-artifact_prefix={findings}/", "-timeout=20",
               "-rss_limit_mb=2048", f"-max_len={LIMITS[target]}", "-print_final_stats=1", "-use_value_profile=1"]
    begin = time.time()
    log = WORK / target / "log"
    with open(log, "wb") as sink:
        code = subprocess.run(list(map(str, command)), stdout=sink, stderr=sink).returncode
    text = log.read_text(errors="replace")
    statistics = dict(re.findall(r"stat::(\w+):\s+(\d+)", text))
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)
    found = sorted(str(p.relative_to(HERE)) for p in set(findings.iterdir()) - earlier)
    return {
        "target": target, "seconds": round(time.time() - begin), "inputs": int(statistics.get("number_of_executed_units", 0)),
        "edges": int(covered[-1][0]) if covered else 0, "peak_mib": int(statistics.get("peak_rss_mb", 0)),
        "findings": found, "exit_code": code, "date": time.strftime("%Y-%m-%d"),
    }


def keep(target):
    """Writes the smallest files that cover what the whole corpus covers, as far as they are small."""
    binary, least = HERE / "target" / "debug" / target, WORK / target / "least"
    shutil.rmtree(least, ignore_errors=True)
    least.mkdir(parents=True)
    subprocess.run([binary, "-merge=1", least, WORK / target / "seeds", WORK / target / "corpus"], check=True,
                   stderr=subprocess.DEVNULL)
    kept = HERE / "corpus" / target
    kept.mkdir(parents=True, exist_ok=True)
    small = sorted((p for p in least.iterdir() if p.stat().st_size <= KEPT_FILE), key=lambda p: p.stat().st_size)
    for path in small[:KEPT_ALL]:
        shutil.copy(path, kept / path.name)
    print(f"{target}: {len(small[:KEPT_ALL])} files kept")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", action="store_true", help="only write the smallest corpus")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.keep:
        return [keep(target) for target in arguments.targets]
    outcomes = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    broken = False
    for target in arguments.targets:
        outcome = run(target, arguments.seconds)
        clean = outcome["exit_code"] == 0 and not outcome["findings"]
        broken |= not clean
        print(f"{target:9} {'clean ' if clean else 'FOUND '} {outcome['inputs']:>10} inputs in {outcome['seconds']} s, "
              f"{outcome['edges']} edges, peak {outcome['peak_mib']} MiB {' '.join(outcome['findings'])}", flush=True)
        outcomes = [o for o in outcomes if o["target"] != target] + [outcome]
        if arguments.json:
            arguments.json.write_text(json.dumps(outcomes, indent=1) + "\n")
    sys.exit(broken)


if __name__ == "__main__":
    main()

"""Runs schemathesis against the service: every operation of /openapi.json, at least 1,000 cases in total,
with every check, and no failure.

    python tests/clients/openapi.py                             # half a minute, 1,500 cases
    SKINCELL_EXAMPLES=1000 python tests/clients/openapi.py      # three minutes, 1,000 per operation with input

SKINCELL_EXAMPLES is the number of cases of an operation with parameters or a body; others have ten.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from service import serve

HERE = pathlib.Path(__file__).resolve().parent
FEWEST_CASES = 1000
EXAMPLES = os.environ.get("SKINCELL_EXAMPLES", "250")


def main():
    with serve() as address, tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.ndjson")
        command = [
            pathlib.Path(sys.executable).with_name("st"), "--config-file", HERE / "schemathesis.toml",
            "run", f"{address}/openapi.json", "--url", address, "--max-examples", EXAMPLES,
            # One thread, because Python 3.11 counts the depth of its parser for all threads together.
            "--seed", "1", "--workers", "1", "--report", "ndjson", "--report-ndjson-path", report,
        ]
        failed = subprocess.run(command, cwd=HERE, check=False).returncode
        events = [json.loads(line) for line in report.read_text().splitlines()]
    cases = count_cases(events)
    print(f"{sum(cases.values())} cases of {len(cases)} operations, exit code {failed}")
    for operation, count in sorted(cases.items()):
        print(f"  {count:5} {operation}")
    if sum(cases.values()) < FEWEST_CASES:
        raise SystemExit(f"fewer than {FEWEST_CASES} cases")
    return failed


def count_cases(events):
    """The number of requests sent, by operation."""
    cases = {}
    for event in events:
        finished = event.get("ScenarioFinished")
        if finished:
            recorder = finished["recorder"]
            count = len(recorder.get("cases", {}))
            cases[recorder["label"]] = cases.get(recorder["label"], 0) + count
    return cases


if __name__ == "__main__":
    sys.exit(main())

"""Checks /metrics under load with Prometheus' own checker: several clients post photos while figures are
scraped, and at the end the figures must equal what was sent.

    python tests/clients/metrics.py

Needs `promtool` (Debian package prometheus); without it the check is skipped with a message.
"""

import concurrent.futures
import re
import shutil
import subprocess
import sys
import time

import requests

from service import REPOSITORY, serve

PHOTO = (REPOSITORY / "tests/photos/drawn-eczema-1.jpg").read_bytes()
REQUESTS = 40
CLIENTS = 4


def post(address):
    answer = requests.post(f"{address}/predict", data=PHOTO, headers={"content-type": "image/jpeg"}, timeout=60)
    return answer.status_code


def scrape(address):
    answer = requests.get(f"{address}/metrics", timeout=10)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.headers
    return answer.text


def sum_of(text, name, *labels):
    """The sum of all samples of a metric with these labels."""
    found = re.findall(rf"(?m)^{name}(\{{[^}}]*\}})? (\S+)$", text)
    return sum(float(value) for written, value in found if all(label in written for label in labels))


def check(text):
    if not shutil.which("promtool"):
        print("skipped promtool: it is not here (Debian package prometheus)")
        return
    done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 0 and not said, f"promtool: {done.returncode}\n{said}"
    families = len(re.findall("(?m)^# TYPE ", text))
    print(f"promtool check metrics: clean, {families} families, {len(text.splitlines())} lines")


def main():
    with serve() as address:
        check(scrape(address))
        busiest = 0
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            posted = [pool.submit(post, address) for _ in range(REQUESTS)]
            while not all(one.done() for one in posted):
                text = scrape(address)
                busiest = max(busiest, sum_of(text, "skincell_requests_in_flight"))
                time.sleep(0.05)
        statuses = [one.result() for one in posted]
        text = scrape(address)
        check(text)
    assert statuses == [200] * REQUESTS, statuses
    counted = sum_of(text, "http_requests_total", 'method="POST"', 'status="200"')
    timed = sum_of(text, "http_request_duration_seconds_count", 'method="POST"')
    made, gone = (sum_of(text, f"skincell_instances_{word}_total") for word in ("created", "dropped"))
    print(f"{REQUESTS} photos by {CLIENTS} clients: {counted:.0f} counted, {timed:.0f} timed, {busiest:.0f} at work at "
          f"most, {made:.0f} instances made and {gone:.0f} gone")
    assert counted == timed == made == REQUESTS and busiest >= 1, text
    return 0


if __name__ == "__main__":
    sys.exit(main())

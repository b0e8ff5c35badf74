"""Tests whether the time of a refusal reveals anything about the token: 10,000 guesses each that share
nothing, half, or all but the last letter with a real token, and longer ones, alternating on one connection.

    python3 bench/access.py [--tries 10000]

Prints the median of each kind, and for each pair how often one took longer than the other, with the
probability of that under no difference. Exits with 1 if a pair differs at p < 0.001, or if a guess is
accepted. Needs `cargo build --release`.
"""

import argparse
import http.client
import itertools
import math
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TOKEN = "4f9c2ab07d1e8835b6c4d0917fe2a65c3b8d70e1f4a926c5"
WARM_UP = 200


def guesses():
    """One guess of each kind: a comparison that stops early or depends on the length would tell them apart."""
    wrong = "z" * len(TOKEN)
    half = len(TOKEN) // 2
    return {
        "shares nothing": wrong,
        "shares the first half": TOKEN[:half] + wrong[half:],
        "shares all but the last": TOKEN[:-1] + "z",
        "shares all but the first": "z" + TOKEN[1:],
    }


def start(folder):
    tokens = pathlib.Path(folder, "tokens")
    tokens.write_text(f"{TOKEN}\n")
    command = [REPOSITORY / "target/release/skincell", "up", "--quiet", "--listen", "127.0.0.1:0",
               "--from", REPOSITORY, "--tokens-file", tokens, "--cache-dir", f"{folder}/cache"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return child, re.search(r"http://(\S+)", child.stdout.readline())[1]


def measure(address, tries):
    """Seconds of each try, by kind; the order of kinds varies."""
    kinds = guesses()
    took = {kind: [] for kind in kinds}
    order = list(kinds)
    connection = http.client.HTTPConnection(address)
    for number in range(tries + WARM_UP):
        random.shuffle(order)
        for kind in order:
            headers = {"authorization": f"Bearer {kinds[kind]}", "content-length": "0"}
            begin = time.perf_counter()
            connection.request("POST", "/predict", headers=headers)
            answer = connection.getresponse()
            answer.read()
            end = time.perf_counter()
            if answer.status != 401:
                raise SystemExit(f"a guess that {kind} was answered {answer.status}")
            if number >= WARM_UP:
                took[kind].append(end - begin)
    return took


def slower(one, other):
    """The share of tries in which `one` took longer, and the probability of a share this far from a half under
    no difference (a sign test: the tries of a pair came one after the other).
    """
    more = sum(a > b for a, b in zip(one, other))
    less = sum(a < b for a, b in zip(one, other))
    deviation = abs(more - less) / math.sqrt(more + less)
    return more / (more + less), math.erfc(deviation / math.sqrt(2))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tries", type=int, default=10_000)
    tries = arguments.parse_args().tries
    random.seed(7)
    with tempfile.TemporaryDirectory(prefix="skincell-access-") as folder:
        child, address = start(folder)
        try:
            took = measure(address, tries)
        finally:
            child.kill()
            child.wait()
    print(f"{tries} refusals of each kind, {len(took) * tries} in all, every one 401")
    for kind, seconds in took.items():
        quarter, median, three = statistics.quantiles(seconds, n=4)
        print(f"  {kind:26} median {median * 1e6:7.1f} µs, middle half {quarter * 1e6:.1f} to {three * 1e6:.1f}")
    broken = False
    for one, other in itertools.combinations(took, 2):
        share, p = slower(took[one], took[other])
        telling = p < 0.001
        broken |= telling
        print(f"  {one} / {other}: the first was slower in {share:.1%}, p = {p:.3f}{'  TELLS' if telling else ''}")
    print("a difference is seen" if broken else "no difference is seen")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())

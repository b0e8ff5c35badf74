"""Processes of an engine that run their model once for each line and answer with milliseconds."""

import re
import subprocess
import time
from pathlib import Path


def status(pid, key):
    """A figure of /proc/PID/status in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text).group(1)) / 1024


class Serve:
    """A process that runs its model for each line, such as `cell serve`."""

    def __init__(self, command, stderr=subprocess.DEVNULL):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=stderr, text=True)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def cpu(self):
        """Processor time of its first thread in milliseconds, which is independent of other load."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e6

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Waiting(Serve):
    """One that says `ready` on standard error, as `cell serve --wait` does, and loads its model at the first line."""

    def __init__(self, command):
        super().__init__(command, stderr=subprocess.PIPE)
        while self.process.stderr.readline() not in ("ready\n", ""):
            pass
        self.empty = status(self.process.pid, "RssAnon")

    def private(self):
        """Private memory in MiB above that before the model was loaded."""
        return status(self.process.pid, "RssAnon") - self.empty

    def cpu(self):
        """The same of all its threads: other engines compute on threads of their own."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


def take_turns(serves, rounds, first=1, pause=0.0):
    """Milliseconds of each run by name, and the processor's, without those of the first rounds, which compile and
    load. Every process runs once per round, and waits `pause` seconds after it."""
    times, cpu = ({name: [] for name in serves} for _ in range(2))
    for _ in range(rounds + first):
        for name, serve in serves.items():
            before = serve.cpu()
            times[name].append(serve.run())
            cpu[name].append(serve.cpu() - before)
            time.sleep(pause)
    return [{name: all_of[first:] for name, all_of in each.items()} for each in (times, cpu)]

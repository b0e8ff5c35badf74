"""Creates, enters, reads and removes a memory control group for one process. Versions 1 and 2; needs root.

Only the standard library. If no group can be created, `available()` gives the reason, which the measuring
script prints instead of measuring something else.
"""

import os
import pathlib

V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")


def available():
    """None, or the reason why no memory group can be created."""
    if os.geteuid() != 0:
        return "only root makes control groups"
    if (V1 / "memory.limit_in_bytes").exists():
        return None
    controllers = V2 / "cgroup.subtree_control"
    if not controllers.exists():
        return "no control groups are mounted at /sys/fs/cgroup"
    if "memory" not in controllers.read_text().split():
        return "the memory controller is not delegated: write +memory to /sys/fs/cgroup/cgroup.subtree_control"
    return None


class Group:
    """A group with this limit in bytes, as a context manager."""

    def __init__(self, name, limit):
        self.v1 = (V1 / "memory.limit_in_bytes").exists()
        self.path = (V1 if self.v1 else V2) / f"skincell-{os.getpid()}-{name}"
        self.limit = limit

    def __enter__(self):
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(self.limit))
        return self

    def resize(self, limit):
        """Changes the limit."""
        (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(limit))

    def __exit__(self, *_):
        self.path.rmdir()

    def enter(self):
        """Called by the child between fork and exec."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def figures(self):
        """Peak in bytes, how often the limit was reached (reclaiming file pages), and processes killed."""
        read = lambda name: (self.path / name).read_text()
        if self.v1:
            events = dict(line.split() for line in read("memory.oom_control").splitlines())
            peak, met = read("memory.max_usage_in_bytes"), read("memory.failcnt")
        else:
            events = dict(line.split() for line in read("memory.events").splitlines())
            peak, met = read("memory.peak"), events["max"]
        return {"version": 1 if self.v1 else 2, "peak": int(peak), "limit_met": int(met),
                "killed": int(events.get("oom_kill", 0))}

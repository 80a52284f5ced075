"""What this process may use: CPUs and memory of its container, not of the host."""

import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT, affinity: int | None = None) -> int:
    """CPUs to compute on, at least 1: a quota of 1.5 CPUs gives 2.

    Quotas are those of cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`), on the process's own cgroup and its
    ancestors. `root` holds `proc` and `sys`.
    """
    schedulable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))  # Linux alone has it
    cpus = [affinity or len(schedulable(0))]
    for folder in _cgroup_folders(root, "cpu"):
        v1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        for quota in (_read(folder / "cpu.max"), v1):
            if match := re.fullmatch(r"(\d+) (\d+)", quota):  # not where it is "max" or -1
                cpus.append(math.ceil(int(match[1]) / int(match[2])))
    return max(1, min(cpus))


def usable_memory(root: Path = _ROOT, machine: int | None = None) -> int:
    """Bytes of memory that all processes of the container may use together.

    The least limit of cgroup v2 (`memory.max`, and `memory.high`, beyond which the kernel slows a process to a
    crawl) or v1 (`memory.limit_in_bytes`) on the process's own cgroup and its ancestors; without one, what the
    machine has.
    """
    total = machine if machine is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [_read(folder / name) for folder in _cgroup_folders(root, "memory") for name in files]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])


def resident_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that this process has now."""
    if pages := _read(root / "proc/self/statm"):
        return int(pages.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # no procfs: macOS

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Every cgroup folder that may have a say on `controller`; some do not exist.

    A container may see its own cgroup as the top of the tree, or at the path that it has on the host.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / (controller if controllers else "")  # of v1, or of v2
        yield folder
        for name in path.split("/"):
            folder /= name
            yield folder


def _read(path: Path) -> str:
    """The text of a file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

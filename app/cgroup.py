"""What this process may use: CPUs and memory of its container, not of the host."""

import math
import os
import sys
from pathlib import Path

_SELF = Path("/proc/self")


def usable_cpus(proc: Path = _SELF, affinity: int | None = None) -> int:
    """CPUs to compute on, at least 1: a quota of 1.5 CPUs gives 2.

    `proc` is the process's folder in procfs; its `cgroup` and `mountinfo` lead to the quota files of
    cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`). A quota set on any ancestor counts.
    """
    cpus = affinity if affinity is not None else _schedulable_cpus()
    quotas = [quota for folder in _cgroup_folders(proc, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def usable_memory(proc: Path = _SELF, machine: int | None = None) -> int:
    """Bytes of memory that all processes of the container may use together.

    The least limit of cgroup v2 (`memory.max`, and `memory.high`, beyond which the kernel slows a process to a
    crawl) or v1 (`memory.limit_in_bytes`) on the process's own cgroup and its ancestors; without one, what the
    machine has.
    """
    total = machine if machine is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [_number(folder / name) for folder in _cgroup_folders(proc, "memory") for name in files]
    return min([total, *(limit for limit in limits if limit is not None and limit > 0)])


def resident_memory(proc: Path = _SELF) -> int:
    """Bytes of memory that this process has now."""
    try:
        return int((proc / "statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # no procfs: macOS
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _schedulable_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _cgroup_folders(proc: Path, controller: str) -> list[Path]:
    """Every cgroup folder with a say on `controller`, from the process's own up to the mount point."""
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines()]
        mounts = [line.split(" - ", 1) for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    folders: list[Path] = []
    for fields, rest in ((mount[0].split(), mount[1].split()) for mount in mounts if len(mount) == 2):
        kind, options = rest[0], rest[-1].split(",")
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and controller not in options):
            continue
        root, point = fields[3], Path(fields[4])
        for hierarchy, controllers, path in (group for group in groups if len(group) == 3):
            if (hierarchy == "0") if kind == "cgroup2" else (controller in controllers.split(",")):
                inside = path.removeprefix(root.rstrip("/")).strip("/")
                parts = inside.split("/") if inside and ".." not in inside else []
                folders += [point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time per period in one cgroup folder; None where there is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        return None if limit < 0 else limit / int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, as in one that says `max`."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""How many CPUs this process may use: affinity mask and cgroup quota, not the host's core count."""

import math
import os
from pathlib import Path


def usable_cpus(proc: Path = Path("/proc/self"), affinity: int | None = None) -> int:
    """CPUs to compute on, at least 1: a quota of 1.5 CPUs gives 2.

    `proc` is the process's folder in procfs; its `cgroup` and `mountinfo` lead to the quota files of
    cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`). A quota set on any ancestor counts.
    """
    cpus = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quotas = [quota for folder in _cgroup_folders(proc) if (quota := _quota(folder)) is not None]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def _cgroup_folders(proc: Path) -> list[Path]:
    """Every cgroup folder with a say on CPU time, from the process's own up to the mount point."""
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" - ", 1) for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:
        return []
    folders: list[Path] = []
    for fields, rest in ((mount[0].split(), mount[1].split()) for mount in mounts if len(mount) == 2):
        kind, options = rest[0], rest[-1].split(",")
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and "cpu" not in options):
            continue
        root, point = fields[3], Path(fields[4])
        for hierarchy, controllers, path in (group for group in groups if len(group) == 3):
            if (hierarchy == "0") if kind == "cgroup2" else ("cpu" in controllers.split(",")):
                inside = path.removeprefix(root.rstrip("/")).strip("/")
                parts = inside.split("/") if inside and ".." not in inside else []
                folders += [point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def _quota(folder: Path) -> float | None:
    """CPUs' worth of time per period in one cgroup folder; None where there is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return None if limit < 0 else limit / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None

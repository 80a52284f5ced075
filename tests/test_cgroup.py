"""The CPU quota is read from files laid out as Linux lays them."""

from pathlib import Path

import pytest

from app.cgroup import resident_memory, usable_cpus, usable_memory


def lay(root: Path, version: int, group: str, quotas: dict[str, str], mount_root: str = "/") -> Path:
    """A procfs folder and a cgroup mount below `root`; `quotas` maps a group below the mount to its quota."""
    point, proc = root / "cgroup", root / "proc"
    proc.mkdir(parents=True)
    if version == 2:
        (proc / "cgroup").write_text(f"0::{group}\n")
        mount = f"30 25 0:26 {mount_root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    else:
        (proc / "cgroup").write_text(f"4:memory:/other\n3:cpu,cpuacct:{group}\n0::/\n")
        mount = f"33 25 0:29 {mount_root} {point} rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
    (proc / "mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}\n")
    for name, quota in quotas.items():
        folder = point / name
        folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (folder / "cpu.max").write_text(f"{quota} 100000\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")
    return proc


@pytest.mark.parametrize(
    "version, group, quotas, mount_root, cpus",
    [
        (2, "/", {".": "200000"}, "/", 2),
        (2, "/", {".": "max"}, "/", 64),
        (2, "/", {".": "150000"}, "/", 2),
        (2, "/", {".": "10000"}, "/", 1),
        (2, "/pod/box", {"pod": "300000", "pod/box": "max"}, "/", 3),
        (2, "/pod/box", {".": "400000"}, "/pod/box", 4),
        (1, "/docker/abc", {".": "200000"}, "/docker/abc", 2),
        (1, "/docker/abc", {"docker/abc": "-1"}, "/", 64),
        (1, "/docker/abc", {"docker/abc": "500000"}, "/", 5),
    ],
)
def test_quota(tmp_path: Path, version: int, group: str, quotas: dict[str, str], mount_root: str, cpus: int) -> None:
    assert usable_cpus(lay(tmp_path, version, group, quotas, mount_root), affinity=64) == cpus


def test_affinity_is_the_upper_bound(tmp_path: Path) -> None:
    assert usable_cpus(lay(tmp_path, 2, "/", {".": "800000"}), affinity=3) == 3


def test_without_cgroups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "nothing", affinity=5) == 5


def lay_memory(root: Path, version: int, limits: dict[str, str], group: str = "/pod/box") -> Path:
    """A procfs folder and a cgroup mount below `root`; `limits` maps a file below the mount to its content."""
    point, proc = root / "cgroup", root / "proc"
    proc.mkdir(parents=True)
    if version == 2:
        (proc / "cgroup").write_text(f"0::{group}\n")
        mount = f"30 25 0:26 / {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    else:
        (proc / "cgroup").write_text(f"4:memory:{group}\n3:cpu,cpuacct:/other\n0::/\n")
        mount = f"33 25 0:29 / {point} rw,nosuid - cgroup cgroup rw,memory"
    (proc / "mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}\n")
    for name, limit in limits.items():
        (point / name).parent.mkdir(parents=True, exist_ok=True)
        (point / name).write_text(f"{limit}\n")
    return proc


@pytest.mark.parametrize(
    "version, limits, memory",
    [
        (2, {"pod/box/memory.max": "1000"}, 1000),
        (2, {"pod/box/memory.max": "max"}, 5000),
        (2, {"pod/box/memory.max": "max", "pod/memory.max": "2000"}, 2000),
        (2, {"pod/box/memory.max": "1000", "pod/box/memory.high": "900"}, 900),
        (2, {"pod/box/memory.max": "9000"}, 5000),
        (1, {"pod/box/memory.limit_in_bytes": "1000"}, 1000),
        (1, {"pod/box/memory.limit_in_bytes": "9223372036854771712"}, 5000),
        (1, {"pod/box/memory.limit_in_bytes": "-1", "pod/memory.limit_in_bytes": "3000"}, 3000),
    ],
)
def test_memory(tmp_path: Path, version: int, limits: dict[str, str], memory: int) -> None:
    assert usable_memory(lay_memory(tmp_path, version, limits), machine=5000) == memory


def test_memory_of_this_process() -> None:
    assert 2**20 < resident_memory() <= usable_memory()
    assert 2**20 < resident_memory(Path("/nothing")) <= usable_memory()

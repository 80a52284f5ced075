"""The CPU quota is read from files laid out as Linux lays them."""

from pathlib import Path

import pytest

from app.cgroup import resident_memory, usable_cpus, usable_memory


def lay(root: Path, version: int, group: str, files: dict[str, str]) -> Path:
    """A root folder whose process is in `group`; `files` maps a file below the cgroups' mount to its content."""
    controller = next(iter(files)).split("/")[-1].split(".")[0]
    mount = "sys/fs/cgroup" if version == 2 else f"sys/fs/cgroup/{controller}"
    groups = f"0::{group}" if version == 2 else f"4:other:/other\n3:{controller},more:{group}\n0::/"
    below_root = {"proc/self/cgroup": groups, **{f"{mount}/{name}": content for name, content in files.items()}}
    for name, content in below_root.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def lay_quotas(root: Path, version: int, group: str, quotas: dict[str, str]) -> Path:
    files: dict[str, str] = {}
    for name, quota in quotas.items():
        if version == 2:
            files[f"{name}/cpu.max"] = f"{quota} 100000"
        else:
            files |= {f"{name}/cpu.cfs_quota_us": quota, f"{name}/cpu.cfs_period_us": "100000"}
    return lay(root, version, group, files)


@pytest.mark.parametrize(
    "version, group, quotas, cpus",
    [
        (2, "/", {".": "200000"}, 2),
        (2, "/", {".": "max"}, 64),
        (2, "/", {".": "150000"}, 2),
        (2, "/", {".": "10000"}, 1),
        (2, "/pod/box", {"pod": "300000", "pod/box": "max"}, 3),
        (2, "/pod/box", {".": "400000"}, 4),
        (1, "/docker/abc", {".": "200000"}, 2),
        (1, "/docker/abc", {"docker/abc": "-1"}, 64),
        (1, "/docker/abc", {"docker/abc": "500000"}, 5),
    ],
)
def test_quota(tmp_path: Path, version: int, group: str, quotas: dict[str, str], cpus: int) -> None:
    assert usable_cpus(lay_quotas(tmp_path, version, group, quotas), affinity=64) == cpus


def test_affinity_is_the_upper_bound(tmp_path: Path) -> None:
    assert usable_cpus(lay_quotas(tmp_path, 2, "/", {".": "800000"}), affinity=3) == 3


def test_without_cgroups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "nothing", affinity=5) == 5


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
    assert usable_memory(lay(tmp_path, version, "/pod/box", limits), machine=5000) == memory


def test_memory_of_this_process() -> None:
    assert 2**20 < resident_memory() <= usable_memory()
    assert 2**20 < resident_memory(Path("/nothing")) <= usable_memory()

"""How many items a batch holds is measured once for a machine, in bounded time."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.errors import OutOfMemory
from app.models.batches import open_tower
from app.settings import Settings
from app.towers import Inputs, Padding, Vectors


class Session:
    """An item takes `seconds`, a batch four times as much again; what is beyond `fits` does not fit into memory."""

    def __init__(self, seconds: float = 0.0, fits: int = 1000) -> None:
        self.sizes: list[int] = []
        self._seconds = seconds
        self._fits = fits

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        size = len(batch["x"])
        self.sizes.append(size)
        if size > self._fits:
            raise OutOfMemory("too large")
        time.sleep(self._seconds * (4 + size))
        return lambda: np.zeros((size, 4), np.float32)


def limit(session: Session, folder: Path | None = None, **settings: int) -> int:
    def prepare(_: object) -> Inputs:
        return {"x": np.zeros(3)}

    tower = open_tower("image", prepare, session, Padding(), Settings(**settings), folder)
    assert tower.width == 4
    return tower.limits.items


def test_a_batch_pays_where_each_run_costs() -> None:
    assert limit(Session(0.002)) >= 8


def test_a_tower_that_takes_a_second_is_not_measured() -> None:
    session = Session(0.25)
    assert limit(session) == 1 and session.sizes == [1]


def test_a_batch_beyond_memory_ends_the_search() -> None:
    assert limit(Session(0.002, fits=4)) <= 4


def test_what_was_measured_is_kept_for_the_machine(tmp_path: Path) -> None:
    first = [limit(Session(0.002), tmp_path) for _ in range(4)][-1]
    (name,) = json.loads((tmp_path / "batches.json").read_text())
    session = Session(0.002)
    assert limit(session, tmp_path) == first and session.sizes == [1]
    other = Session(0.002)
    assert limit(other, tmp_path, threads=7) and len(other.sizes) > 1
    assert len(json.loads((tmp_path / "batches.json").read_text())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["batches.json"]
    assert name.startswith("image, ") and name.endswith("threads")


def test_a_slow_first_start_does_not_decide_for_good(tmp_path: Path) -> None:
    assert limit(Session(0.04), tmp_path) < 8  # 0.2 s for one item
    assert limit(Session(0.002), tmp_path) >= 8


def test_a_folder_that_cannot_keep_it_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "batches.json").mkdir()
    assert limit(Session(0.002), tmp_path) >= 8
    assert limit(Session(0.002), tmp_path / "nowhere") >= 8


def test_a_slow_moment_does_not_decide(tmp_path: Path) -> None:
    class Stuttering(Session):
        """Every seventh run takes much longer."""

        def start(self, batch: Inputs) -> Callable[[], Vectors]:
            if len(self.sizes) % 7 == 0:
                time.sleep(0.02)
            return super().start(batch)

    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert limit(Stuttering(0.0005), tmp_path / "first") == limit(Session(0.0005), tmp_path / "second")


def test_the_setting_wins(tmp_path: Path) -> None:
    session = Session(0.002)
    assert limit(session, tmp_path, max_batch=3) == 3 and session.sizes == [1]

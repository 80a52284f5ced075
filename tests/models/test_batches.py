"""How many items a batch holds is measured at each start, in bounded time."""

from collections.abc import Callable

import numpy as np
import pytest

from app.errors import OutOfMemory
from app.models.batches import open_tower
from app.settings import Settings
from app.towers import Inputs, Padding, Vectors


class Clock:
    """Time that passes only while a session computes, so that no other process of the machine decides a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


time = Clock()


@pytest.fixture(autouse=True)
def measured_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.models.batches.time", time)


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


def limit(session: Session, **settings: int) -> int:
    def prepare(_: object) -> Inputs:
        return {"x": np.zeros(3)}

    tower = open_tower("image", prepare, session, Padding(), Settings(**settings))
    assert tower.width == 4
    return tower.limits.items


def test_a_batch_pays_where_each_run_costs() -> None:
    assert limit(Session(0.002)) >= 8


def test_a_tower_that_takes_a_second_is_not_measured() -> None:
    session = Session(0.25)
    assert limit(session) == 1 and session.sizes == [1]


def test_a_batch_beyond_memory_ends_the_search() -> None:
    assert limit(Session(0.002, fits=4)) <= 4


def test_a_slow_moment_does_not_decide() -> None:
    class Stuttering(Session):
        """Every seventh run takes much longer."""

        def start(self, batch: Inputs) -> Callable[[], Vectors]:
            if len(self.sizes) % 7 == 0:
                time.sleep(0.02)
            return super().start(batch)

    assert limit(Stuttering(0.0005)) == limit(Session(0.0005))


def test_the_setting_wins() -> None:
    session = Session(0.002)
    assert limit(session, max_batch=3) == 3 and session.sizes == [1]

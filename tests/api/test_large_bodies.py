"""The largest bodies cost nobody else: ready is on time, and memory bounded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.large_bodies import effect_of, make_body
from tests.support.server import process_of

# A hang guard: what is promised is 500 ms, on a machine that does nothing else. See benchmarks/large_bodies.py.
LATE_MS = 3000


@pytest.fixture(scope="module")
def server(serve: Callable[..., str]) -> tuple[int, int]:
    url = serve(Path("demo/models"), measured=True, THREADS="2")
    return int(url.rpartition(":")[2]), process_of(url).pid


@pytest.mark.parametrize(
    ("kind", "mib", "status"),
    [
        ("short texts", 36, 413),
        ("equal texts", 100, 200),
        ("other values", 20, 413),
        ("deep values", 20, 422),
        ("blanks", 100, 200),
        ("one string without end", 100, 422),
        ("no picture", 20, 422),
        ("one picture", 20, 200),
        ("one picture in lines", 20, 200),
        ("one text", 100, 200),
        ("one text of emoji", 20, 200),
        ("one text of escapes", 20, 200),
    ],
)
def test_a_large_body_makes_nobody_wait_and_memory_not_grow(
    server: tuple[int, int], kind: str, mib: int, status: int
) -> None:
    effect = effect_of(*server, make_body(kind, mib))
    assert effect.status == status
    assert effect.ready_failed == 0
    assert effect.ready_ms < LATE_MS
    assert effect.growth_mib < 300

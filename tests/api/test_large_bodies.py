"""The largest bodies cost nobody else: ready is on time, and memory bounded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import large_bodies
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
        (large_bodies.short_texts, 36, 413),
        (large_bodies.equal_texts, 100, 200),
        (large_bodies.other_values, 20, 422),
        (large_bodies.deep_values, 20, 422),
        (large_bodies.blanks, 100, 200),
        (large_bodies.one_string_without_end, 100, 422),
        (large_bodies.no_picture, 20, 422),
        (large_bodies.one_picture, 20, 200),
        (large_bodies.one_picture_in_lines, 20, 200),
        (large_bodies.one_text, 100, 200),
        (large_bodies.one_text_of_emoji, 20, 200),
        (large_bodies.one_text_of_escapes, 20, 200),
    ],
)
def test_a_large_body_makes_nobody_wait_and_memory_not_grow(
    server: tuple[int, int], kind: Callable[[int], bytes], mib: int, status: int
) -> None:
    effect = large_bodies.effect_of(*server, kind(mib * 2**20))
    assert effect.status == status
    assert effect.ready_failed == 0
    assert effect.ready_ms < LATE_MS
    assert effect.growth_mib < 300

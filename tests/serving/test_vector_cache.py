"""Vectors are kept to the bit, within a number of bytes."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.serving.vector_cache import VectorCache, digest


def row(number: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(width).astype(np.float32)


def test_a_row_comes_back_to_the_bit() -> None:
    cache = VectorCache(2**20)
    for n in range(100):
        cache.put(digest("texts", b"%d" % n), row(n))
    for n in range(100):
        kept = cache.get(digest("texts", b"%d" % n))
        assert kept is not None and kept.tobytes() == row(n).tobytes()
    assert cache.get(digest("images", b"1")) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans())), st.integers(0, 3000))
def test_it_stays_within_its_bytes_and_keeps_what_was_asked_for_last(
    steps: list[tuple[int, bool]], most_bytes: int
) -> None:
    cache, order = VectorCache(most_bytes), []
    for number, put in steps:
        key = digest("texts", b"%d" % number)
        known = number in order
        assert (cache.get(key) is not None) == known
        if known:
            order.remove(number)
            order.append(number)
        elif put:
            cache.put(key, row(number))
            order.append(number)
        assert cache.bytes <= most_bytes
        order = order[len(order) - len(cache._rows) :]


def test_a_row_takes_about_what_is_counted() -> None:
    cache = VectorCache(2**20)
    for n in range(5000):
        cache.put(digest("texts", b"%d" % n), row(n, 512))
    held = sys.getsizeof(cache._rows) + sum(
        sys.getsizeof(key) + sys.getsizeof(each) for key, each in cache._rows.items()
    )
    assert 0.9 * held < cache.bytes < 1.2 * held


def test_the_hash_tells_kinds_apart() -> None:
    assert digest("texts", b"a") != digest("images", b"a") != digest("images", b"b")
    assert len(digest("texts", b"")) == 32

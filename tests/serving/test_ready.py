"""What the device computes next of what several front processes have prepared."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.serving.computing import Ready
from app.serving.item import Item, Stage
from app.towers import BatchLimits


def item(source: int, tag: float, length: int) -> Item:
    made = Item("texts", b"", b"", 0.0, tag, Stage.TAKEN, source=source)
    made.inputs = {"input_ids": np.zeros(length, np.int64)}
    return made


@given(
    starts=st.lists(st.floats(0, 10**6), min_size=2, max_size=5),
    limit=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=7),
)
def test_no_source_waits_for_more_than_one_batch_of_each_other(
    starts: list[float], limit: int, lengths: list[int]
) -> None:
    """However far the tags of one are from those of another, and however long its texts are."""
    ready = Ready({"texts": BatchLimits(limit, limit * 50)})
    for number in range(20):
        ready.add(item(source, tag + number, lengths[number % len(lengths)]) for source, tag in enumerate(starts))
    left = dict.fromkeys(range(len(starts)), 20)
    since = dict.fromkeys(left, 0)
    while batch := ready.next_batch():
        for each in batch:
            left[each.source] -= 1
        served = {each.source for each in batch}
        since = {source: 0 if source in served else since[source] + 1 for source, items in left.items() if items}
        assert max(since.values(), default=0) < len(starts)


@given(limit=st.integers(1, 4))
def test_a_source_has_its_own_order(limit: int) -> None:
    ready = Ready({"texts": BatchLimits(limit, limit * 50)})
    for tag in (3.0, 1.0, 2.0):
        ready.add(item(source, tag, 5) for source in (0, 1))
    got: dict[int, list[float]] = {0: [], 1: []}
    while batch := ready.next_batch():
        for each in batch:
            got[each.source].append(each.tag)
    assert got == {0: [1.0, 2.0, 3.0], 1: [1.0, 2.0, 3.0]}

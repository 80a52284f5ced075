"""How long batches get: longer where nobody waits for anything else, and half of what takes part."""

import numpy as np
from app.serving.queue import Batch, Queue, Wanted

from app.serving.item import Request
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits


class Pictures:
    """A queue in which a batch of pictures holds 1, and 8 where nobody asks for texts."""

    def __init__(self) -> None:
        self.queue = Queue(VectorCache(0))
        self.queue.add_lane("texts", BatchLimits(4, 40, alone=4))
        self.queue.add_lane("images", BatchLimits(1, 1, alone=8))
        self._number = 0

    def add(self, kind: str, count: int, now: float) -> Request:
        request = Request({kind: np.empty((count, 2), np.float32)}, now)
        wanted = []
        for position in range(count):
            self._number += 1
            key = str(self._number).encode()
            wanted.append(Wanted(kind, key, key, [position]))
        self.queue.add(request, wanted, now)
        return request

    def prepare(self, now: float) -> int:
        count = 0
        while (item := self.queue.take(now)) is not None:
            self.queue.prepared(item, {}, now)
            count += 1
        return count

    def compute(self, now: float) -> int:
        batch = self.launch(now)
        self.end(batch, now)
        return len(batch.items)

    def launch(self, now: float) -> Batch:
        batch = self.queue.next_batch(now)
        assert batch is not None
        return batch

    def end(self, batch: Batch, now: float) -> None:
        self.queue.computed(batch, np.zeros((len(batch.items), 2), np.float32), now)


def test_an_import_alone_is_computed_in_long_batches() -> None:
    pictures = Pictures()
    pictures.add("images", 18, 0.0)
    assert pictures.prepare(0.0) == 16  # one batch ahead
    assert pictures.compute(1.0) == 8
    assert pictures.prepare(1.0) == 2
    assert pictures.compute(2.0) == 8
    assert pictures.compute(3.0) == 2  # nothing is waited for


def test_beside_queries_batches_are_short() -> None:
    pictures = Pictures()
    pictures.add("images", 100, 0.0)
    pictures.add("texts", 1, 0.0)
    pictures.prepare(0.0)
    assert [pictures.compute(1.0), pictures.compute(1.0)] == [1, 1]
    pictures.prepare(1.0)
    assert pictures.compute(30.0) == 1, "who asked half a minute ago may ask again"


def test_long_batches_begin_again_when_nobody_has_asked_for_a_while() -> None:
    pictures = Pictures()
    pictures.add("texts", 1, 0.0)
    pictures.prepare(0.0)
    pictures.compute(0.0)
    pictures.add("images", 20, 50.0)
    pictures.prepare(50.0)
    assert pictures.compute(50.0) == 1
    pictures.add("images", 20, 61.0)
    pictures.prepare(61.0)
    assert pictures.compute(61.0) == 8
    query = pictures.add("texts", 1, 62.0)
    pictures.prepare(62.0)
    while not query.over:
        pictures.compute(62.0)
    assert pictures.compute(62.0) == 1


def test_clients_that_ask_again_are_computed_in_two_halves() -> None:
    """While one half is computed the answers of the other go out and its next items come in."""
    queue = Pictures()
    queue.queue.add_lane("texts", BatchLimits(32, 320))
    queue.add("texts", 1, 0.0)
    queue.prepare(0.0)
    batch, asking, sizes = queue.launch(0.0), 15, []
    for turn in range(8):
        for _ in range(asking):
            queue.add("texts", 1, float(turn))
        queue.prepare(float(turn))
        asking = len(batch.items)
        queue.end(batch, float(turn))
        batch = queue.launch(float(turn))
        sizes.append(len(batch.items))
    assert sizes == [8] * 8


def test_one_client_with_many_items_gets_full_batches() -> None:
    queue = Pictures()
    queue.add("texts", 11, 0.0)
    queue.prepare(0.0)
    assert [queue.compute(0.0) for _ in range(3)] == [4, 4, 3]

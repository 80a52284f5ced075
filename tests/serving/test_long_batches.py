"""How long batches get: half of what takes part."""

import numpy as np
from app.serving.queue import Batch, Queue, Wanted

from app.serving.item import Request
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits


class Texts:
    """A queue in which a batch holds so many texts."""

    def __init__(self, items: int) -> None:
        self.queue = Queue(VectorCache(0))
        self.queue.add_lane("texts", BatchLimits(items, 10 * items))
        self._number = 0

    def add(self, count: int, now: float) -> Request:
        request = Request({"texts": np.empty((count, 2), np.float32)}, now)
        wanted = []
        for position in range(count):
            self._number += 1
            key = str(self._number).encode()
            wanted.append(Wanted("texts", key, key, [position]))
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


def test_clients_that_ask_again_are_computed_in_two_halves() -> None:
    """While one half is computed the answers of the other go out and its next items come in."""
    queue = Texts(32)
    queue.add(1, 0.0)
    queue.prepare(0.0)
    batch, asking, sizes = queue.launch(0.0), 15, []
    for turn in range(8):
        for _ in range(asking):
            queue.add(1, float(turn))
        queue.prepare(float(turn))
        asking = len(batch.items)
        queue.end(batch, float(turn))
        batch = queue.launch(float(turn))
        sizes.append(len(batch.items))
    assert sizes == [8] * 8


def test_one_client_with_many_items_gets_full_batches() -> None:
    queue = Texts(4)
    queue.add(11, 0.0)
    queue.prepare(0.0)
    assert [queue.compute(0.0) for _ in range(3)] == [4, 4, 3]

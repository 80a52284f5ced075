"""The threads around the queue: one lock, never held while an item is prepared or computed.

The device takes what is ready as soon as it is free: no timer, no minimum.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app.errors import EngineBroken, InvalidRequest, OutOfMemory, Overloaded, ServiceError, Unavailable
from app.processors.padding import collate
from app.serving.lane import BatchLimits, Request
from app.serving.metrics import Metrics
from app.serving.queue import Batch, Item, Queue, Wanted
from app.serving.vector_cache import VectorCache, digest
from app.towers import Inputs, Tower, Vectors

_log = logging.getLogger(__name__)

# Above this many characters the hashes of a request are made off the event loop.
_MUCH = 500_000


@dataclass(frozen=True)
class Kind:
    """How items of a kind ("texts", "images") are prepared, computed and batched."""

    tower: Tower
    prepare: Callable[[str], Inputs]
    limits: BatchLimits


class Batcher:
    """Owns the threads through which every item passes, and all that waits for them.

    `on_broken` is called once, from any thread, when the device cannot go on.
    """

    def __init__(
        self,
        kinds: dict[str, Kind],
        *,
        width: int,
        max_waiting: int,
        preparing_threads: int,
        device_threads: int,
        cache: VectorCache,
        metrics: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        self._kinds = kinds
        self._width = width
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._on_broken = on_broken
        self._queue = Queue({name: kind.limits for name, kind in kinds.items()}, cache)
        self._futures: dict[Request, asyncio.Future[None]] = {}
        self._lock = threading.Lock()
        self._preparable = threading.Condition(self._lock)
        self._launchable = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._work, args=(step,), name=f"{name}-{i}", daemon=True)
            for name, step, count in (
                ("prepare", self._prepare, preparing_threads),
                ("device", self._compute, device_threads),
            )
            for i in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what still waits fails with Unavailable."""
        with self._changing() as queue:
            queue.stop(Unavailable("the server is shutting down"))

    def give_up(self, message: str) -> None:
        """The device cannot go on: fail all that waits and call `on_broken`, once."""
        with self._changing() as queue:
            first = queue.stopped is None
            queue.stop(EngineBroken(message))
        if first:
            self._on_broken(message)

    def watch(self, limit: float) -> None:
        """Give up if the device hangs, or nothing is done for those who wait, for `limit` seconds."""
        now = time.monotonic()
        with self._lock:
            running, stalled = self._queue.running_for(now), self._queue.stalled_for(now)
        if running > limit:
            self.give_up(f"one batch or picture has been worked at for more than {limit:g} s; the device hangs")
        elif stalled > limit:
            self.give_up(f"requests have waited for {limit:g} s and nothing was done for them")

    # requests, on the event loop --------------------------------------------------------------

    async def vectorize(self, texts: list[str], images: list[str]) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Raises InvalidRequest that names the first item at fault, Overloaded at once when too much
        waits. A cancelled call drops what was not yet computed.
        """
        items = {"texts": texts, "images": images}
        self._check_room(len(texts) + len(images))
        arrived = time.monotonic()
        if sum(map(len, texts)) + sum(map(len, images)) > _MUCH:
            wanted = await asyncio.to_thread(_wanted, items)
        else:
            wanted = _wanted(items)
        rows = {kind: np.empty((len(contents), self._width), np.float32) for kind, contents in items.items()}
        request = Request(rows, arrived)
        future = asyncio.get_running_loop().create_future()
        with self._changing() as queue:
            known, joined = queue.add(request, wanted)
            if not request.over:
                self._futures[request] = future
        self._metrics.cache_hits.inc(known)
        self._metrics.joined.inc(joined)
        try:
            if not request.over:
                await future
        finally:
            self._leave(request)
        return rows["texts"], rows["images"]

    def _check_room(self, count: int) -> None:
        if count > self._max_waiting:
            raise InvalidRequest(f"the request has {count} items, more than the {self._max_waiting} allowed; split it")
        if self._queue.waiting + count > self._max_waiting:
            self._metrics.refused.inc()
            raise Overloaded(f"{self._queue.waiting} items wait already; try again in a moment")

    def _leave(self, request: Request) -> None:
        if request.over:
            return
        now = time.monotonic()
        with self._changing() as queue:
            self._futures.pop(request, None)
            dropped = Counter(item.kind for item in request.items)
            queue.leave(request, now)
        self._metrics.left_seconds.observe(now - request.arrived)
        for kind, count in dropped.items():
            self._metrics.dropped.labels(kind).inc(count)

    @contextmanager
    def _changing(self) -> Iterator[Queue]:
        """The queue under the lock; afterwards whoever may now go on is woken."""
        with self._lock:
            yield self._queue
            settled = [
                (future, request.error)
                for request in self._queue.take_settled()
                if (future := self._futures.pop(request, None)) is not None
            ]
            self._metrics.waiting.set(self._queue.waiting)
            if self._queue.stopped is not None:
                self._preparable.notify_all()
                self._launchable.notify_all()
            if count := self._queue.preparable:
                self._preparable.notify(count)
            if self._queue.launchable:
                self._launchable.notify()
        if settled:
            _settle(settled)

    # threads ----------------------------------------------------------------------------------

    def _work(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except BaseException as error:  # no thread may end unseen: requests would wait for it for ever
            _log.critical("a worker thread failed", exc_info=error)
            self.give_up(f"a worker thread failed ({type(error).__name__}); the server's log says why")

    def _prepare(self) -> bool:
        with self._lock:
            while (item := self._queue.take(time.monotonic())) is None:
                if self._queue.stopped is not None:
                    return False
                self._preparable.wait()
        try:
            inputs = self._kinds[item.kind].prepare(item.content)
        except BaseException as cause:  # a native library's panic is no Exception
            error = _told(cause, f"cannot prepare an item of {item.kind}", "could not be prepared")
            with self._changing() as queue:
                queue.not_prepared(item, error, time.monotonic())
            return True
        with self._changing() as queue:
            queue.prepared(item, inputs, time.monotonic())
        return True

    def _compute(self) -> bool:
        """One batch. Several threads may do this: one waits for the device while another gives it the next."""
        with self._lock:
            while (batch := self._queue.next_batch(time.monotonic())) is None:
                if self._queue.stopped is not None:
                    return False
                self._launchable.wait()
        tower = self._kinds[batch.kind].tower
        try:
            finish = tower.session.start(collate([item.inputs for item in batch.items], tower.padding))
            with self._changing() as queue:
                queue.launched(batch)
            vectors = finish()
            if vectors.shape != (len(batch.items), self._width):
                raise ValueError(f"the engine gave shape {vectors.shape} for {len(batch.items)} items")
        except BaseException as cause:
            self._recover(batch, cause)
            return True
        now = time.monotonic()
        self._count(batch, now)
        with self._changing() as queue:
            queue.computed(batch, vectors, now)
        return True

    def _recover(self, batch: Batch, cause: BaseException) -> None:
        if isinstance(cause, EngineBroken):
            self.give_up(str(cause))
        error: ServiceError = OutOfMemory("does not fit into memory") if isinstance(cause, MemoryError) else ...
        with self._changing() as queue:
            queue.not_computed(batch, error, time.monotonic())

    def _count(self, batch: Batch, now: float) -> None:
        ...


def _wanted(items: dict[str, list[str]]) -> list[Wanted]:
    """The different items of a request: each is computed once."""
    wanted: dict[bytes, Wanted] = {}
    for kind, contents in items.items():
        for position, content in enumerate(contents):
            key = digest(kind, content)
            if key in wanted:
                wanted[key].positions.append(position)
            else:
                wanted[key] = Wanted(kind, key, content, [position])
    return list(wanted.values())

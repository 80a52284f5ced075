"""The threads around the queue: one lock, never held while an item is prepared or computed.

The device takes what is ready as soon as it is free: no timer, no minimum.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from app.errors import EngineBroken, OutOfMemory, ServiceError, Unavailable, describe_unforeseen
from app.processors.padding import collate
from app.serving.lane import Request
from app.serving.metrics import Metrics
from app.serving.queue import Batch, Queue, Wanted
from app.serving.timeline import Timeline
from app.serving.vector_cache import VectorCache, digest
from app.towers import CutInputs, Inputs, Tower, Vectors

_log = logging.getLogger(__name__)

# Above this many bytes, or items, the hashes of a request are made off the event loop.
_MANY_BYTES = 500_000
_MANY_ITEMS = 500


@dataclass(frozen=True)
class _Kind:
    tower: Tower
    prepare: Callable[[bytes], Inputs]


class Batcher:
    """Owns the threads through which every item passes, and all that waits for them.

    `on_broken` is called once, from any thread, when the device cannot go on.
    """

    def __init__(
        self,
        *,
        width: int,
        preparing_threads: int,
        device_threads: int,
        cache: VectorCache,
        metrics: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        self._width = width
        self._metrics = metrics
        self._on_broken = on_broken
        self._kinds: dict[str, _Kind] = {}
        self._queue = Queue(cache)
        self._futures: dict[Request, asyncio.Future[None]] = {}
        self._lock = threading.Lock()
        self._preparable = threading.Condition(self._lock)
        self._launchable = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._work, args=(step,), name=f"{name}-{i}", daemon=True)
            for name, step, count in (
                ("prepare", self._prepare_item, preparing_threads),
                ("device", self._compute_batch, device_threads),
            )
            for i in range(count)
        ]

    def add_queue(
        self, kind: str, tower: Tower, prepare: Callable[[bytes], Inputs], most_preparing: int | None = None
    ) -> None:
        """Take items of a kind ("texts", "images"); call before start().

        At most `most_preparing` threads prepare items of this kind at once.
        """
        self._kinds[kind] = _Kind(tower, prepare)
        self._queue.add_lane(kind, tower.limits, most_preparing)

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
        """Give up if one batch or preparation goes on, or requests wait and nothing goes on, for `limit` seconds."""
        now = time.monotonic()
        with self._lock:
            running, stalled = self._queue.running_for(now), self._queue.stalled_for(now)
        if running > limit:
            self.give_up(f"a batch or an item has been worked at for more than {limit:g} s; the device hangs")
        elif stalled > limit:
            self.give_up(f"requests have waited for more than {limit:g} s and nothing was done for them")

    # requests, on the event loop --------------------------------------------------------------

    async def vectorize(
        self,
        texts: list[bytes],
        images: list[bytes],
        arrived: float | None = None,
        timeline: Timeline | None = None,
    ) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Items are UTF-8: decoded they may take four times as much, so that waits until their turn. The caller has
        waited since `arrived`, by time.monotonic(); since now if None. `timeline` takes what becomes of the request.
        Raises InvalidRequest that names the first item at fault, or Unavailable. A cancelled call drops what
        was not yet computed.
        """
        arrived = time.monotonic() if arrived is None else arrived
        contents = {"texts": texts, "images": images}
        if len(texts) + len(images) > _MANY_ITEMS or sum(map(len, texts + images)) > _MANY_BYTES:
            wanted = await asyncio.to_thread(_wanted, contents)
        else:
            wanted = _wanted(contents)
        rows = {kind: np.empty((len(items), self._width), np.float32) for kind, items in contents.items()}
        request = Request(rows, arrived, timeline=timeline)
        future = asyncio.get_running_loop().create_future()
        with self._changing() as queue:
            now = time.monotonic()
            cached, joined = queue.add(request, wanted, now)
            if not request.over:
                self._futures[request] = future
        if timeline is not None:
            timeline.added, timeline.cached = now, cached.total()
            timeline.wanted = {kind: len(items) for kind, items in contents.items() if items}
        for counter, kinds in ((self._metrics.cached, cached), (self._metrics.joined, joined)):
            for kind, count in kinds.items():
                counter.labels(kind).inc(count)
        try:
            if not request.over:
                await future
        finally:
            self._leave(request)
        if request.error is not None:
            raise request.error
        return rows["texts"], rows["images"]

    def _leave(self, request: Request) -> None:
        if request.over:
            return
        now = time.monotonic()
        with self._changing() as queue:
            if request.over:
                return
            del self._futures[request]
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
            settled = [future for each in self._queue.take_settled() if (future := self._futures.pop(each, None))]
            self._metrics.waiting.set(self._queue.waiting)
            self._wake_workers()
        if settled:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                settled[0].get_loop().call_soon_threadsafe(_wake, settled)

    def _wake_workers(self) -> None:
        """Holds the lock. Called after each change, so that nobody sleeps beside work."""
        if self._queue.stopped is not None:
            self._preparable.notify_all()
            self._launchable.notify_all()
        if count := self._queue.preparable:
            self._preparable.notify(count)
        if self._queue.launchable:
            self._launchable.notify()

    # threads ----------------------------------------------------------------------------------

    def _work(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except BaseException as error:  # a thread that ended unseen would leave requests waiting for ever
            _log.critical("a worker thread failed: %s", describe_unforeseen(error))
            self.give_up(f"a worker thread failed ({type(error).__name__}); the server's log says why")

    def _prepare_item(self) -> bool:
        with self._lock:
            while (item := self._queue.take(time.monotonic())) is None:
                if self._queue.stopped is not None:
                    return False
                self._preparable.wait()
            self._wake_workers()
        try:
            inputs = self._kinds[item.kind].prepare(item.content)
        except BaseException as cause:  # the panic of a native library is no Exception
            error = _told(cause, f"cannot prepare an item of {item.kind}", "could not be prepared")
            self._metrics.failed.labels(item.kind, error.cause).inc()
            with self._changing() as queue:
                queue.not_prepared(item, error, time.monotonic())
            return True
        now = time.monotonic()
        with self._changing() as queue:
            queue.prepared(item, inputs, now)
        if isinstance(inputs, CutInputs):
            self._metrics.texts_cut.inc()
        self._metrics.preparing_seconds.labels(item.kind).observe(now - item.taken)
        return True

    def _compute_batch(self) -> bool:
        """Several threads may do this: one waits for the device's results while another gives it the next batch."""
        with self._lock:
            while (batch := self._queue.next_batch(time.monotonic())) is None:
                if self._queue.stopped is not None:
                    return False
                self._launchable.wait()
            self._wake_workers()
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
        with self._changing() as queue:
            bad = queue.computed(batch, vectors, now)
        self._count(batch, bad, now)
        return True

    def _recover(self, batch: Batch, cause: BaseException) -> None:
        """A batch of several is tried again in halves, a single item fails its requests."""
        if isinstance(cause, EngineBroken):
            self.give_up(str(cause))
        many = len(batch.items) > 1
        if many:
            _log.warning(
                "a batch of %d %s failed (%s); trying its halves", len(batch.items), batch.kind, type(cause).__name__
            )
            error = ServiceError("the batch failed")
        else:
            error = _told(cause, f"cannot compute an item of {batch.kind}", "could not be computed")
            self._metrics.failed.labels(batch.kind, error.cause).inc()
        with self._changing() as queue:
            queue.not_computed(batch, error, time.monotonic())

    def _count(self, batch: Batch, bad: int, now: float) -> None:
        metrics, kind, size = self._metrics, batch.kind, len(batch.items)
        metrics.batch_items.labels(kind).observe(size)
        metrics.computing_seconds.labels(kind).observe(now - batch.started)
        metrics.items.labels(kind).inc(size - bad)
        if bad:
            metrics.failed.labels(kind, "not_finite").inc(bad)
        waiting = metrics.waiting_seconds.labels(kind)
        for item in batch.items:
            waiting.observe(item.taken - item.added + batch.started - item.prepared)


def _wanted(contents: dict[str, list[bytes]]) -> list[Wanted]:
    """The different items of a request: each is computed once."""
    wanted: dict[bytes, Wanted] = {}
    for kind, items in contents.items():
        for position, content in enumerate(items):
            key = digest(kind, content)
            if key in wanted:
                wanted[key].positions.append(position)
            else:
                wanted[key] = Wanted(kind, key, content, [position])
    return list(wanted.values())


def _told(cause: BaseException, logged: str, told: str) -> ServiceError:
    """What a caller may read of an error; whatever a library raised is logged, and stays inside."""
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, MemoryError):
        return OutOfMemory("does not fit into memory now; send it smaller, or try again")
    _log.error("%s: %s", logged, describe_unforeseen(cause))
    return ServiceError(f"{told}; the server's log says why")


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)

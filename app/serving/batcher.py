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
from app.serving.item import Item, Request
from app.serving.metrics import Metrics
from app.serving.queue import Batch, Queue, Wanted
from app.serving.timeline import Timeline
from app.serving.vector_cache import VectorCache, digest
from app.towers import CutInputs, Inputs, Tower, Vectors

_log = logging.getLogger(__name__)

# Above this many bytes, or items, the hashes of a request are made off the event loop.
_MANY_BYTES = 500_000
_MANY_ITEMS = 500
# Items that are prepared together have not many more bytes.
_TOGETHER_BYTES = 2048


@dataclass(frozen=True)
class _Kind:
    tower: Tower
    prepare: Callable[[bytes], Inputs]
    prepare_many: Callable[[list[bytes]], list[Inputs]] | None


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
        self._woken: set[threading.Condition] = set()
        self._threads = [
            threading.Thread(target=self._work, args=(step,), name=f"{name}-{i}", daemon=True)
            for name, step, count in (
                ("prepare", self._prepare_items, preparing_threads),
                ("device", self._compute_batch, device_threads),
            )
            for i in range(count)
        ]

    def add_queue(
        self,
        kind: str,
        tower: Tower,
        prepare: Callable[[bytes], Inputs],
        prepare_many: Callable[[list[bytes]], list[Inputs]] | None = None,
        most_preparing: int | None = None,
    ) -> None:
        """Take items of a kind ("texts", "images"); call before start().

        `prepare_many` is for items that take less time to be prepared than a thread to be woken. At most
        `most_preparing` threads prepare items of this kind at once.
        """
        self._kinds[kind] = _Kind(tower, prepare, prepare_many)
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
        if self._queue.preparable:
            self._wake_one(self._preparable)
        if self._queue.launchable:
            self._wake_one(self._launchable)

    def _wake_one(self, workers: threading.Condition) -> None:
        """Holds the lock. One worker at a time, who wakes the next if there is more to do: texts that arrive at once
        would else wake all, who then wait for each other."""
        if workers not in self._woken:
            self._woken.add(workers)
            workers.notify()

    # threads ----------------------------------------------------------------------------------

    def _work(self, step: Callable[[], bool]) -> None:
        try:
            while step():
                pass
        except BaseException as error:  # a thread that ended unseen would leave requests waiting for ever
            _log.critical("a worker thread failed: %s", describe_unforeseen(error))
            self.give_up(f"a worker thread failed ({type(error).__name__}); the server's log says why")

    def _prepare_items(self) -> bool:
        with self._lock:
            while not (items := self._take()):
                self._woken.discard(self._preparable)
                if self._queue.stopped is not None:
                    return False
                self._preparable.wait()
            self._woken.discard(self._preparable)
            self._wake_workers()
        outcomes = self._prepare(items)
        now = time.monotonic()
        with self._changing() as queue:
            for item, outcome in zip(items, outcomes, strict=True):
                if isinstance(outcome, ServiceError):
                    queue.not_prepared(item, outcome, now)
                else:
                    queue.prepared(item, outcome, now)
        self._count_prepared(items[0].kind, outcomes, (now - items[0].taken) / len(items))
        return True

    def _prepare(self, items: list[Item]) -> list[Inputs | ServiceError]:
        kind = self._kinds[items[0].kind]
        if kind.prepare_many is not None and len(items) > 1:
            with suppress(BaseException):  # a library's panic, too; below it is found which of them is at fault
                return [*kind.prepare_many([item.content for item in items])]
        outcomes: list[Inputs | ServiceError] = []
        for item in items:
            try:
                outcomes.append(kind.prepare(item.content))
            except BaseException as cause:  # the panic of a native library is no Exception
                outcomes.append(_told(cause, f"cannot prepare an item of {item.kind}", "could not be prepared"))
        return outcomes

    def _take(self) -> list[Item]:
        """Holds the lock. What one thread prepares next."""
        items: list[Item] = []
        size = 0
        while (item := self._queue.take(time.monotonic(), items[0].kind if items else None)) is not None:
            items.append(item)
            size += len(item.content)
            if self._kinds[item.kind].prepare_many is None or size > _TOGETHER_BYTES:
                break
        return items

    def _compute_batch(self) -> bool:
        """Several threads may do this: one waits for the device's results while another gives it the next batch."""
        with self._lock:
            while (batch := self._queue.next_batch(time.monotonic())) is None:
                self._woken.discard(self._launchable)
                if self._queue.stopped is not None:
                    return False
                self._launchable.wait()
            self._woken.discard(self._launchable)
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

    def _count_prepared(self, kind: str, outcomes: list[Inputs | ServiceError], seconds: float) -> None:
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self._metrics.failed.labels(kind, outcome.cause).inc()
                continue
            self._metrics.preparing_seconds.labels(kind).observe(seconds)
            if isinstance(outcome, CutInputs):
                self._metrics.texts_cut.inc()

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

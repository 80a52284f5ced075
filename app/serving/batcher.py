"""Many requests to full batches, and each request its own rows back: the threads around the queues.

The way of an item: raw -> (preparing thread) -> ready -> (device thread) -> a row of its request.
The device takes what is ready as soon as it is free: no timer, no minimum. Images and texts take
turns. One lock guards the whole state; it is never held while an item is prepared or computed.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from app.errors import EngineBroken, InvalidRequest, OutOfMemory, Overloaded, ServiceError, Unavailable
from app.processors.padding import collate
from app.serving.metrics import Metrics
from app.serving.queue import ItemQueue, QueuedItem, QueuedRequest
from app.towers import Inputs, Tower, Vectors

_log = logging.getLogger(__name__)


class Batcher:
    """Owns the threads through which every item passes, and all that waits for them.

    `on_broken` is called once, from a worker thread, when the device cannot go on.
    """

    def __init__(
        self,
        *,
        width: int,
        max_waiting: int,
        preparing_threads: int,
        device_threads: int,
        metrics: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        self._width = width
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._on_broken = on_broken
        self._lock = threading.Lock()
        self._raw_or_stop = threading.Condition(self._lock)
        self._ready_or_stop = threading.Condition(self._lock)
        self._device_turn = threading.Lock()
        self._queues: dict[str, ItemQueue] = {}
        self._turn = itertools.count()
        self._waiting = 0
        self._stopped = False
        self._broken: str | None = None
        self._running_since: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{i}", daemon=True)
            for name, target, count in (
                ("prepare", self._prepare_items, preparing_threads),
                ("device", self._compute_batches, device_threads),
            )
            for i in range(count)
        ]

    def add_queue(self, kind: str, tower: Tower, prepare: Callable[[bytes], Inputs]) -> None:
        """Take items of a kind ("texts", "images"); call before start()."""
        self._queues[kind] = ItemQueue(kind, tower, prepare, tower.limits, max_ready=4 * tower.limits.items)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what still waits fails with Unavailable."""
        with self._lock:
            self._stopped = True
            self._fail_all(Unavailable("the server is shutting down"))
            self._raw_or_stop.notify_all()
            self._ready_or_stop.notify_all()

    def longest_running(self) -> float:
        """Seconds for which the oldest batch on the device has been computing; 0 when idle."""
        with self._lock:
            oldest = min(self._running_since.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def vectorize(self, texts: list[bytes], images: list[bytes]) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Items are UTF-8: decoded they may take four times as much, so that waits until their turn.
        Raises InvalidRequest that names the first item at fault, Overloaded at once when too much
        waits. A cancelled call drops what was not yet computed.
        """
        items = {"texts": texts, "images": images}
        requests = {kind: self._make_request(raw) for kind, raw in items.items()}
        self._accept(requests)
        try:
            await asyncio.gather(*(each.future for each in requests.values()))
        finally:
            with self._lock:
                for kind, each in requests.items():
                    self._end(self._queues[kind], each)
        return requests["texts"].rows, requests["images"].rows

    def _make_request(self, raw: list[bytes]) -> QueuedRequest:
        positions: dict[bytes, list[int]] = {}
        for position, item in enumerate(raw):
            positions.setdefault(item, []).append(position)
        rows = np.empty((len(raw), self._width), np.float32)
        future = asyncio.get_running_loop().create_future()
        if not raw:
            future.set_result(None)
        return QueuedRequest(list(positions), list(positions.values()), rows, future, len(positions), not raw)

    def _accept(self, requests: dict[str, QueuedRequest]) -> None:
        count = sum(each.unfinished for each in requests.values())
        with self._lock:
            if self._broken:
                raise Unavailable(self._broken)
            if self._stopped:
                raise Unavailable("the server is shutting down")
            if count > self._max_waiting:
                raise InvalidRequest(
                    f"the request has {count} items, more than the {self._max_waiting} allowed; split it"
                )
            if self._waiting + count > self._max_waiting:
                self._metrics.refused.labels("items").inc()
                raise Overloaded(f"{self._waiting} items wait already; try again in a moment")
            self._count_waiting(count)
            for kind, each in requests.items():
                if not each.over:
                    self._queues[kind].add(each)
            self._raw_or_stop.notify(count)

    def _end(self, queue: ItemQueue, request: QueuedRequest, error: Exception | None = None) -> None:
        """Nothing more of this request is computed. Holds the lock."""
        if request.over:
            return
        request.over = True
        request.raw = []  # a body may be large, and its items stay queued until their turn
        queue.requests.discard(request)
        self._count_waiting(-request.unfinished)
        self._metrics.dropped.labels(queue.kind).inc(request.unfinished)
        _settle(request.future, error)

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        self._metrics.waiting.set(self._waiting)

    def _fail_all(self, error: Exception) -> None:
        for queue in self._queues.values():
            for request in list(queue.requests):
                self._end(queue, request, error)

    # preparing threads ------------------------------------------------------------------------

    def _prepare_items(self) -> None:
        while (work := self._wait_for_raw()) is not None:
            queue, item, raw = work
            error: ServiceError | None = None
            try:
                item.inputs = queue.prepare(raw)
                item.tokens = _tokens(item.inputs)
            except ServiceError as cause:
                error = cause
            except Exception as cause:
                _log.error("cannot prepare an item of %s", queue.kind, exc_info=cause)
                error = ServiceError("could not be prepared; the server's log says why")
            with self._lock:
                if error is not None:
                    self._end(queue, item.request, _name_item(queue, item, error))
                queue.put_prepared(item)
                self._ready_or_stop.notify()
                self._raw_or_stop.notify()

    def _wait_for_raw(self) -> tuple[ItemQueue, QueuedItem, bytes] | None:
        with self._lock:
            while not self._stopped:
                # Texts first: they cost next to nothing to prepare.
                for queue in self._queues.values():
                    if (item := queue.next_raw()) is not None:
                        return queue, item, item.request.raw[item.index]
                self._raw_or_stop.wait()
        return None

    # device threads ---------------------------------------------------------------------------

    def _compute_batches(self) -> None:
        """Several threads may run this: one has the device's turn while another waits for results."""
        while True:
            with self._device_turn:
                work = self._wait_for_batch()
                if work is None:
                    return
                queue, batch = work
                started = self._started()
                try:
                    finish = queue.tower.session.start(collate([item.inputs for item in batch], queue.tower.padding))
                except Exception as error:
                    finish = _raiser(error)
            try:
                vectors = finish()
                self._deliver(queue, batch, vectors)
            except Exception as error:
                self._recover(queue, batch, error)
            finally:
                self._finished(queue, batch, started)

    def _wait_for_batch(self) -> tuple[ItemQueue, list[QueuedItem]] | None:
        with self._lock:
            while not self._stopped:
                queues = list(self._queues.values())
                if next(self._turn) % 2:
                    queues.reverse()
                for queue in queues:
                    if batch := queue.next_batch():
                        self._raw_or_stop.notify_all()
                        return queue, batch
                self._ready_or_stop.wait()
        return None

    def _started(self) -> float:
        with self._lock:
            self._running_since[threading.get_ident()] = started = time.monotonic()
        return started

    def _finished(self, queue: ItemQueue, batch: list[QueuedItem], started: float) -> None:
        with self._lock:
            del self._running_since[threading.get_ident()]
        self._metrics.batch_items.labels(queue.kind).observe(len(batch))
        self._metrics.batch_seconds.labels(queue.kind).observe(time.monotonic() - started)

    def _deliver(self, queue: ItemQueue, batch: list[QueuedItem], vectors: Vectors) -> None:
        if vectors.shape != (len(batch), self._width):
            raise ValueError(f"the engine gave shape {vectors.shape} for {len(batch)} items")
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        with self._lock:
            for item, vector, good in zip(batch, vectors, finite, strict=True):
                request = item.request
                if request.over:
                    continue
                if not good:
                    error = ServiceError("the model gives no finite vector for this item")
                    self._end(queue, request, _name_item(queue, item, error))
                    continue
                request.rows[request.positions[item.index]] = vector
                request.unfinished -= 1
                self._count_waiting(-1)
                self._metrics.items.labels(queue.kind).inc()
                if not request.unfinished:
                    self._end(queue, request)

    def _recover(self, queue: ItemQueue, batch: list[QueuedItem], error: Exception) -> None:
        """Try the torch_model of a batch that failed, down to the item that is at fault."""
        if isinstance(error, EngineBroken):
            self.give_up(str(error))
            return
        alive = [item for item in batch if not item.request.over]
        if len(alive) == 1 and len(batch) == 1:
            if not isinstance(error, ServiceError):
                _log.error("cannot compute an item of %s", queue.kind, exc_info=error)
                error = ServiceError("could not be computed; the server's log says why")
            with self._lock:
                self._end(queue, alive[0].request, _name_item(queue, alive[0], error))
            return
        if isinstance(error, OutOfMemory):
            _log.warning("out of memory with %d %s; trying half", len(batch), queue.kind)
        middle = (len(alive) + 1) // 2
        for part in (alive[:middle], alive[middle:]):
            if not part:
                continue
            try:
                with self._device_turn:
                    finish = queue.tower.session.start(collate([item.inputs for item in part], queue.tower.padding))
                self._deliver(queue, part, finish())
            except Exception as cause:
                self._recover(queue, part, cause)

    def give_up(self, message: str) -> None:
        """The device cannot go on: fail all that waits and call `on_broken`, once."""
        with self._lock:
            first = self._broken is None
            self._broken = message
            self._fail_all(Unavailable(message))
        if first:
            self._on_broken(message)


def _tokens(inputs: Inputs) -> int:
    ids = inputs.get("input_ids")
    return 1 if ids is None else len(ids)


def _name_item(queue: ItemQueue, item: QueuedItem, error: ServiceError) -> ServiceError:
    name = f"{queue.kind}[{item.request.positions[item.index][0]}]"
    named = type(error)(f"{name}: {error}")
    named.__cause__ = error
    return named


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    future.get_loop().call_soon_threadsafe(settle)


def _raiser(error: Exception) -> Callable[[], Vectors]:
    def finish() -> Vectors:
        raise error

    return finish

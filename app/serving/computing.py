"""The prepared items, and the device that computes them. One thread owns both, so nothing here is locked.

The device takes what is ready as soon as it is free: no timer, no minimum. Pictures and texts take turns, so that a
query never waits behind an import.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Protocol

from app.errors import EngineBroken, OutOfMemory, ServiceError, describe_unforeseen
from app.processors.padding import collate
from app.serving.item import Item, Stage
from app.serving.metrics import Metrics
from app.towers import BatchLimits, Tower, Vectors

_log = logging.getLogger(__name__)

# The most padding in a batch of texts, as a share, so that a long text does not pad short ones.
_MAX_PADDING = 0.1

Outcome = Vectors | ServiceError
"""float32 rows of shape (items, width), or the error of the item."""

Arrival = tuple[list[Item], bool]
"""Prepared items, or those of a batch that failed; the second value says which."""


class Arrivals(Protocol):
    """Where prepared items come from; None is the end. A SimpleQueue, or what front processes send."""

    def get(self) -> Arrival | None:
        """The next that arrive, or an empty list for something else that happened. Waits for it."""
        ...

    def empty(self) -> bool:
        """Whether get() would wait."""
        ...

    def put(self, arrival: Arrival | None, /) -> None:
        """Add items, from any thread."""
        ...


class Ready:
    """The prepared items, and which of them are computed next. Pure: no threads, no clock."""

    def __init__(self, limits: Mapping[str, BatchLimits]) -> None:
        self._limits = limits
        self._items: dict[str, list[Item]] = {kind: [] for kind in limits}
        self._last_items = {kind: each.items for kind, each in limits.items()}
        self._last_source = dict.fromkeys(limits, 0)
        self._parts: list[list[Item]] = []
        self._last_kind = ""

    @property
    def is_empty(self) -> bool:
        return not self._parts and not any(self._items.values())

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            self._items[item.kind].append(item)

    def add_halves(self, batch: list[Item]) -> None:
        """Queue the halves of a batch that failed, down to the item that is at fault."""
        middle = (len(batch) + 1) // 2
        self._parts += [batch[:middle], batch[middle:]]

    def next_batch(self) -> list[Item]:
        """What the device computes next, of each kind in turn; empty if nothing wanted is ready."""
        while self._parts:
            if part := [item for item in self._parts.pop(0) if item.stage is not Stage.OVER]:
                return part
        for kind in sorted(self._items, key=lambda kind: kind == self._last_kind):
            self._items[kind] = wanted = [item for item in self._items[kind] if item.stage is not Stage.OVER]
            if wanted:
                self._last_kind = kind
                return self._choose(kind, wanted)
        return []

    def _choose(self, kind: str, items: list[Item]) -> list[Item]:
        """The first in turn, and those that fit with it.

        Sources take turns, and each has its own order: tags of different sources cannot be compared.
        """
        limits = self._limits[kind]
        # Clients that were just answered send their next request. If a batch took all, the device would wait for
        # them; so it takes half of the items under way.
        size = min(limits.items, -(-(len(items) + self._last_items[kind]) // 2))
        ranks: dict[int, count[int]] = {}
        in_order = sorted(items, key=lambda item: item.tag)
        turns = {item: next(ranks.setdefault(item.source, count())) for item in in_order}
        last = self._last_source[kind]
        head, *rest = sorted(items, key=lambda item: (turns[item], item.source <= last, item.source))
        self._last_source[kind] = head.source
        batch, total, longest = [head], head.tokens, head.tokens
        max_padding = 0.0 if limits.same_length else _MAX_PADDING
        for item in sorted(rest, key=lambda item: abs(item.tokens - head.tokens)):
            if len(batch) == size:
                break
            padded = (len(batch) + 1) * max(longest, item.tokens)
            if padded <= limits.tokens and total + item.tokens >= (1 - max_padding) * padded:
                batch.append(item)
                total += item.tokens
                longest = max(longest, item.tokens)
        taken = set(batch)
        self._items[kind] = [item for item in items if item not in taken]
        self._last_items[kind] = len(batch)
        return batch


class Computing:
    """The threads around the device.

    They call `deliver` with the items of each batch, their outcome, and the seconds they took, and `on_broken` with
    the reason when the device cannot go on.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        width: int,
        arrivals: Arrivals,
        deliver: Callable[[list[Item], Outcome, float], None],
        on_broken: Callable[[str], None],
        metrics: Metrics,
        *,
        overlap: bool,
    ) -> None:
        """With `overlap` the device, a GPU, gets a batch while it computes another."""
        self._towers = towers
        self._width = width
        self._deliver = deliver
        self._on_broken = on_broken
        self._arrivals = arrivals
        self._metrics = {kind: metrics.of_kind(kind) for kind in towers}
        self._launched: SimpleQueue[tuple[list[Item], Callable[[], Vectors]] | None] = SimpleQueue()
        self._slots = Semaphore(2) if overlap else None
        self._started: dict[int, float] = {}
        steps = [self._launch, self._finish_launched] if overlap else [self._launch]
        self._threads = [Thread(target=self._work, args=(step,), name="device", daemon=True) for step in steps]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads once they have finished what they have."""
        self._arrivals.put(None)
        self._launched.put(None)

    def running_since(self) -> float | None:
        """When the oldest batch under way began, by time.monotonic(); None if there is none."""
        return min([*self._started.values()], default=None)

    def _work(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # if a thread ended unseen, requests would wait for ever
            _log.critical("the device's thread failed: %s", describe_unforeseen(error))
            self._on_broken(f"the device's thread failed ({type(error).__name__}); the server's log says why")

    def _launch(self) -> None:
        ready = Ready({kind: tower.limits for kind, tower in self._towers.items()})
        while True:
            if self._slots is not None:
                self._slots.acquire()
            batch: list[Item] = []
            while not batch:
                if not self._take_arrivals(ready):
                    return
                batch = ready.next_batch()
            self._begin(batch)

    def _take_arrivals(self, ready: Ready) -> bool:
        """Add all that has arrived, waiting if nothing is ready; returns False once stopped."""
        while ready.is_empty or not self._arrivals.empty():
            if (arrival := self._arrivals.get()) is None:
                return False
            items, failed = arrival
            if failed:
                ready.add_halves(items)
            else:
                ready.add(items)
        return True

    def _begin(self, batch: list[Item]) -> None:
        now = self._started[id(batch)] = time.monotonic()
        for item in batch:
            item.started = now
        tower = self._towers[batch[0].kind]
        try:
            finish = tower.session.start(collate([item.inputs for item in batch], tower.padding, tower.empty))
        except BaseException as cause:  # a native library's panic is no Exception
            self._recover(batch, cause)
            return
        if self._slots is None:
            self._finish(batch, finish)
        else:
            self._launched.put((batch, finish))

    def _finish_launched(self) -> None:
        while (launched := self._launched.get()) is not None:
            self._finish(*launched)

    def _finish(self, batch: list[Item], finish: Callable[[], Vectors]) -> None:
        try:
            vectors = finish()
            if vectors.shape != (len(batch), self._width):
                raise ValueError(f"the engine gave shape {vectors.shape} for {len(batch)} items")
        except BaseException as cause:
            self._recover(batch, cause)
            return
        seconds = self._end(batch)
        metrics = self._metrics[batch[0].kind]
        metrics.computing_seconds.observe(seconds)
        metrics.batch_items.observe(len(batch))
        self._deliver(batch, vectors, seconds)

    def _recover(self, batch: list[Item], cause: BaseException) -> None:
        """Try a batch of several again in halves; fail the jobs of a single item."""
        seconds = self._end(batch)
        if isinstance(cause, EngineBroken):
            self._on_broken(str(cause))
        elif len(batch) > 1:
            kind = batch[0].kind
            _log.warning("a batch of %d %s failed (%s); trying its halves", len(batch), kind, type(cause).__name__)
            self._arrivals.put((batch, True))
        else:
            self._deliver(batch, error_for(cause, batch[0].kind, "computed"), seconds)

    def _end(self, batch: list[Item]) -> float:
        if self._slots is not None:
            self._slots.release()
        return time.monotonic() - self._started.pop(id(batch))


def error_for(cause: BaseException, kind: str, done: str) -> ServiceError:
    """The error that a caller may read; what a library raised goes to the log only."""
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, MemoryError):
        return OutOfMemory("does not fit into memory now; send it smaller, or try again")
    _log.error("an item of %s could not be %s: %s", kind, done, describe_unforeseen(cause))
    return ServiceError(f"could not be {done}; the server's log says why")

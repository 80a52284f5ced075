"""The prepared items, and the device that computes them. One thread owns the items, so they need no lock.

The device takes what is ready as soon as it is free: no timer, no minimum. Pictures and texts take turns, so that a
query never waits behind an import.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import Protocol

import numpy as np

from app.errors import EngineBroken, OutOfMemory, ServiceError, describe_unforeseen
from app.processors.padding import collate
from app.serving.item import Item, Stage
from app.serving.metrics import KindMetrics, Metrics
from app.towers import BatchLimits, Tower, Vectors, memory_of

_log = logging.getLogger(__name__)

COMPUTE_TIMEOUT = 120.0
"""A batch that takes more seconds counts as hung."""
# The most padding in a batch of texts, as a share, so that a long text does not pad short ones.
_MAX_PADDING = 0.1

Outcome = Vectors | ServiceError
"""float32 rows of shape (items, width), or the error of the item."""

_Finish = Callable[[], Outcome | None]
"""Waits for the rows of a batch that the device has begun, or says how it failed to begin: see Computing._outcome."""


class Arrivals(Protocol):
    """Where prepared items come from: a SimpleQueue, or what front processes send."""

    def get(self) -> list[Item] | None:
        """The next that arrive; none if something else happened, None at the end. Waits for it."""

    def empty(self) -> bool:
        """Whether get() would wait."""


class Ready:
    """The prepared items, and which of them are computed next. Pure: no threads, no clock."""

    def __init__(self, limits: Mapping[str, BatchLimits]) -> None:
        self._limits = limits
        self._items: dict[str, list[Item]] = {kind: [] for kind in limits}
        self._last_items = {kind: each.items for kind, each in limits.items()}
        self._last_source = dict.fromkeys(limits, 0)
        self._last_kind = ""

    @property
    def is_empty(self) -> bool:
        return not any(self._items.values())

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            self._items[item.kind].append(item)

    def next_batch(self) -> list[Item]:
        """What the device computes next, of each kind in turn; empty if nothing wanted is ready."""
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
    """The threads around the device, which end with the arrivals.

    They call `deliver` with the items of each batch, their outcome, and the seconds they took, and `on_broken` with
    the reason when the device cannot go on, or takes more than `timeout` seconds for a batch.
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
        timeout: float = COMPUTE_TIMEOUT,
    ) -> None:
        """With `overlap` the device, a GPU, gets a batch while it computes another."""
        self._towers = towers
        self._width = width
        self._deliver = deliver
        self._on_broken = on_broken
        self._arrivals = arrivals
        self._metrics = {kind: KindMetrics(metrics, kind) for kind in towers}
        self._launched: SimpleQueue[tuple[list[Item], _Finish] | None] = SimpleQueue()
        self._beside = Semaphore(1)
        self._starting = Lock()  # the thread that waits for rows starts the halves of a batch that failed
        self._started: dict[int, float] = {}
        self._timeout = timeout
        self._ended = Event()
        steps = [self._launch, self._finish_launched] if overlap else [self._compute]
        for step in (*steps, self._watch):
            Thread(target=self._work, args=(step,), name="device", daemon=True).start()

    def _work(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # if a thread ended unseen, requests would wait for ever
            _log.critical("the device's thread failed: %s", describe_unforeseen(error))
            self._on_broken(f"the device's thread failed ({type(error).__name__}); the server's log says why")
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._timeout / 4)):
            if time.monotonic() - min([*self._started.values()], default=math.inf) > self._timeout:
                self._on_broken(f"a batch has taken more than {self._timeout:g} s; the device hangs")
                return

    def _compute(self) -> None:
        """Without overlap one thread does all."""
        for batch in self._batches():
            self._settle(batch, self._outcome(batch, self._start(batch)))

    def _launch(self) -> None:
        for batch in self._batches():
            self._launched.put((batch, self._start(batch)))
            self._beside.acquire()  # before the next one is chosen
        self._launched.put(None)

    def _finish_launched(self) -> None:
        while (launched := self._launched.get()) is not None:
            batch, finish = launched
            outcome = self._outcome(batch, finish)
            self._beside.release()
            self._settle(batch, outcome)

    def _batches(self) -> Iterator[list[Item]]:
        """What the device computes next; chosen when it is asked for."""
        ready = Ready({kind: tower.limits for kind, tower in self._towers.items()})
        while True:
            while ready.is_empty or not self._arrivals.empty():
                if (items := self._arrivals.get()) is None:
                    return
                ready.add(items)
            if batch := ready.next_batch():
                yield batch

    def _start(self, batch: list[Item]) -> _Finish:
        now = self._started[id(batch)] = time.monotonic()
        for item in batch:
            item.started = now
        tower = self._towers[batch[0].kind]
        try:
            inputs = collate([item.inputs for item in batch], tower.padding, memory_of(tower.session))
            with self._starting:
                return tower.session.start(inputs)
        except BaseException as cause:  # a native library's panic is no Exception
            failure = self._failure(batch, cause)
        return lambda: failure

    def _outcome(self, batch: list[Item], finish: _Finish) -> Outcome | None:
        """The rows or the error; None if the batch failed and its halves are to be tried."""
        try:
            outcome = finish()
            if isinstance(outcome, np.ndarray) and outcome.shape != (len(batch), self._width):
                raise ValueError(f"the engine gave shape {outcome.shape} for {len(batch)} items")
            return outcome
        except BaseException as cause:
            return self._failure(batch, cause)

    def _failure(self, batch: list[Item], cause: BaseException) -> ServiceError | None:
        """The same for a batch that failed, without `cause`: that would keep the batch's memory from its halves."""
        kind = batch[0].kind
        if isinstance(cause, EngineBroken) or len(batch) == 1:
            return error_for(cause, kind, "computed")
        _log.warning("a batch of %d %s failed (%s); trying its halves", len(batch), kind, type(cause).__name__)
        return None

    def _settle(self, batch: list[Item], outcome: Outcome | None) -> None:
        """Deliver the outcome of a batch, or try its halves, down to the item at fault."""
        seconds = time.monotonic() - self._started.pop(id(batch))
        if outcome is None:
            wanted = [item for item in batch if item.stage is not Stage.OVER]
            middle = (len(wanted) + 1) // 2
            for half in filter(None, (wanted[:middle], wanted[middle:])):
                self._settle(half, self._outcome(half, self._start(half)))
        elif isinstance(outcome, EngineBroken):
            self._on_broken(str(outcome))
        else:
            if not isinstance(outcome, ServiceError):
                metrics = self._metrics[batch[0].kind]
                metrics.computing_seconds.observe(seconds)
                metrics.batch_items.observe(len(batch))
            self._deliver(batch, outcome, seconds)


def error_for(cause: BaseException, kind: str, done: str) -> ServiceError:
    """The error that a caller may read; what a library raised goes to the log only."""
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, MemoryError):
        return OutOfMemory("does not fit into memory now; send it smaller, or try again")
    _log.error("an item of %s could not be %s: %s", kind, done, describe_unforeseen(cause))
    return ServiceError(f"could not be {done}; the server's log says why")

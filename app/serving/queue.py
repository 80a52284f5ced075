"""Whose turn it is: the waiting items of one kind.

Both waiting places are ordered by start-time fair queuing: item i of a request gets the tag
`virtual time + i`, and each computed item moves virtual time on by one over the number of requests
that wait. A small request that arrives behind a huge one is next, and the huge one still gets its
share (after Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996).
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from app.towers import BatchLimits, Inputs, Tower, Vectors

# A batch of texts holds at most this share of padding, so that a long text does not pad short ones.
_MOST_PADDING = 0.25


@dataclass(eq=False)
class QueuedRequest:
    """The items of one kind in one request; identical items are one item with several positions."""

    raw: list[bytes]
    positions: list[list[int]]
    rows: Vectors
    future: asyncio.Future[None]
    unfinished: int
    over: bool = False


@dataclass(order=True, slots=True)
class QueuedItem:
    tag: float
    sequence: int
    request: QueuedRequest = field(compare=False)
    index: int = field(compare=False)
    inputs: Inputs = field(compare=False, default_factory=dict)
    tokens: int = field(compare=False, default=1)


class ItemQueue:
    """The waiting items of one kind. Guarded by the batcher's lock."""

    def __init__(
        self, kind: str, tower: Tower, prepare: Callable[[bytes], Inputs], limits: BatchLimits, max_ready: int
    ) -> None:
        self.kind = kind
        self.tower = tower
        self.prepare = prepare
        self.requests: set[QueuedRequest] = set()
        self._limits = limits
        self._max_ready = max_ready
        self._raw: list[QueuedItem] = []
        self._ready: list[QueuedItem] = []
        self._preparing = 0
        self._sequence = itertools.count()
        self._virtual_time = 0.0

    def add(self, request: QueuedRequest) -> None:
        self.requests.add(request)
        for index in range(len(request.positions)):
            item = QueuedItem(self._virtual_time + index, next(self._sequence), request, index)
            heapq.heappush(self._raw, item)

    def next_raw(self) -> QueuedItem | None:
        """The next item to prepare; None while enough are prepared, whatever waits."""
        while self._raw and self._preparing + len(self._ready) < self._max_ready:
            item = heapq.heappop(self._raw)
            if not item.request.over:
                self._preparing += 1
                return item
        return None

    def put_prepared(self, item: QueuedItem) -> None:
        self._preparing -= 1
        if not item.request.over:
            heapq.heappush(self._ready, item)

    def next_batch(self) -> list[QueuedItem]:
        """The first item in turn and the ready ones that fit it; empty if none is ready."""
        ready = sorted(item for item in self._ready if not item.request.over)
        if not ready:
            self._ready = []
            return []
        head, *rest = ready
        batch, total, longest = [head], head.tokens, head.tokens
        for item in sorted(rest, key=lambda item: abs(item.tokens - head.tokens)):
            padded = (len(batch) + 1) * max(longest, item.tokens)
            fits = padded <= self._limits.tokens and total + item.tokens >= (1 - _MOST_PADDING) * padded
            if fits and len(batch) < self._limits.items:
                batch.append(item)
                total += item.tokens
                longest = max(longest, item.tokens)
        taken = {item.sequence for item in batch}
        self._ready = [item for item in ready if item.sequence not in taken]  # sorted, so a heap
        self._virtual_time += len(batch) / max(1, len(self.requests))
        return batch

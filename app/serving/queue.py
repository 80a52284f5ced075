"""What waits, what is prepared and what is computed: pure code, without threads or clock; seconds are passed in.

The way of an item: waiting -> preparing -> ready -> computing -> a row of each request that wants it. The caller
brings workers: whoever is free asks `take` or `next_batch` and says how it went. After each call `preparable` and
`launchable` say how many workers may now go on, and `take_settled` which requests are over.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from app.errors import EngineBroken, ServiceError
from app.serving.item import Item, Request, Stage
from app.serving.lane import Lane
from app.serving.patience import Patience
from app.serving.prospect import Prospect, foresee
from app.serving.timeline import Timeline
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits, Inputs, Vectors


@dataclass(eq=False, slots=True)
class Wanted:
    """One of the different items of a request, and where its rows belong."""

    kind: str
    key: bytes
    content: bytes
    positions: list[int]


@dataclass(eq=False, slots=True)
class Batch:
    """What the device computes at once."""

    kind: str
    items: list[Item]
    started: float


class Queue:
    """The state of all items. Not safe for threads: see the batcher's lock.

    The device takes one batch at a time: none is given while another is being launched.
    """

    def __init__(self, cache: VectorCache) -> None:
        self.stopped: ServiceError | None = None
        self.waiting = 0
        self._lanes: dict[str, Lane] = {}
        self._cache = cache
        self._patience = Patience()
        self._requests: dict[Request, None] = {}
        self._items: dict[bytes, Item] = {}
        self._preparing: dict[Item, None] = {}
        self._parts: list[list[Item]] = []
        self._launching: Batch | None = None
        self._running: dict[Batch, None] = {}
        self._last_kind = ""
        self._settled: list[Request] = []
        self._progress = 0.0

    def add_lane(self, kind: str, limits: BatchLimits, most_preparing: int | None = None) -> None:
        """Take items of this kind, of which at most so many are prepared at once.

        Where several wait, those of the kind added first are prepared first.
        """
        self._lanes[kind] = Lane(limits, most_preparing)

    # requests ---------------------------------------------------------------------------------

    def add(self, request: Request, wanted: Iterable[Wanted], now: float) -> tuple[Counter[str], Counter[str]]:
        """Take a request; returns by kind how many of its items were computed before, and how many are under way.

        Raises Unavailable once stopped.
        """
        if self.stopped is not None:
            raise self.stopped.again()
        cached: Counter[str] = Counter()
        joined: Counter[str] = Counter()
        mine: dict[str, list[Item]] = {}
        for want in wanted:
            if (row := self._cache.get(want.key)) is not None:
                request.rows[want.kind][want.positions] = row
                cached[want.kind] += 1
                continue
            item = self._items.get(want.key)
            if item is None:
                item = Item(want.kind, want.key, want.content, now, tag=float("inf"))
                self._items[want.key] = item
            else:
                joined[want.kind] += 1
            item.requests[request] = None
            request.items[item] = want.positions
            mine.setdefault(want.kind, []).append(item)
        for kind in reversed(self._lanes):
            if kind not in mine:
                continue
            # In a hurry only once the dearer items of the request are taken: its cheap half would be computed for
            # nothing where the other half comes too late.
            if any(lane.hurried and lane.has_backlog(request) for lane in self._lanes.values()):
                request.held[kind] = mine[kind]
            else:
                self._place(request, kind, mine[kind])
        if request.items:
            if not self._requests:
                self._progress = now
            self._requests[request] = None
            self.waiting += request.unfinished
        else:
            request.over = True
            self._settled.append(request)
        return cached, joined

    def _place(self, request: Request, kind: str, items: list[Item]) -> None:
        """Let the items wait for their turn."""
        for item in items:
            if item.stage is Stage.HELD:
                item.stage = Stage.WAITING
                self._lanes[kind].waiting += 1
        self._lanes[kind].add(request, items)

    def leave(self, request: Request, now: float) -> None:
        """The caller waits no longer; nothing more is done for it."""
        if not request.over:
            self._patience.observe(now - request.arrived, left=True)
            self._drop(request)

    def patience(self) -> float | None:
        """Seconds after which clients leave; None where too few have left to tell."""
        return self._patience.seconds()

    def stop(self, error: ServiceError) -> None:
        """Whatever waits fails with `error`, and so does whatever is added. A second call changes nothing."""
        if self.stopped is None:
            self.stopped = error
            for request in list(self._requests):
                self._drop(request, error.again())
                self._settled.append(request)

    def take_settled(self) -> list[Request]:
        """The requests that have all their rows, or an error, since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def _drop(self, request: Request, error: Exception | None = None) -> None:
        request.over = True
        request.error = error
        del self._requests[request]
        self.waiting -= request.unfinished
        for lane in self._lanes.values():
            lane.remove(request)
        items = list(request.items)
        if request.timeline is not None:
            for item in items:
                _note(request.timeline, item)
        request.items.clear()
        request.held.clear()
        for item in items:
            del item.requests[request]
            if not item.requests:
                self._abandon(item)
            elif item.stage is Stage.WAITING and all(item.kind in each.held for each in item.requests):
                item.stage = Stage.HELD
                self._lanes[item.kind].waiting -= 1

    def _abandon(self, item: Item) -> None:
        """Nobody wants it any more. What a worker holds comes to its end, and may find new takers until then."""
        lane = self._lanes[item.kind]
        if item.stage in (Stage.HELD, Stage.WAITING):
            lane.waiting -= item.stage is Stage.WAITING
            self._forget(item)
        elif item.stage is Stage.READY:
            lane.ready.pop(item, None)
            if item.part is not None:
                item.part.remove(item)
                if not item.part:
                    self._parts.remove(item.part)
            self._forget(item)

    def _forget(self, item: Item) -> None:
        item.stage = Stage.OVER
        item.content = b""
        item.inputs = {}
        item.requests.clear()
        del self._items[item.key]

    # preparing --------------------------------------------------------------------------------

    @property
    def preparable(self) -> int:
        """How many calls of `take` would give an item now."""
        return sum(lane.preparable for lane in self._lanes.values())

    def take(self, now: float, of: str | None = None) -> Item | None:
        """The item to prepare next, of the kind `of` if that is given; None while enough are prepared."""
        for kind, lane in self._lanes.items():
            if lane.preparable and of in (None, kind):
                item = lane.take(self._prospect(kind, now))
                lane.waiting -= 1
                lane.preparing += 1
                item.stage = Stage.PREPARING
                item.taken = self._progress = now
                self._preparing[item] = None
                for request in item.requests:
                    held, request.held = request.held, {}
                    for other, items in held.items():
                        self._place(request, other, items)
                return item
        return None

    def prepared(self, item: Item, inputs: Inputs, now: float) -> None:
        """An item that was taken is ready to be computed."""
        lane = self._end_preparing(item, now)
        if not item.requests:
            self._forget(item)
            return
        item.stage = Stage.READY
        item.content = b""
        item.inputs = inputs
        item.tokens = _tokens(inputs)
        item.prepared = now
        lane.ready[item] = None

    def not_prepared(self, item: Item, error: ServiceError, now: float) -> None:
        """An item that was taken cannot be prepared: the requests that want it fail."""
        self._end_preparing(item, now)
        self._fail(item, error)

    def _end_preparing(self, item: Item, now: float) -> Lane:
        lane = self._lanes[item.kind]
        lane.preparing -= 1
        lane.pace.prepared(now - item.taken)
        del self._preparing[item]
        self._progress = now
        return lane

    def _fail(self, item: Item, error: ServiceError) -> None:
        for request in list(item.requests):
            self._drop(request, error.again(item.kind, request.items[item][0]))
            self._settled.append(request)
        if item.stage is not Stage.OVER:
            self._forget(item)

    # computing --------------------------------------------------------------------------------

    @property
    def launchable(self) -> bool:
        """Whether `next_batch` would give a batch now."""
        return self._launching is None and (bool(self._parts) or any(lane.ready for lane in self._lanes.values()))

    def next_batch(self, now: float) -> Batch | None:
        """What the device computes next, of each kind in turn; None if nothing is ready or it is being launched."""
        if not self.launchable:
            return None
        if self._parts:
            items = self._parts.pop(0)
            kind = items[0].kind
        else:
            kinds = sorted(self._lanes, key=lambda kind: kind == self._last_kind)
            kind = self._last_kind = next(kind for kind in kinds if self._lanes[kind].ready)
            items = self._lanes[kind].next_batch(self._prospect(kind, now))
        for item in items:
            item.stage = Stage.COMPUTING
            item.started = now
            item.part = None
        batch = Batch(kind, items, now)
        self._launching = batch
        self._running[batch] = None
        self._progress = now
        return batch

    def launched(self, batch: Batch) -> None:
        """The device has the batch, and can be given another."""
        if self._launching is batch:
            self._launching = None

    def computed(self, batch: Batch, vectors: Vectors, now: float) -> int:
        """Give each request its rows of `vectors`, float32 (items, width); returns how many are not finite."""
        self._end_batch(batch, now)
        self._lanes[batch.kind].pace.computed(now - batch.started, len(batch.items))
        finite: list[bool] = np.all(np.isfinite(vectors), axis=1).tolist()
        for item, vector, good in zip(batch.items, vectors, finite, strict=True):
            if not good:
                self._fail(item, ServiceError("the model gives no finite vector for this item"))
                continue
            self._cache.put(item.key, vector)
            for request in item.requests:
                positions = request.items.pop(item)
                request.rows[item.kind][positions] = vector
                if request.timeline is not None:
                    _note(request.timeline, item, now, len(batch.items))
                self.waiting -= len(positions)
                if not request.items:
                    self._patience.observe(now - request.arrived, left=False)
                    self._drop(request)
                    self._settled.append(request)
            self._forget(item)
        return len(batch.items) - sum(finite)

    def not_computed(self, batch: Batch, error: ServiceError, now: float) -> None:
        """The batch failed: it is tried again in halves, down to the item that is at fault."""
        self._end_batch(batch, now)
        if isinstance(error, EngineBroken):
            self.stop(error)
        for item in batch.items:
            if not item.requests:
                self._forget(item)
        alive = [item for item in batch.items if item.requests]
        if len(batch.items) == 1:
            for item in alive:
                self._fail(item, error)
            return
        middle = (len(alive) + 1) // 2
        for part in (alive[:middle], alive[middle:]):
            if part:
                self._parts.append(part)
            for item in part:
                item.stage = Stage.READY
                item.part = part

    def _end_batch(self, batch: Batch, now: float) -> None:
        self.launched(batch)
        del self._running[batch]
        self._progress = now

    def _prospect(self, kind: str, now: float) -> Prospect | None:
        if (patience := self._patience.seconds()) is None:
            return None
        running = Counter(item.kind for batch in self._running for item in batch.items)
        begun = {each: len(lane.ready) + lane.preparing + running[each] for each, lane in self._lanes.items()}
        waiting = {each: lane.waiting for each, lane in self._lanes.items()}
        paces = {each: lane.pace for each, lane in self._lanes.items()}
        return foresee(kind, paces, begun, waiting, now, patience)

    # watching ---------------------------------------------------------------------------------

    def running_for(self, now: float) -> float:
        """Seconds for which the oldest batch or preparation has been going on; 0 when none is."""
        started = [batch.started for batch in self._running] + [item.taken for item in self._preparing]
        return now - min(started, default=now)

    def stalled_for(self, now: float) -> float:
        """Seconds for which requests have waited while nothing was done for any; 0 while something is."""
        if self._running or self._preparing or not self._requests:
            return 0.0
        return now - self._progress


def _note(timeline: Timeline, item: Item, ended: float = 0.0, batch: int = 0) -> None:
    timeline.of(item.kind).add(item.taken, item.prepared, item.started, ended, batch)


def _tokens(inputs: Inputs) -> int:
    ids = inputs.get("input_ids")
    return 1 if ids is None else len(ids)

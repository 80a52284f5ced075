"""Whose turn it is: which waiting item is prepared next. Pure: no threads, no clock; callers pass the time.

An item waits, is taken to be prepared and computed, and becomes a row of each job that wants it.

The order is start-time fair queueing: item i of a job gets the tag `virtual time + i`, and each batch advances
virtual time by its items divided by the number of waiting jobs. A small job that arrives behind a huge one comes
next, and the huge one still gets its share (after Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996).

Clients leave after CLIENT_TIMEOUT. Once the oldest job cannot be answered within it, fair turns would make every
answer late. Then jobs already begun come first, then the newest that can still be answered in time, and jobs past
their time are refused. A client that leaves changes nothing for the others.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from app.errors import Overloaded, ServiceError
from app.serving.item import Item, Job, Passage, Stage, Timeline
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits, Vectors

# Request and answer travel in a part of the time that a client waits, and estimates are not exact.
_CERTAIN = 0.8
# How many full batches are taken ahead: enough for the device to choose texts of equal length from.
BATCHES_AHEAD = 5
# The tag of an item taken out of turn, before all others.
_FIRST = -1.0
# The weight of the newest value in an average.
_NEWEST = 0.2
# Among how many of the newest jobs to look for one that can be answered in time.
_NEWEST_JOBS = 32


@dataclass(eq=False, slots=True)
class Wanted:
    """One of the distinct items of a job, and the positions of its rows."""

    kind: str
    key: bytes
    content: bytes
    positions: list[int]


@dataclass(eq=False, slots=True)
class _Backlog:
    """The items of a job that are not taken yet; `tag` is that of the first."""

    tag: float
    items: deque[Item]


@dataclass(eq=False)
class _Lane:
    """The items of one kind. `ahead` counts those taken but not computed; of these, `preparing` counts those not yet
    prepared, and `first` those taken out of turn.

    `begun` are the jobs of which some items are taken and some wait.
    """

    batch_items: int
    max_preparing: int
    jobs: set[Job] = field(default_factory=set)
    backlogs: dict[Job, _Backlog] = field(default_factory=dict)
    begun: dict[Job, None] = field(default_factory=dict)
    turns: list[tuple[float, int, Job]] = field(default_factory=list)
    waiting: int = 0
    ahead: int = 0
    first: int = 0
    preparing: int = 0
    virtual_time: float = 0.0
    item_seconds: float = 0.0

    @property
    def can_take(self) -> bool:
        has_room = self.ahead < BATCHES_AHEAD * self.batch_items and self.preparing < self.max_preparing
        return has_room and self.waiting > 0


class Turns:
    """The state of all jobs and their items. Not safe for threads: the event loop owns it."""

    def __init__(
        self,
        limits: Mapping[str, BatchLimits],
        max_preparing: Mapping[str, int],
        cache: VectorCache,
        client_timeout: float,
        on_dropped: Callable[[Item], None] = lambda _: None,
    ) -> None:
        """The kind named first in `limits` is prepared first, at most `max_preparing` items of a kind at once.

        `on_dropped` is called with each item that is taken and then wanted by nobody any more.
        """
        self.stopped: ServiceError | None = None
        self.waiting = 0
        """How many rows are missing."""
        self.progress = 0.0
        """When an item was last taken, prepared or computed."""
        self.jobs: dict[Job, None] = {}
        self._lanes = {
            kind: _Lane(each.items, max_preparing.get(kind, BATCHES_AHEAD * each.items))
            for kind, each in limits.items()
        }
        self._cache = cache
        self._client_timeout = client_timeout
        self._on_dropped = on_dropped
        self._items: dict[bytes, Item] = {}
        self._sequence = itertools.count()

    # jobs -------------------------------------------------------------------------------------

    def add(self, job: Job, wanted: Iterable[Wanted], now: float) -> tuple[dict[str, int], dict[str, int]]:
        """Add a job. Returns by kind how many of its items are in the cache, and how many are under way for others.

        Raises the error that stop() was called with.
        """
        if self.stopped is not None:
            raise self.stopped.again()
        cached, joined = dict.fromkeys(self._lanes, 0), dict.fromkeys(self._lanes, 0)
        waiting: dict[str, list[Item]] = {}
        for want in wanted:
            if (row := self._cache.get(want.key)) is not None:
                job.rows[want.kind][want.positions] = row
                cached[want.kind] += 1
                continue
            lane = self._lanes[want.kind]
            item = self._items.get(want.key)
            if item is None:
                item = self._items[want.key] = Item(want.kind, want.key, want.content, now, lane.virtual_time)
                lane.waiting += 1
            else:
                joined[want.kind] += 1
            item.jobs[job] = None
            job.items[item] = want.positions
            lane.jobs.add(job)
            if item.stage is Stage.WAITING:
                waiting.setdefault(want.kind, []).append(item)
        if not job.items:
            self._end(job)
            return cached, joined
        if not self.jobs:
            self.progress = now
        self.jobs[job] = None
        self.waiting += job.unfinished
        for kind, items in waiting.items():
            lane = self._lanes[kind]
            lane.backlogs[job] = _Backlog(lane.virtual_time, deque(items))
            self._push(lane, job)
        return cached, joined

    def leave(self, job: Job) -> None:
        """End a job whose caller waits no longer."""
        if not job.over:
            job.on_over = lambda: None
            self._end(job)

    def stop(self, error: ServiceError) -> None:
        """Fail all jobs with `error`, and all that are added later. A second call changes nothing."""
        if self.stopped is None:
            self.stopped = error
            for job in list(self.jobs):
                self._end(job, error.again())

    def _end(self, job: Job, error: ServiceError | None = None) -> None:
        job.over, job.error = True, error
        if job in self.jobs:
            del self.jobs[job]
            self.waiting -= job.unfinished
        for lane in self._lanes.values():
            lane.jobs.discard(job)
            self._forget_backlog(lane, job)
        items = list(job.items)
        if job.timeline is not None:
            for item in items:
                _note(job.timeline, item)
        job.items.clear()
        for item in items:
            del item.jobs[job]
            if not item.jobs:
                self._forget(item)
        job.on_over()

    def _forget(self, item: Item) -> None:
        """Mark an item that no job wants as over: whoever has it skips it."""
        if item.stage is Stage.OVER:
            return
        lane = self._lanes[item.kind]
        if item.stage is Stage.WAITING:
            lane.waiting -= 1
            item.content = b""
        else:
            lane.ahead -= 1
            lane.first -= item.tag == _FIRST
        taken, item.stage = item.stage is Stage.TAKEN, Stage.OVER
        del self._items[item.key]
        if taken:
            self._on_dropped(item)

    # turns ------------------------------------------------------------------------------------

    def take(self, now: float, of: str | None = None) -> Item | None:
        """The item to prepare next, of kind `of` if given; None if none waits or enough are under way."""
        for kind, lane in self._lanes.items():
            while lane.can_take and of in (None, kind):
                if (turn := self._next_turn(lane, now)) is None:
                    continue  # some were refused
                job, out_of_turn = turn
                backlog = lane.backlogs[job]
                item = backlog.items.popleft()
                item.tag = _FIRST if out_of_turn else backlog.tag
                backlog.tag += 1
                if self._has_items(lane, job):
                    lane.begun[job] = None
                    self._push(lane, job)
                lane.waiting -= 1
                lane.ahead += 1
                lane.first += out_of_turn
                lane.preparing += 1
                item.stage = Stage.TAKEN
                item.taken = self.progress = now
                return item
        return None

    def prepared(self, item: Item, now: float) -> None:
        """Note that an item is prepared, or cannot be."""
        self._lanes[item.kind].preparing -= 1
        self.progress = now
        item.content = b""

    def computed(self, items: list[Item], vectors: Vectors, seconds: float, now: float) -> int:
        """Give each job its rows of `vectors`, float32 (items, width); returns how many of them are not finite.

        `seconds` is how long the batch took; 0 if it was another process's.
        """
        lane = self._lanes[items[0].kind]
        if seconds:
            lane.item_seconds = _smoothed(lane.item_seconds, seconds / len(items))
        lane.virtual_time += len(items) / max(1, len(lane.jobs))
        self.progress = now
        finite = [True] * len(items)
        if not math.isfinite(vectors.sum()):  # quick, and wrong only where a sum overflows
            finite = np.all(np.isfinite(vectors), axis=1).tolist()
        for item, vector, good in zip(items, vectors, finite, strict=True):
            if not good:
                self.failed(item, ServiceError("the model gives no finite vector for this item"), now)
                continue
            self._cache.put(item.key, vector)
            for job in list(item.jobs):
                positions = job.items.pop(item)
                del item.jobs[job]
                rows = job.rows[item.kind]
                for position in positions:
                    rows[position] = vector
                if job.timeline is not None:
                    _note(job.timeline, item, item.started + seconds, len(items))
                self.waiting -= len(positions)
                if not job.items:
                    self._end(job)
            self._forget(item)
        return len(items) - sum(finite)

    def failed(self, item: Item, error: ServiceError, now: float) -> None:
        """Fail the jobs that want an item which cannot be prepared or computed."""
        self.progress = now
        for job in list(item.jobs):
            self._end(job, error.again(item.kind, job.items[item][0]))
        self._forget(item)

    def _next_turn(self, lane: _Lane, now: float) -> tuple[Job, bool] | None:
        """The job whose item is taken next, and whether out of turn; None if jobs were refused: ask again."""
        while not self._has_items(lane, oldest := next(iter(lane.backlogs))):
            pass
        first = self._first_in_turn(lane)
        # Before its last item, each other job has a turn for each of the earlier ones.
        own = len(oldest.items)
        items = min(own + (own - 1) * (len(lane.backlogs) - 1), lane.waiting)
        limit = now - _CERTAIN * self._client_timeout
        if oldest.arrived > limit + items * lane.item_seconds + self._seconds(all_ahead=True):
            return first, False
        before = self._seconds(all_ahead=False)
        if self._refuse_past(lane, now):
            return None
        for job in [*lane.begun, *itertools.islice(reversed(lane.backlogs), _NEWEST_JOBS)]:
            in_time = job.arrived > limit + before + len(job.items) * lane.item_seconds
            if in_time and job in lane.backlogs and self._has_items(lane, job):
                return job, True
        return first, False  # a late answer is better than none

    def _seconds(self, *, all_ahead: bool) -> float:
        """How long the device takes for what is under way: all of it, or what comes before an item that is taken out
        of turn now."""
        return sum(
            (each.ahead if all_ahead else min(each.ahead, each.first + each.batch_items)) * each.item_seconds
            for each in self._lanes.values()
        )

    def _refuse_past(self, lane: _Lane, now: float) -> bool:
        """Refuse the jobs whose clients must have left, if others wait; returns whether there were any."""
        limit = now - self._client_timeout
        if next(reversed(lane.backlogs)).arrived < limit:
            return False
        past = list(itertools.takewhile(lambda job: job.arrived < limit, self.jobs))
        for job in past:
            self._end(
                job,
                Overloaded(
                    f"the server is full: no answer within the {self._client_timeout:g} s that clients wait "
                    "(CLIENT_TIMEOUT); send fewer requests at once"
                ),
            )
        return bool(past)

    def _first_in_turn(self, lane: _Lane) -> Job:
        while True:
            tag, _, job = lane.turns[0]
            backlog = lane.backlogs.get(job)
            if backlog is not None and backlog.tag == tag and self._has_items(lane, job):
                return job
            heapq.heappop(lane.turns)  # it was served out of turn, or is over

    def _push(self, lane: _Lane, job: Job) -> None:
        heapq.heappush(lane.turns, (lane.backlogs[job].tag, next(self._sequence), job))
        if len(lane.turns) > 2 * len(lane.backlogs) + 100:  # each turn out of order leaves an old entry
            lane.turns = [(backlog.tag, next(self._sequence), job) for job, backlog in lane.backlogs.items()]
            heapq.heapify(lane.turns)

    def _has_items(self, lane: _Lane, job: Job) -> bool:
        """Whether an item of the job waits: others may have taken them. Forgets the backlog if none does."""
        backlog = lane.backlogs[job]
        while backlog.items and backlog.items[0].stage is not Stage.WAITING:
            backlog.items.popleft()
        if not backlog.items:
            self._forget_backlog(lane, job)
        return bool(backlog.items)

    def _forget_backlog(self, lane: _Lane, job: Job) -> None:
        lane.backlogs.pop(job, None)
        lane.begun.pop(job, None)


def _smoothed(average: float, value: float) -> float:
    return value if average == 0.0 else average + _NEWEST * (value - average)


def _note(timeline: Timeline, item: Item, ended: float = 0.0, batch: int = 0) -> None:
    timeline.passages[item.kind].append(Passage(item.taken, item.prepared, item.started, ended, batch))

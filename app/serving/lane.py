"""The waiting items of one kind, in the order of their turns. Pure: no threads, no clock; seconds are passed in.

Order is start-time fair queueing: item i of a request gets the tag `virtual time + i`, and each batch moves
virtual time on by its items over the number of requests that wait. A small request that arrives behind a huge one
is next, and the huge one still gets its share (after Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996).

That order serves the oldest, which is wrong once the oldest leave before they are answered: every answer comes too
late then. So when the oldest can no longer be served within the patience that clients have shown, those come first
who can: what was begun, then the newest. Whoever has outstayed that patience has shown more of it, and takes turns
with the newest. Less is prepared ahead then, and batches are small beside the patience.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass

from app.serving.item import Item, Request, Stage
from app.serving.prospect import Pace, Prospect
from app.towers import BatchLimits

# A batch of texts holds at most this share of padding, so that a long text does not pad short ones.
_MOST_PADDING = 0.1
# Among so many of the newest requests the smallest is looked for.
_NEWEST = 32
# In a hurry a batch takes at most this share of the patience, and less is prepared ahead.
_HURRIED_BATCH = 0.2
_BATCHES_READY_IN_HURRY = 2
# It is over once all that waits can be computed in this share of the time that there is.
_CALM = 0.8
# Prepared items wait for at most so many full batches: enough to choose texts of equal length from.
_BATCHES_READY = 4


@dataclass(eq=False, slots=True)
class _Backlog:
    """The items of a request that are not prepared yet; the first of them has this tag."""

    tag: float
    items: deque[Item]


class Lane:
    """The waiting items of one kind, not yet prepared and prepared."""

    def __init__(self, limits: BatchLimits, most_preparing: int | None = None) -> None:
        self.limits = limits
        self._most_preparing = most_preparing
        self.requests: set[Request] = set()
        self.waiting = 0
        self.preparing = 0
        self.ready: dict[Item, None] = {}
        self.pace = Pace(limits.items)
        self.hurried = False
        self._backlogs: dict[Request, _Backlog] = {}
        self._turns: list[tuple[float, int, Request]] = []
        self._begun: dict[Request, None] = {}
        self._sequence = itertools.count()
        self._virtual_time = 0.0
        self._last_items = limits.items
        self._patient_first = False

    @property
    def preparable(self) -> int:
        """How many items may be prepared now: no more than the device will soon take, whatever waits."""
        batches = _BATCHES_READY_IN_HURRY if self.hurried else _BATCHES_READY
        room = batches * self.pace.batch_items - self.preparing - len(self.ready)
        if self._most_preparing is not None:
            room = min(room, self._most_preparing - self.preparing)
        return max(0, min(room, self.waiting))

    def add(self, request: Request, items: list[Item]) -> None:
        """The request's items of this kind; those that wait already are in the backlogs of several requests."""
        self.requests.add(request)
        for index, item in enumerate(items):
            item.tag = min(item.tag, self._virtual_time + index)
        backlog = deque(item for item in items if item.stage is Stage.WAITING)
        if backlog:
            self._backlogs[request] = _Backlog(self._virtual_time, backlog)
            self._push(request)

    def remove(self, request: Request) -> None:
        self.requests.discard(request)
        self._forget(request)

    def has_backlog(self, request: Request) -> bool:
        return request in self._backlogs

    def take(self, prospect: Prospect | None) -> Item:
        """The item to prepare next; there must be one."""
        request = self._next_request(prospect)
        backlog = self._backlogs[request]
        item = backlog.items.popleft()
        item.tag = backlog.tag
        backlog.tag += 1
        if self._has_items(request):
            self._push(request)
            self._begun[request] = None
        return item

    def _next_request(self, prospect: Prospect | None) -> Request:
        head = self._first_in_turn()
        self._set_hurry(prospect)
        if prospect is None or not self.hurried:
            return head
        for request in list(self._begun):
            if self._has_items(request) and prospect.in_time(request):
                return request
        oldest = self._oldest()
        self._patient_first = not self._patient_first
        patient = prospect.patient(oldest)
        if patient and self._patient_first:
            return oldest
        newest = [
            request
            for request in list(itertools.islice(reversed(self._backlogs), _NEWEST))
            if prospect.in_time(request) and self._has_items(request)
        ]
        return min(newest, key=lambda request: len(request.items), default=oldest if patient else head)

    def _set_hurry(self, prospect: Prospect | None) -> None:
        self.hurried = prospect is not None and (
            prospect.backlog > prospect.deadline * (_CALM if self.hurried else 1)
            or not prospect.in_time(self._oldest())
        )
        self.pace.batch_items = self.limits.items
        if prospect is not None and self.hurried and self.pace.item_seconds:
            items = int(_HURRIED_BATCH * prospect.patience / self.pace.item_seconds)
            self.pace.batch_items = max(1, min(self.limits.items, items))

    def _oldest(self) -> Request:
        while not self._has_items(oldest := next(iter(self._backlogs))):
            pass
        return oldest

    def _has_items(self, request: Request) -> bool:
        """Whether one waits: they may have been taken for other requests. Forgets the backlog if not."""
        backlog = self._backlogs.get(request)
        if backlog is None:
            return False
        while backlog.items and backlog.items[0].stage is not Stage.WAITING:
            backlog.items.popleft()
        if not backlog.items:
            self._forget(request)
        return bool(backlog.items)

    def _forget(self, request: Request) -> None:
        self._backlogs.pop(request, None)
        self._begun.pop(request, None)

    def _push(self, request: Request) -> None:
        heapq.heappush(self._turns, (self._backlogs[request].tag, next(self._sequence), request))
        if len(self._turns) > 2 * len(self._backlogs) + 100:  # whoever is served out of turn leaves an old entry
            self._turns = [turn for turn in self._turns if self._is_due(turn)]
            heapq.heapify(self._turns)

    def _is_due(self, turn: tuple[float, int, Request]) -> bool:
        backlog = self._backlogs.get(turn[2])
        return backlog is not None and backlog.tag == turn[0]

    def _first_in_turn(self) -> Request:
        while True:
            turn = self._turns[0]
            if self._is_due(turn) and self._has_items(turn[2]):
                return turn[2]
            heapq.heappop(self._turns)

    def next_batch(self, prospect: Prospect | None) -> list[Item]:
        """The first ready item in turn and those that fit it; there must be one."""
        # Those who were just answered ask again: with all that is there the device would then wait for them, so each
        # batch is half of what takes part.
        most = min(self.pace.batch_items, -(-(len(self.ready) + self._last_items) // 2))
        head, *rest = self._in_turn(prospect)
        batch, total, longest = [head], head.tokens, head.tokens
        most_padding = 0.0 if self.limits.same_length else _MOST_PADDING
        for item in sorted(rest, key=lambda item: abs(item.tokens - head.tokens)):
            if len(batch) == most:
                break
            padded = (len(batch) + 1) * max(longest, item.tokens)
            if padded <= self.limits.tokens and total + item.tokens >= (1 - most_padding) * padded:
                batch.append(item)
                total += item.tokens
                longest = max(longest, item.tokens)
        for item in batch:
            del self.ready[item]
        self._last_items = len(batch)
        self._virtual_time += len(batch) / max(1, len(self.requests))
        return batch

    def _in_turn(self, prospect: Prospect | None) -> list[Item]:
        if prospect is None or not self.hurried:
            return sorted(self.ready, key=lambda item: item.tag)
        # As they were taken. Whoever will have left fills no batch: it would only make the others wait.
        items = sorted(self.ready, key=lambda item: item.taken)
        still = [
            item for item in items if any(prospect.in_time(each) or prospect.patient(each) for each in item.requests)
        ]
        return still or items

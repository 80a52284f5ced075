"""A forecast: how long what waits will take, and which clients will still be there. Pure, as the queue is."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.serving.item import Request

# Of the patience seen here the way of request and answer takes a part, and estimates are off by some.
_CERTAIN = 0.8
# Beyond this multiple of the patience of others a client counts as a patient one.
_PATIENT = 1.5
# How much of an average the newest value is.
_NEWEST = 0.2


@dataclass(slots=True)
class Pace:
    """How items of one kind go on: how many fill a batch, and average seconds to prepare and to compute one, or 0."""

    batch_items: int
    preparing_seconds: float = 0.0
    item_seconds: float = 0.0

    def prepared(self, seconds: float) -> None:
        """An item took so long to prepare."""
        self.preparing_seconds = _smoothed(self.preparing_seconds, seconds)

    def computed(self, seconds: float, items: int) -> None:
        """A batch of so many items took so long to compute."""
        self.item_seconds = _smoothed(self.item_seconds, seconds / items)


@dataclass(frozen=True, slots=True)
class Prospect:
    """Who will still be there: `patience` is the age at which clients leave. In seconds: `before` an item that is
    taken now is computed, for each `item`, and until all that waits is computed (`backlog`)."""

    now: float
    patience: float
    before: float
    item: float
    backlog: float

    @property
    def deadline(self) -> float:
        return _CERTAIN * self.patience

    def in_time(self, request: Request) -> bool:
        return self.now - request.arrived + self.before + len(request.items) * self.item < self.deadline

    def patient(self, request: Request) -> bool:
        return self.now - request.arrived > _PATIENT * self.patience


def foresee(
    kind: str,
    paces: Mapping[str, Pace],
    begun: Mapping[str, int],
    waiting: Mapping[str, int],
    now: float,
    patience: float,
) -> Prospect:
    """For items of this kind; by kind, how many have been taken and not yet computed, and how many wait."""
    unfinished = {each: count + waiting[each] for each, count in begun.items()}
    before = paces[kind].preparing_seconds + _device_seconds(kind, paces, begun)
    # And what comes in between: items fill whole batches.
    batches = sum(pace.batch_items * pace.item_seconds for each, pace in paces.items() if unfinished[each])
    backlog = _device_seconds(kind, paces, unfinished) + batches
    return Prospect(now, patience, before, paces[kind].item_seconds, backlog)


def _device_seconds(kind: str, paces: Mapping[str, Pace], counts: Mapping[str, int]) -> float:
    """How long the device needs for so many items of this kind, between which it computes those of the others."""
    mine = paces[kind]
    batches = -(-counts[kind] // mine.batch_items)
    seconds = counts[kind] * mine.item_seconds
    for other, pace in paces.items():
        if other != kind:
            seconds += min(counts[other], batches * pace.batch_items) * pace.item_seconds
    return seconds


def _smoothed(average: float, value: float) -> float:
    return value if average == 0.0 else average + _NEWEST * (value - average)

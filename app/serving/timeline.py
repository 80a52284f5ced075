"""When the items of one request waited, were prepared and were computed: for traces."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Passage(NamedTuple):
    """One item's way as far as it came. Seconds of time.monotonic(), 0 for what never was; `batch` counts the items
    that were computed with it."""

    taken: float
    prepared: float
    started: float
    ended: float
    batch: int


@dataclass(slots=True)
class Timeline:
    """What became of one request: when its items were `added` to the queue, and what became of them, by kind.

    `wanted` counts its items by kind, `cached` those whose vector was in the cache.
    """

    added: float | None = None
    wanted: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    passages: dict[str, list[Passage]] = field(default_factory=lambda: defaultdict(list))

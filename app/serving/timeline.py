"""When the items of one request waited, were prepared and were computed: for traces."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Passage:
    """When the items of one kind passed each step, by time.monotonic(); None before the first one did.

    `taken`, `prepared` and `started` are the first item's times, `all_prepared` and `ended` the last one's: some
    items are prepared while others are computed. `batch` is the size of the largest batch that held one.
    """

    items: int = 0
    taken: float | None = None
    prepared: float | None = None
    all_prepared: float | None = None
    started: float | None = None
    ended: float | None = None
    batch: int = 0

    def add(self, taken: float, prepared: float, started: float, ended: float, batch: int) -> None:
        """Record one item, as far as it came; 0 stands for a step not reached."""
        self.items += 1
        self.taken = _first(self.taken, taken)
        self.prepared = _first(self.prepared, prepared)
        self.all_prepared = _last(self.all_prepared, prepared)
        self.started = _first(self.started, started)
        self.ended = _last(self.ended, ended)
        self.batch = max(self.batch, batch)


@dataclass(slots=True)
class Timeline:
    """What became of one request: when its items were `added` to the queue, and their passages by kind.

    `wanted` counts its items by kind, `cached` those whose vector was in the cache.
    """

    added: float | None = None
    wanted: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    passages: dict[str, Passage] = field(default_factory=dict)

    def of(self, kind: str) -> Passage:
        """The passage of this kind; a new one at the first call."""
        return self.passages.setdefault(kind, Passage())


def _first(known: float | None, stamp: float) -> float | None:
    return known if not stamp else stamp if known is None else min(known, stamp)


def _last(known: float | None, stamp: float) -> float | None:
    return known if not stamp else stamp if known is None else max(known, stamp)

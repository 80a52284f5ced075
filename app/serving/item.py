"""A caller, the job it waits for, the items of a job, and when they waited, were prepared and were computed."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeVar

from app.errors import ServiceError
from app.towers import Inputs, Vectors

T = TypeVar("T")


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
    """One request: when it `began`, when its items were `added` to the queue, and what became of them, by kind.

    `wanted` counts its items by kind, `cached` those whose vector was in the cache.
    """

    began: float = field(default_factory=time.monotonic)
    added: float | None = None
    wanted: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    passages: dict[str, list[Passage]] = field(default_factory=lambda: defaultdict(list))


class Caller(Protocol):
    """Who waits for a job, since `arrived` by time.monotonic(). `timeline` records what becomes of it."""

    arrived: float
    timeline: Timeline | None

    def wait(self, future: asyncio.Future[T]) -> Awaitable[T]:
        """The future's result; raises ClientGone once the caller has left."""
        ...


class StayingCaller:
    """A Caller that never leaves, since now."""

    timeline: Timeline | None = None

    def __init__(self) -> None:
        self.arrived = time.monotonic()

    async def wait(self, future: asyncio.Future[T]) -> T:
        return await future


class Stage(Enum):
    """An item waits for its turn, is being prepared or computed, or is over: done, failed or no longer wanted."""

    WAITING = auto()
    TAKEN = auto()
    OVER = auto()


@dataclass(eq=False, slots=True, repr=False)
class Job:
    """What one caller waits for; `rows` are float32 of shape (items, width) by kind.

    `items` have no row yet; their values are positions in the request. `on_over` is called once, when all rows are
    there or the job has failed with `error`. `timeline`, if any, records the times of its items.
    """

    rows: dict[str, Vectors]
    arrived: float
    on_over: Callable[[], None] = lambda: None
    timeline: Timeline | None = None
    items: "dict[Item, list[int]]" = field(default_factory=dict)
    over: bool = False
    error: ServiceError | None = None

    @property
    def unfinished(self) -> int:
        """How many rows are missing."""
        return sum(map(len, self.items.values()))


@dataclass(eq=False, slots=True, repr=False)
class Item:
    """One input, computed once for all jobs that want it, even if some of them leave.

    `content` is dropped once the item is prepared. `tag` orders the turns. By time.monotonic(), 0 before: when the
    item was `added`, `taken` to be prepared, `prepared`, and when its batch `started`. `source` is the front process
    that prepared it, and `number` its name between processes; both are 0 within one process.
    """

    kind: str
    key: bytes
    content: bytes
    added: float
    tag: float = 0.0
    stage: Stage = Stage.WAITING
    jobs: dict[Job, None] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    taken: float = 0.0
    prepared: float = 0.0
    started: float = 0.0
    source: int = 0
    number: int = 0

    @property
    def tokens(self) -> int:
        """The tokens of a prepared text; 1 for a picture."""
        ids = self.inputs.get("input_ids")
        return 1 if ids is None else len(ids)

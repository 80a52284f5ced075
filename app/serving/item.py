"""What a caller waits for, and one input on its way: types only."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol, TypeVar

from app.errors import ServiceError
from app.serving.timeline import Timeline
from app.towers import Inputs, Vectors

T = TypeVar("T")


class Caller(Protocol):
    """Who waits for a job, `arrived` at a time of time.monotonic(); `timeline` takes what becomes of it."""

    arrived: float
    timeline: Timeline | None

    def wait(self, future: asyncio.Future[T]) -> Awaitable[T]:
        """The future's result; raises ClientGone once the caller has left."""
        ...


class Stage(Enum):
    """Where an item is: it waits for its turn, somebody prepares or computes it, or nobody wants it any more."""

    WAITING = auto()
    TAKEN = auto()
    OVER = auto()


@dataclass(eq=False, slots=True, repr=False)
class Job:
    """What one caller waits for; `rows` are float32 of shape (items, width) by kind.

    `items` are those that have no row yet, with their positions in the request. `on_over` is called once, when all
    rows are there or the job has failed with `error`. `timeline` takes the times of its items, where they are wanted.
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
        """Rows that are missing."""
        return sum(map(len, self.items.values()))


@dataclass(eq=False, slots=True, repr=False)
class Item:
    """One input, computed once for all jobs that want it, whichever of them leaves.

    `content` is dropped once it is prepared. `tag` orders the turns. Times in seconds of time.monotonic(), 0 before:
    when it was `added`, `taken` to be prepared, `prepared`, and `started` to be computed.
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

    @property
    def tokens(self) -> int:
        """Tokens of a prepared text; 1 for a picture."""
        ids = self.inputs.get("input_ids")
        return 1 if ids is None else len(ids)

"""A caller, the job it waits for, the items of a job, and when they waited, were prepared and were computed."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from app.errors import ClientGone, ServiceError
from app.towers import Inputs, Vectors

T = TypeVar("T")

# Most requests are answered before it is worth watching whether their client leaves.
_WATCHED_AFTER = 0.05


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


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


class Caller:
    """Who waits for a job, since `arrived` by time.monotonic(). `timeline`, if any, records what becomes of it.

    `left` returns once the caller has left. It is not called before `has_sent` is true, nor for quick answers.
    """

    def __init__(self, left: Callable[[], Awaitable[None]] = _never, timeline: Timeline | None = None) -> None:
        self.arrived = time.monotonic()
        self.timeline = timeline
        self.has_sent = False
        self._left = left
        self._is_gone = False
        self._watching: asyncio.Task[None] | None = None

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The future's result. Cancels the future and raises ClientGone once the caller has left."""
        timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER, self._watch, future) if self.has_sent else None
        try:
            return await future
        except asyncio.CancelledError:
            if self._is_gone:
                raise ClientGone("the client closed the connection") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if self._watching is not None:
                self._watching.cancel()

    def _watch(self, future: asyncio.Future[Any]) -> None:
        self._watching = asyncio.ensure_future(self._cancel_when_gone(future))

    async def _cancel_when_gone(self, future: asyncio.Future[Any]) -> None:
        await self._left()
        self._is_gone = True
        future.cancel()


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

    `content` is dropped once the item is prepared: then it has `inputs`, or an `error`. `tag` orders the turns. By
    time.monotonic(), 0 before: when the item was `added`, `taken` to be prepared, `prepared`, and when its batch
    `started`. `source` is the front process that prepared it, and `number` its name between processes; both are 0
    within one process.
    """

    kind: str
    key: bytes
    content: bytes
    added: float
    tag: float = 0.0
    stage: Stage = Stage.WAITING
    jobs: dict[Job, None] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    error: ServiceError | None = None
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

"""How much memory requests may take: asked before anything is allocated.

There are four pools of bytes: for the beginnings of bodies, for the rest of large ones, for items and their answers,
and for pictures while they are prepared. What can never fit is refused at once; what may fit later waits for its
turn. A request takes from each pool once, and in this order, so that no two wait for each other. A client that
announces a large body and sends little of it holds no more than the beginning.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import BodyTooLarge, Overloaded, TooLarge
from app.processors.decode import BYTES_A_PIXEL
from app.serving.item import Caller
from app.serving.pool import Claim, Pool
from app.settings import Settings

MIB = 2**20
MAX_ITEMS = 10_000
"""The most items that one request may have, however much memory there is."""
MAX_PIXELS = 178_956_970
"""The largest picture if memory suffices: Pillow's own limit, twice its MAX_IMAGE_PIXELS."""
# Shares of the memory that the model leaves. The rest is for what a body becomes while it is parsed.
_REQUESTS, _PICTURES = 0.35, 0.45
_MAX_REQUESTS = 2 * 2**30
# Of these bytes bodies take this share, items the rest; the largest request takes half of each. Of the bodies' bytes
# this share is for beginnings, each of at most so many bytes.
_BODY, _BEGINNINGS, _MAX_BEGINNING = 0.6, 0.25, MIB
# Per number: the float32, its JSON, and both once more while parts are joined.
_ANSWER_BYTES = 30
# How much of the pictures' memory is kept for the next ones: share, bytes per preparing thread, and at most.
_KEPT, _KEPT_A_THREAD, _MAX_KEPT = 0.25, 64 * MIB, 256 * MIB
_SMALL_BODY, _SMALL_ITEMS, _SMALL_PICTURE = 64 * 1024, 16, 16 * MIB
# Preparing ends long before: only a decoder that hangs holds its memory for so long.
_PICTURE_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """How much memory all requests may take at once, and how large one may be.

    `kept_bytes`, beside `picture_bytes`, is the memory of decoded pictures that is kept for the next ones.
    """

    request_bytes: int
    max_body: int
    max_items: int
    item_bytes: int
    picture_bytes: int
    kept_bytes: int

    def __str__(self) -> str:
        each = f"{self.max_body // MIB} MiB and {self.max_items} items each"
        return f"{self.request_bytes // MIB} MiB for requests ({each}), {self.picture_bytes // MIB} MiB for pictures"


def limits_for(settings: Settings, free: int, width: int, threads: int) -> Limits:
    """The limits for `free` bytes of memory, vectors of `width`, and `threads` that prepare."""
    free = max(free, 64 * MIB)
    requests = min(_MAX_REQUESTS, int(_REQUESTS * free))
    largest = requests // 2
    item_bytes = width * _ANSWER_BYTES
    pictures = int(_PICTURES * free)
    kept = min(threads * _KEPT_A_THREAD, _MAX_KEPT, int(_KEPT * pictures))
    return Limits(
        request_bytes=requests,
        max_body=min(settings.max_body_bytes, int(_BODY * largest)),
        max_items=max(1, min(MAX_ITEMS, int((1 - _BODY) * largest) // item_bytes)),
        item_bytes=item_bytes,
        picture_bytes=pictures - kept,
        kept_bytes=kept,
    )


def max_pixels_for(settings: Settings, picture_bytes: int) -> int:
    """The most pixels of a picture: as set, or those of an ordinary JPEG that fits into `picture_bytes` of memory."""
    return settings.max_pixels or min(MAX_PIXELS, picture_bytes // BYTES_A_PIXEL)


class Budget:
    """The memory that all requests share. Used on the event loop, except preparing(), which threads call.

    A request that finds no room within `patience` seconds of its arrival is refused. `refused` is called with the
    cause: "requests", "pictures", or "too_large" for what can never fit.
    """

    def __init__(self, limits: Limits, patience: float, refused: Callable[[str], None] = lambda _: None) -> None:
        self.limits = limits
        self.patience = patience
        self.refused = refused
        bodies = int(_BODY * limits.request_bytes)
        beginnings = int(_BEGINNINGS * bodies)
        self.beginnings = Pool(beginnings, _SMALL_BODY)
        self.bodies = Pool(bodies - beginnings)
        self.beginning = min(_MAX_BEGINNING, beginnings // 8)
        """How many bytes of a body count as its beginning."""
        self.items = Pool(limits.request_bytes - bodies, _SMALL_ITEMS * limits.item_bytes)
        self.pictures = Pool(limits.picture_bytes, _SMALL_PICTURE)

    def used(self) -> dict[str, int]:
        """Bytes that requests and pictures have taken."""
        requests = sum(pool.used for pool in (self.beginnings, self.bodies, self.items))
        return {"requests": requests, "pictures": self.pictures.used}

    def admit(self, caller: Caller, announced: int | None = None) -> "Admission":
        """The share of one request; `announced` is its Content-Length, which takes nothing before the body arrives.

        Raises BodyTooLarge if that can never fit.
        """
        self.check_body(announced or 0)
        return Admission(self, caller, self.limits.max_body if announced is None else announced)

    def check_body(self, size: int) -> None:
        """Raises BodyTooLarge if a body of `size` bytes can never fit."""
        if size > self.limits.max_body:
            self.refused("too_large")
            raise BodyTooLarge(f"the body has more than the {self.limits.max_body} bytes allowed; send less at once")

    @contextmanager
    def preparing(self, size: int) -> Iterator[None]:
        """Hold `size` bytes of memory for preparing a picture. Waits for them: not for the event loop.

        Raises TooLarge if they can never fit, Overloaded if there is no room for very long.
        """
        pool = self.pictures
        if size > pool.most:
            self.refused("too_large")
            raise TooLarge(
                f"the picture takes {size // MIB + 1} MiB to prepare, more than the {pool.most // MIB} MiB "
                "there are; send it smaller, or raise MAX_MEMORY"
            )
        granted = threading.Event()
        claim = Claim(size, granted.set)
        try:
            if not pool.ask(claim) and not granted.wait(_PICTURE_SECONDS):
                raise self.full("pictures", _PICTURE_SECONDS)
            yield
        finally:
            pool.release(claim)

    def full(self, name: str, seconds: float) -> Overloaded:
        """The error for what found no room; counts it."""
        self.refused(name)
        return Overloaded(f"the server is full: no room for more {name} within {seconds:g} s; try again later")


class Admission:
    """The share of one request in the budget. Used on the event loop."""

    def __init__(self, budget: Budget, caller: Caller, expected: int) -> None:
        self._budget = budget
        self._caller = caller
        self._expected = expected
        self._body_bytes = 0
        self._claims: list[tuple[Pool, Claim]] = []
        self.max_items = budget.limits.max_items

    async def take_body(self, size: int) -> None:
        """Count `size` more bytes of the body. Take room for its beginning, and once that is full for all the rest,
        waiting until there is some.

        Call it for each part that arrives, before reading the next. Raises BodyTooLarge, Overloaded or ClientGone.
        """
        self._body_bytes += size
        self._budget.check_body(self._body_bytes)
        beginning = min(self._expected, self._budget.beginning)
        if size and not self._claims:
            await self._take(self._budget.beginnings, beginning)
        if self._body_bytes > beginning and len(self._claims) == 1:
            await self._take(self._budget.bodies, self._expected - beginning)

    def end_body(self) -> None:
        """Give back what the body was expected to take, and did not."""
        left = self._body_bytes
        for pool, claim in self._claims:
            if claim.size > left:
                pool.shrink(claim, left)
            left -= claim.size

    async def take_items(self, count: int) -> None:
        """Take room for `count` items, equal ones included, and for their answer, before computing anything.

        Raises TooLarge, Overloaded or ClientGone.
        """
        if count > self.max_items:
            self._budget.refused("too_large")
            raise TooLarge(f"the request has {count} items, more than the {self.max_items} items allowed; split it")
        await self._take(self._budget.items, count * self._budget.limits.item_bytes)

    def release(self) -> None:
        for pool, claim in self._claims:
            pool.release(claim)

    async def _take(self, pool: Pool, size: int) -> None:
        claim = Claim(size)
        self._claims.append((pool, claim))
        if pool.ask(claim):
            return
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim.on_granted = lambda: None if room.done() else room.set_result(None)
        patience = self._budget.patience - (time.monotonic() - self._caller.arrived)
        try:
            async with asyncio.timeout(patience):
                await self._caller.wait(room)
        except TimeoutError:
            raise self._budget.full("requests", self._budget.patience) from None

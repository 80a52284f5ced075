"""How much memory requests may take: asked before anything is allocated.

There are two pools of bytes: one for requests (their bodies as they arrive, then their items and answers), one for
pictures while they are prepared. What can never fit is refused at once; what may fit later waits for its turn. A
thread that prepares takes nothing from the requests' pool, so the pools cannot wait for each other.
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
# The largest request takes half of the memory for requests: its body this share of that, its items the rest.
_BODY = 0.6
# Per number: the float32, its JSON, and both once more while parts are joined.
_ANSWER_BYTES = 30
# What a picture takes at most while it is prepared: per pixel, and for a decoder process besides.
_PIXEL_BYTES, _DECODER_BYTES = 24, 40 * MIB
# How much of it is kept for the next pictures (see picture.py): share, bytes per preparing thread, and at most.
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
    max_kept = min(threads * _KEPT_A_THREAD, _MAX_KEPT)
    picture = (settings.max_pixels or MAX_PIXELS) * _PIXEL_BYTES + _DECODER_BYTES
    pictures = min(threads * picture * 8 // 7 + max_kept, int(_PICTURES * free))
    kept = min(max_kept, int(_KEPT * pictures))
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
        self.requests = Pool(
            limits.request_bytes,
            small=_SMALL_BODY + _SMALL_ITEMS * limits.item_bytes,
            reserve=limits.request_bytes // 16,
            overflow=limits.request_bytes // 2,
        )
        self._pictures = Pool(limits.picture_bytes, small=_SMALL_PICTURE, reserve=limits.picture_bytes // 8)
        self._pictures_lock = threading.Lock()

    @property
    def most_picture(self) -> int:
        """The most bytes that preparing one picture may take."""
        return self._pictures.most

    def used(self) -> dict[str, int]:
        """Bytes taken from each pool."""
        return {"requests": self.requests.used, "pictures": self._pictures.used}

    def waiting(self) -> dict[str, int]:
        """How many wait for room in each pool."""
        with self._pictures_lock:
            return {"requests": self.requests.waiting, "pictures": self._pictures.waiting}

    def admit(self, caller: Caller, announced: int | None = None) -> "Admission":
        """The share of one request; `announced` is its Content-Length, which takes nothing yet.

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
        pool, claim = self._pictures, Claim()
        if size > pool.most:
            self.refused("too_large")
            raise TooLarge(
                f"the picture takes {size // MIB + 1} MiB to prepare, more than the {pool.most // MIB} MiB "
                "there are; send it smaller, or raise MAX_MEMORY"
            )
        granted = threading.Event()
        try:
            with self._pictures_lock:
                here = pool.ask(claim, size, granted.set)
            if not here and not granted.wait(_PICTURE_SECONDS):
                with self._pictures_lock:
                    late = bool(claim.wanted)
                if late:
                    raise self.full("pictures", _PICTURE_SECONDS)
            yield
        finally:
            with self._pictures_lock:
                pool.release(claim)

    def full(self, name: str, seconds: float) -> Overloaded:
        """The error for a request that found no room; counts it."""
        self.refused(name)
        return Overloaded(f"the server is full: no room for more {name} within {seconds:g} s; try again later")


class Admission:
    """The share of one request in the budget. Used on the event loop."""

    def __init__(self, budget: Budget, caller: Caller, expected: int) -> None:
        self._budget = budget
        self._caller = caller
        self._claim = Claim(expected)
        self._body = 0
        self.max_items = budget.limits.max_items

    def check_body(self, size: int) -> None:
        """Raises BodyTooLarge if a body of `size` bytes can never fit."""
        self._budget.check_body(size)

    async def take_body(self, size: int) -> None:
        """Take `size` more bytes for the body, waiting until there is room.

        Call it for each part that arrives, before reading the next. Raises BodyTooLarge, Overloaded or ClientGone.
        """
        self._body += size
        self.check_body(self._body)
        await self._take(size)

    async def take_items(self, count: int) -> None:
        """Take room for `count` items, equal ones included, and for their answer, before computing anything.

        Raises TooLarge, Overloaded or ClientGone.
        """
        if count > self.max_items:
            self._budget.refused("too_large")
            raise TooLarge(f"the request has {count} items, more than the {self.max_items} allowed; split it")
        await self._take(count * self._budget.limits.item_bytes)

    def release(self) -> None:
        """Give everything back."""
        self._budget.requests.release(self._claim)

    async def _take(self, amount: int) -> None:
        def settle(came: bool) -> None:
            if not room.done():
                room.set_result(came)

        if self._budget.requests.ask(self._claim, amount, lambda: settle(True)):
            return
        loop = asyncio.get_running_loop()
        room: asyncio.Future[bool] = loop.create_future()
        patience = self._budget.patience - (time.monotonic() - self._caller.arrived)
        timer = loop.call_later(max(0.0, patience), settle, False)
        try:
            if not await self._caller.wait(room):
                raise self._budget.full("requests", self._budget.patience)
        finally:
            timer.cancel()

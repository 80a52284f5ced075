"""What requests may take of the memory: asked before anything is allocated.

Two pools of bytes: one for requests (their bodies as they arrive, then their items and answers), one for pictures
while they are prepared. What can never fit is refused at once; what may fit later waits in its turn. A thread that
prepares takes nothing of the other pool, so nobody waits for somebody who waits in turn.
"""

import asyncio
import threading
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
"""The largest picture where memory suffices: what Pillow takes by itself, twice its MAX_IMAGE_PIXELS."""
# Of the memory that the model leaves. The rest is for what a body becomes while it is parsed.
_REQUESTS, _PICTURES = 0.35, 0.45
_MAX_REQUESTS = 2 * 2**30
# The largest request takes half of what there is for requests: its body so much of that, its items the rest.
_BODY = 0.6
# float32 rows, their JSON, and the same once more while its parts are joined.
_ANSWER_BYTES = 30
# What a picture takes at most while it is prepared: by its pixels, and in a decoder process besides.
_PIXEL_BYTES, _DECODER_BYTES = 24, 40 * MIB
# Of what pictures may take, at most, and for each thread that prepares: kept for the next ones (see picture.py).
_KEPT, _KEPT_A_THREAD, _MAX_KEPT = 0.25, 64 * MIB, 256 * MIB
_SMALL_BODY, _SMALL_ITEMS, _SMALL_PICTURE = 64 * 1024, 16, 16 * MIB
# A thread that prepares ends long before: only a decoder that hangs holds its memory for so long.
_PICTURE_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """How much all requests may take at once, and the largest of them.

    `kept_bytes` is what is kept of the memory of pictures for the next ones, beside `picture_bytes`.
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
    """Limits for `free` bytes of memory, vectors of `width`, and so many preparing threads."""
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
    """The most pixels of a picture: as set, or as many as an ordinary JPEG may have in `picture_bytes` of memory."""
    return settings.max_pixels or min(MAX_PIXELS, picture_bytes // BYTES_A_PIXEL)


class Budget:
    """The memory that all requests share; used on the event loop, but for the threads that prepare pictures.

    What finds no room within `patience` seconds of its arrival is refused; `refused` is called with the cause then:
    "requests", "pictures", or "too_large" for what can never fit.
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
        """The most bytes with which a picture may ever be prepared."""
        return self._pictures.most

    def used(self) -> dict[str, int]:
        """Bytes taken of each pool."""
        return {"requests": self.requests.used, "pictures": self._pictures.used}

    def waiting(self) -> dict[str, int]:
        """How many wait for room in each pool."""
        with self._pictures_lock:
            return {"requests": self.requests.waiting, "pictures": self._pictures.waiting}

    def admit(self, caller: Caller, announced: int | None = None) -> "Admission":
        """One request's share; `announced` is its Content-Length, which costs nothing yet.

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
        """Memory of `size` bytes to prepare a picture with; waits for it, so not for the event loop.

        Raises TooLarge if that can never fit, Overloaded if it found no room for very long.
        """
        pool, claim = self._pictures, Claim()
        if size > pool.most:
            self.refused("too_large")
            raise TooLarge(
                f"the picture takes {size // MIB + 1} MiB while it is prepared, more than the {pool.most // MIB} MiB "
                "that this server has for that; send it smaller, or raise MAX_MEMORY"
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
        """The error for what found no room, counted."""
        self.refused(name)
        return Overloaded(f"the server is full: no room for more {name} within {seconds:g} s; try again later")


class Admission:
    """One request's share of the budget. Used on the event loop."""

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
        """Account for `size` more bytes of the body, and wait until there is room for them.

        Call it with each part that arrived, before the next is read. Raises BodyTooLarge, Overloaded or ClientGone.
        """
        self._body += size
        self.check_body(self._body)
        await self._take(size)

    async def take_items(self, count: int) -> None:
        """Account for `count` items, equal ones included, and for their answer, before anything is made of them.

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
        loop = asyncio.get_running_loop()
        room: asyncio.Future[bool] = loop.create_future()

        def settle(came: bool) -> None:
            if not room.done():
                room.set_result(came)

        if self._budget.requests.ask(self._claim, amount, lambda: settle(True)):
            return
        patience = self._budget.patience - (loop.time() - self._caller.arrived)
        timer = loop.call_later(max(0.0, patience), settle, False)
        try:
            if not await self._caller.wait(room):
                raise self._budget.full("requests", self._budget.patience)
        finally:
            timer.cancel()

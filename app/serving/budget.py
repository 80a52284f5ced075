"""What requests may take of the memory: asked before anything is allocated.

Bytes of bodies as they arrive, items, bytes of answers, and bytes of pictures while they are prepared: a pool each.
What can never fit is refused at once; what may fit later waits in its turn. A request takes in this order and a
thread that prepares takes nothing else, so nobody waits for somebody who waits for him.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import BodyTooLarge, Overloaded, TooLarge
from app.processors.decode import BYTES_A_PIXEL
from app.serving.pool import Claim, Pool
from app.settings import Settings

MIB = 2**20
MAX_PIXELS = 178_956_970
"""The largest picture where memory suffices: what Pillow takes by itself, twice its MAX_IMAGE_PIXELS."""
# Of the memory that the model leaves. The rest is for what a body becomes while it is parsed.
_BODIES, _ANSWERS, _PICTURES = 0.25, 0.1, 0.45
_MOST_BODIES = _MOST_ANSWERS = 2**30
_MOST_ITEMS = 10_000
# float32 rows, their JSON, and the same once more while its parts are joined.
_ANSWER_BYTES = 30
# What a picture takes at most while it is prepared: by its pixels, and in a decoder process besides.
_PIXEL_BYTES, _DECODER_BYTES = 24, 40 * MIB
# Of what pictures may take, at most, and for each thread that prepares: kept for the next ones (see picture.py).
_KEPT, _KEPT_A_THREAD, _MOST_KEPT = 0.25, 64 * MIB, 256 * MIB
_SMALL_BODY, _SMALL_ITEMS, _SMALL_PICTURE = 64 * 1024, 16, 16 * MIB
# A thread that prepares ends long before: only a decoder that hangs holds its memory for so long.
_PICTURE_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """How much all requests may take at once, and how large one body may be.

    `kept_bytes` is what is kept of the memory of pictures for the next ones, beside `picture_bytes`.
    """

    body_bytes: int
    most_body: int
    items: int
    answer_bytes: int
    bytes_per_answer: int
    picture_bytes: int
    kept_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.body_bytes // MIB} MiB of bodies ({self.most_body // MIB} MiB each), {self.items} items, "
            f"{self.answer_bytes // MIB} MiB of answers, {self.picture_bytes // MIB} MiB of pictures"
        )


def limits_for(settings: Settings, free: int, width: int, threads: int) -> Limits:
    """Limits for `free` bytes of memory, vectors of `width`, and so many preparing threads; settings override."""
    free = max(free, 64 * MIB)
    bodies = settings.max_waiting_bytes or min(_MOST_BODIES, int(_BODIES * free))
    answer = width * _ANSWER_BYTES
    answers = settings.max_answer_bytes or min(_MOST_ANSWERS, int(_ANSWERS * free))
    largest = (settings.max_pixels or MAX_PIXELS) * _PIXEL_BYTES + _DECODER_BYTES
    most_kept = min(threads * _KEPT_A_THREAD, _MOST_KEPT)
    pictures = settings.max_picture_bytes or min(threads * largest * 8 // 7 + most_kept, int(_PICTURES * free))
    kept = min(most_kept, int(_KEPT * pictures))
    return Limits(
        body_bytes=bodies,
        most_body=min(settings.max_body_bytes, bodies // 2),
        items=settings.max_waiting_items or max(1, min(_MOST_ITEMS, answers // answer)),
        answer_bytes=answers,
        bytes_per_answer=answer,
        picture_bytes=pictures if settings.max_picture_bytes else pictures - kept,
        kept_bytes=kept,
    )


def max_pixels_for(settings: Settings, picture_bytes: int) -> int:
    """The most pixels of a picture: as set, or as many as an ordinary JPEG may have in `picture_bytes` of memory."""
    return settings.max_pixels or min(MAX_PIXELS, picture_bytes // BYTES_A_PIXEL)


class Budget:
    """The memory that all requests share. Used on the event loop and by the threads that prepare.

    What finds no room within `patience` seconds is refused; `refused` is called with the cause then: "bodies",
    "items", "answers", "pictures", or "too_large" for what can never fit.
    """

    def __init__(self, limits: Limits, patience: float, refused: Callable[[str], None] = lambda _: None) -> None:
        self.limits = limits
        self.patience = patience
        self._refused = refused
        self._lock = threading.Lock()
        self._pools = {
            "bodies": Pool(
                limits.body_bytes,
                small=_SMALL_BODY,
                reserve=limits.body_bytes // 16,
                overflow=limits.most_body,
            ),
            "items": Pool(limits.items, small=_SMALL_ITEMS, reserve=limits.items // 16),
            "answers": Pool(
                limits.answer_bytes,
                small=_SMALL_ITEMS * limits.bytes_per_answer,
                reserve=limits.answer_bytes // 16,
            ),
            "pictures": Pool(limits.picture_bytes, small=_SMALL_PICTURE, reserve=limits.picture_bytes // 8),
        }

    @property
    def most_items(self) -> int:
        """The most items that one request may ever have."""
        pools = self._pools
        return min(pools["items"].most, pools["answers"].most // self.limits.bytes_per_answer)

    @property
    def most_picture(self) -> int:
        """The most bytes with which a picture may ever be prepared."""
        return self._pools["pictures"].most

    def used(self) -> dict[str, int]:
        """What is taken of each pool."""
        with self._lock:
            return {name: pool.used for name, pool in self._pools.items()}

    def waiting(self) -> dict[str, int]:
        """How many wait for room in each pool."""
        with self._lock:
            return {name: pool.waiting for name, pool in self._pools.items()}

    @contextmanager
    def admit(self, announced: int | None = None) -> Iterator["Admission"]:
        """One request's share; `announced` is its Content-Length, which costs nothing yet.

        Raises BodyTooLarge if that can never fit. Used on the event loop.
        """
        most = self.limits.most_body
        if announced is not None and announced > most:
            raise self.body_too_large()
        admission = Admission(self, most if announced is None else announced)
        try:
            yield admission
        finally:
            admission.release()

    @contextmanager
    def preparing(self, size: int) -> Iterator[None]:
        """Memory of `size` bytes to prepare a picture with; waits for it, so not for the event loop.

        Raises TooLarge if that can never fit, Overloaded if it found no room for very long.
        """
        pool, claim = self._pools["pictures"], Claim()
        if size > pool.most:
            self._refused("too_large")
            raise TooLarge(
                f"the picture takes {size // MIB + 1} MiB while it is prepared, more than the {pool.most // MIB} MiB "
                "that this server has for that; send it smaller, or give the server more memory"
            )
        granted = threading.Event()
        try:
            with self._lock:
                here = pool.ask(claim, size, granted.set)
            if not here and not granted.wait(_PICTURE_SECONDS) and not self._withdraw("pictures", claim):
                raise self._full("pictures", _PICTURE_SECONDS)
            yield
        finally:
            self._release({"pictures": claim})

    def body_too_large(self) -> BodyTooLarge:
        """The error for a body that can never fit, counted."""
        self._refused("too_large")
        return BodyTooLarge(f"the body has more than the {self.limits.most_body} bytes allowed; send less at once")

    def _full(self, name: str, seconds: float) -> Overloaded:
        self._refused(name)
        return Overloaded(f"the server is full: no room for more {name} within {seconds:g} s; try again later")

    def _ask(self, name: str, claim: Claim, amount: int, granted: Callable[[], None]) -> bool:
        with self._lock:
            return self._pools[name].ask(claim, amount, granted)

    def _withdraw(self, name: str, claim: Claim) -> bool:
        """Wait no longer; whether the room came after all."""
        with self._lock:
            late = not claim.wanted
            self._pools[name].withdraw(claim)
            return late

    def _release(self, claims: dict[str, Claim]) -> None:
        with self._lock:
            for name, claim in claims.items():
                self._pools[name].withdraw(claim)
                self._pools[name].give_back(claim, claim.held)


class Admission:
    """One request's share of the budget. Used on the event loop.

    The request arrived when this was made: `arrived`, by time.monotonic().
    """

    def __init__(self, budget: Budget, expected: int) -> None:
        self._budget = budget
        self._patience = budget.patience
        self._claims = {"bodies": Claim(expected), "items": Claim(), "answers": Claim()}
        self.arrived = time.monotonic()

    def check_body(self, size: int) -> None:
        """Raises BodyTooLarge if a body of `size` bytes can never fit."""
        if size > self._budget.limits.most_body:
            raise self._budget.body_too_large()

    async def grow_body(self, size: int) -> None:
        """Account for `size` more bytes of the body, and wait until there is room for them.

        Call it with each part that arrived, before the next is read. Raises BodyTooLarge or Overloaded.
        """
        self.check_body(self._claims["bodies"].held + size)
        await self._take("bodies", size)

    async def take_items(self, count: int) -> None:
        """Account for `count` items, equal ones included, and for their answer, before anything is made of them.

        Raises TooLarge or Overloaded.
        """
        if count > self._budget.most_items:
            self._budget._refused("too_large")
            raise TooLarge(
                f"the request has {count} items, more than the {self._budget.most_items} allowed; split it"
            )
        await self._take("items", count)
        await self._take("answers", count * self._budget.limits.bytes_per_answer)

    def release(self) -> None:
        """Give everything back."""
        self._budget._release(self._claims)

    async def _take(self, name: str, amount: int) -> None:
        claim = self._claims[name]
        loop = asyncio.get_running_loop()
        room: asyncio.Future[None] = loop.create_future()

        def granted() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(_resolve, room)

        if self._budget._ask(name, claim, amount, granted):
            return
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                await room
        except TimeoutError as error:
            if not self._budget._withdraw(name, claim):
                raise self._budget._full(name, self._budget.patience) from error
        finally:
            self._patience = max(0.0, self._patience - (time.monotonic() - started))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""A number of bytes, and who waits for a share of it."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

# The share of a pool that is kept for small claims.
_RESERVE = 1 / 8


@dataclass(eq=False, slots=True)
class _Part:
    """A part of a pool."""

    free: int


@dataclass(eq=False, slots=True)
class Claim:
    """Bytes that somebody asks for. `on_granted` is called when they are there, maybe by another thread; `part` is
    where they were taken from."""

    size: int
    on_granted: Callable[[], None] = lambda: None
    part: _Part | None = field(default=None, init=False)


class Pool:
    """Gives `capacity` bytes to claims, first come, first served. Safe on any thread.

    A reserve is for claims of at most `small` bytes, so that they pass the large ones. They also take from the rest
    as long as no large claim waits for it. Whoever holds a claim must not ask for another: they could wait for each
    other for ever.
    """

    def __init__(self, capacity: int, small: int = 0) -> None:
        reserve = int(_RESERVE * capacity) if small else 0
        self.capacity = capacity
        self.most = capacity - reserve
        """The largest claim that can ever be granted."""
        self._max_small = min(small, reserve)
        self._reserve, self._shared = _Part(reserve), _Part(capacity - reserve)
        self._small: deque[Claim] = deque()
        self._large: deque[Claim] = deque()
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        return self.capacity - self._reserve.free - self._shared.free

    @property
    def waiting(self) -> int:
        return len(self._small) + len(self._large)

    def ask(self, claim: Claim) -> bool:
        """Whether the claim, of at most `most` bytes, is granted at once; if not, it waits until it is released."""
        with self._lock:
            self._queue(claim).append(claim)
            self._grant()
            return claim.part is not None

    def shrink(self, claim: Claim, size: int) -> None:
        """Give back what a granted claim holds beyond `size` bytes."""
        with self._lock:
            if claim.part is not None:
                claim.part.free += claim.size - size
                claim.size = size
                self._grant()

    def release(self, claim: Claim) -> None:
        """Give back what the claim holds, or stop waiting."""
        with self._lock:
            if claim.part is not None:
                claim.part.free += claim.size
                claim.part = None
            else:
                with contextlib.suppress(ValueError):  # it was never asked for
                    self._queue(claim).remove(claim)
            self._grant()

    def _queue(self, claim: Claim) -> deque[Claim]:
        return self._small if claim.size <= self._max_small else self._large

    def _grant(self) -> None:
        if not self._small and not self._large:
            return
        self._serve(self._small, self._reserve)
        self._serve(self._large, self._shared)
        if not self._large:
            self._serve(self._small, self._shared)

    def _serve(self, waiting: deque[Claim], part: _Part) -> None:
        while waiting and waiting[0].size <= part.free:
            claim = waiting.popleft()
            part.free -= claim.size
            claim.part = part
            claim.on_granted()

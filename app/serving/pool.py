"""A number of bytes, and who waits for a share of it. Pure: no threads, no clock."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

_OVERFLOWING, _HOLDING, _BEGINNING = range(3)
_Key = tuple[int, int, int]


@dataclass(eq=False, slots=True)
class Claim:
    """What one request holds of a pool, and what more it waits for.

    `expected` is how much it will probably hold in the end; that reserves nothing.
    """

    expected: int = 0
    held: int = 0
    wanted: int = 0
    _reserved: int = 0
    _tag: int = 0
    _key: _Key | None = None
    _granted: Callable[[], None] | None = None


class Pool:
    """Claims of any size share `capacity`. Small claims pass large ones, and no claim waits for ever.

    Claims wait in the order of start-time fair queueing over sizes: a large claim is passed until about its own
    size has been granted since it came. Of the capacity, `reserve` is kept for claims of at most `small`. Claims that
    grow could wait for each other for ever, so `overflow`, also a part of the capacity, lets one claim at a time go
    on when nothing else is left.
    """

    def __init__(self, capacity: int, *, small: int = 0, reserve: int = 0, overflow: int = 0) -> None:
        self.capacity = capacity
        self.most = overflow or capacity - reserve
        """The largest claim that can ever be granted."""
        self._small_size, self._reserve, self._shared = small, reserve, capacity - reserve - overflow
        self._overflow = overflow
        self._reserve_used = self._shared_used = 0
        self._owner: Claim | None = None  # of the overflow
        self._virtual_time = 0
        self._sequence = itertools.count()
        self._small: list[tuple[_Key, Claim]] = []
        self._large: list[tuple[_Key, Claim]] = []

    @property
    def used(self) -> int:
        return self._reserve_used + self._shared_used

    @property
    def waiting(self) -> int:
        """How many claims wait."""
        return sum(claim._key is key for key, claim in (*self._small, *self._large))

    def ask(self, claim: Claim, amount: int, granted: Callable[[], None]) -> bool:
        """Whether the claim gets `amount` more at once; if not, `granted` is called when it does.

        The caller keeps the claim within `most`, and asks for one amount at a time.
        """
        assert not claim.wanted and claim.held + amount <= self.most
        if not claim.held:
            claim._tag = self._virtual_time + max(claim.expected, amount)
        nobody_waits = not self._small and not self._large
        if not amount or (nobody_waits and self._shared_used + amount <= self._shared):
            self._shared_used += amount
            claim.held += amount
            return True
        order = _OVERFLOWING if claim is self._owner else _HOLDING if claim.held else _BEGINNING
        claim.wanted = amount
        claim._key = key = (order, claim._tag, next(self._sequence))
        small = max(claim.expected, claim.held + amount) <= self._small_size
        heapq.heappush(self._small if small else self._large, (key, claim))
        self._grant()
        if not claim.wanted:
            return True
        claim._granted = granted
        return False

    def release(self, claim: Claim) -> None:
        """Stop waiting, and give back what the claim holds."""
        claim.wanted, claim._key, claim._granted = 0, None, None
        self._reserve_used -= claim._reserved
        self._shared_used -= claim.held - claim._reserved
        claim.held = claim._reserved = 0
        if self._shared_used <= self._shared:
            self._owner = None
        if self._small or self._large:
            self._grant()

    def _grant(self) -> None:
        while True:
            small, large = _first(self._small), _first(self._large)
            if small is not None and self._reserve_used + small.wanted <= self._reserve:
                self._reserve_used += small.wanted
                small._reserved += small.wanted
                self._take(small)
                continue
            heads = [(claim._key, claim) for claim in (small, large) if claim is not None and claim._key is not None]
            if not heads:
                return
            claim = min(heads)[1]
            if self._shared_used + claim.wanted > self._shared:
                begun = claim.held or not self._shared_used
                if not (self._overflow and begun and self._owner in (None, claim)):
                    return
                self._owner = claim
            self._shared_used += claim.wanted
            self._take(claim)

    def _take(self, claim: Claim) -> None:
        granted = claim._granted
        claim.held += claim.wanted
        claim.wanted, claim._key, claim._granted = 0, None, None
        self._virtual_time = max(self._virtual_time, claim._tag)
        if granted is not None:
            granted()


def _first(heap: list[tuple[_Key, Claim]]) -> Claim | None:
    """The first that still waits. Claims that were granted or withdrawn stay in the heap until they come first."""
    while heap:
        key, claim = heap[0]
        if claim._key is key:
            return claim
        heapq.heappop(heap)
    return None

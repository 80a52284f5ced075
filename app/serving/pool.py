"""A number of bytes, or of items, and who waits for a share of it: pure state, no threads, no clock."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

_OVERFLOWING, _HOLDING, _BEGINNING = range(3)
_Key = tuple[int, int, int]


@dataclass(eq=False, slots=True)
class Claim:
    """What one request holds of a pool, and what more it waits for.

    `expected` is how much it will hold in the end, as far as is known; it costs nothing.
    """

    expected: int = 0
    held: int = 0
    wanted: int = 0
    _reserved: int = 0
    _tag: int = 0
    _key: _Key | None = None
    _granted: Callable[[], None] | None = None


class Pool:
    """Claims of any size share `capacity`; the small pass the large, and nobody waits for ever.

    Who waits is served by start-time fair queueing over sizes: a small claim passes those that are larger than all
    that has been granted since they came, and no further. `reserve` is a part of the capacity for claims of at most
    `small` alone. Claims that grow while others grow could wait for each other for ever, so with `overflow`, a part
    of the capacity too, one claim at a time may go on when nothing else is left.
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
        """Claims that wait."""
        return sum(claim._key is key for key, claim in (*self._small, *self._large))

    def ask(self, claim: Claim, amount: int, granted: Callable[[], None]) -> bool:
        """Whether the claim holds `amount` more from now on; if not, `granted` is called when it does.

        The caller sees to it that the claim never becomes larger than `most`, and asks once at a time.
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
        """The claim waits no longer, and gives back what it holds."""
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
    """The first that still waits; those that were granted or withdrawn stay in the heap until they come first."""
    while heap:
        key, claim = heap[0]
        if claim._key is key:
            return claim
        heapq.heappop(heap)
    return None

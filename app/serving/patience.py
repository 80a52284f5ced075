"""How long clients wait before they leave, learned from those who left and from those who stayed."""

import math

# Ages fall into buckets, each this much longer than the one before, from a hundredth of a second on.
_STEP = 2 ** (1 / 16)
_SHORTEST = 0.01
_BUCKETS = 320
# What was seen this many requests ago counts for a third of what is seen now.
_MEMORY = 150
# One visitor who closes a tab says nothing of the others.
_FEWEST = 3.0
# Clients' patience is at an end where fewer than this share would still be there.
_STAYING = 0.85


class Patience:
    """The product-limit estimate of Kaplan and Meier (1958): who was answered would have waited longer."""

    def __init__(self) -> None:
        self._ended = [0.0] * _BUCKETS
        self._left = [0.0] * _BUCKETS
        self._left_after = [0.0] * _BUCKETS
        self._weight = 1.0
        self._estimate: float | None = None
        self._stale = False

    def observe(self, seconds: float, *, left: bool) -> None:
        """A request ended after `seconds`: its client left, or it got an answer."""
        steps = math.log(max(seconds, _SHORTEST) / _SHORTEST, _STEP)
        bucket = min(_BUCKETS - 1, int(steps))
        self._ended[bucket] += self._weight
        if left:
            self._left[bucket] += self._weight
            self._left_after[bucket] += self._weight * seconds
        self._stale = True
        self._weight *= 1 + 1 / _MEMORY
        if self._weight > 1e12:
            for counts in (self._ended, self._left, self._left_after):
                counts[:] = [count / self._weight for count in counts]
            self._weight = 1.0

    def seconds(self) -> float | None:
        """The age at which clients leave; None where too few have left to tell."""
        if self._stale:
            self._stale = False
            self._estimate = self._estimated()
        return self._estimate

    def _estimated(self) -> float | None:
        if sum(self._left) < _FEWEST * self._weight:
            return None
        staying, there = 1.0, sum(self._ended)
        for ended, left, after in zip(self._ended, self._left, self._left_after, strict=True):
            if left:
                staying *= 1 - left / (there - (ended - left) / 2)
                if staying < _STAYING:
                    return after / left
            there -= ended
        return None

"""How long the tests search that go on for as long as one likes: longer by SEARCH, as `make fuzz` sets it."""

import os

LONGER = int(os.environ.get("SEARCH") or 1)


def times(count: int) -> int:
    """How many examples are tried where the suite tries `count`."""
    return count * LONGER

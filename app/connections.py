"""How many connections at once: as many as the system lets this process have open."""

import logging
import os
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

_log = logging.getLogger(__name__)

# More is of no use, and some systems say "no limit" where they mean less.
_MOST_FILES = 2**20
# Files that the server opens while it serves, and connections that arrive before one that was closed is gone.
_SPARE = 32
_LOG_EVERY = 60.0


def raise_open_files() -> int:
    """Allow this process as many open files as the system lets it have; returns how many that are."""
    if sys.platform == "win32":
        return 512
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    for limit in (wanted, 10_240):  # macOS calls it infinity, and takes this
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return limit
        except (OSError, ValueError):
            continue
    return soft


class Room:
    """Closes the connections that have been idle longest when a new one would be one too many.

    Past the limit the system closes each new connection without a word, those of health probes too.
    """

    def __init__(self, open_files: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max(16, open_files - _open_now() - max(_SPARE, open_files // 8))
        self._open_files = open_files
        self._clock = clock
        self._logged_at = float("-inf")

    def make(self, connections: Collection[Any]) -> None:
        """Called before one is added to `connections`, each of which knows since when it is idle."""
        if len(connections) < self._most:
            return
        idle = sorted((each for each in connections if each.idle_since is not None), key=lambda each: each.idle_since)
        closed = idle[: max(1, self._most // 16)]
        for each in closed:
            each.transport.abort()
        if self._clock() - self._logged_at > _LOG_EVERY:
            self._logged_at = self._clock()
            _log.warning(
                "%d connections are open and the system allows %d open files: the %d that have been idle longest are "
                "closed; raise the limit (ulimit -n) if clients need them",
                len(connections),
                self._open_files,
                len(closed),
            )


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return _SPARE

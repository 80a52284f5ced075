"""What a process asks of its system: one heap, open files, and an end together with the process that started it."""

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG = 1
# glibc's mallopt(3): the number of heaps that threads share.
_M_ARENA_MAX = -8
# More is useless, and some systems say "no limit" but mean less.
_MAX_FILES = 2**20


def collect_garbage_less_often() -> None:
    """What was imported lives as long as the process: looking through it takes 5 % of the time of a text."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def use_one_heap() -> None:
    """Let threads share a heap: one per thread keeps what its thread freed, and memory would grow for hours."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def raise_open_files() -> None:
    """Raise the limit on open files, which connections are too, as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    for limit in (wanted, 10_240):  # macOS calls it infinity, and takes this
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def python_environment(**more: str) -> dict[str, str]:
    """The environment in which `python -m` finds this package, wherever that is started, with `more` variables."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}


def end_with(parent: int) -> None:
    """Let the kernel kill this process once `parent`, the process that started it, has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before the line above
            os._exit(1)

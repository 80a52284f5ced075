"""How this process uses its heap."""

import ctypes
import gc
import sys

# glibc's mallopt(3): the number of heaps that threads share.
M_ARENA_MAX = -8


def collect_garbage_less_often() -> None:
    """What was imported lives as long as the process: looking through it takes 5 % of the time of a text."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def use_one_heap() -> None:
    """Let threads share a heap: one per thread keeps what its thread freed, and memory would grow for hours."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has one heap anyway
        mallopt(M_ARENA_MAX, 1)

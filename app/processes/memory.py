"""The memory through which a front process hands arrays to device processes: mapped once, and used again and again.

It is an anonymous file of Linux (memfd_create): no path, nothing of /dev/shm, and gone with its processes.
"""

import bisect
import mmap
import os

import numpy as np

from app.towers import Inputs

_ALIGNMENT = 64

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of each array of an item. They follow each other in a slot, aligned."""


class SharedMemory:
    """Slots of any size. Not safe for threads.

    All slots together take at most `capacity` bytes; one alone may take up to four times as much. Memory that was
    used once stays.
    """

    def __init__(self, capacity: int) -> None:
        size = 4 * -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = os.memfd_create("prepared")
        os.ftruncate(self.file, size)
        self.view = map_memory(self.file)
        self.used = 0
        self._capacity = capacity
        self._sizes: dict[int, int] = {}
        self._holes = [(0, size)]  # offset and size, in order; neighbours are one

    def take(self, size: int) -> int | None:
        """The offset of a slot of `size` bytes; None if there is no room now.

        Raises MemoryError if there never is.
        """
        size = max(_ALIGNMENT, _aligned(size))
        if size > len(self.view):
            raise MemoryError(f"{size} bytes in shared memory of {len(self.view)}")
        if self.used and self.used + size > self._capacity:
            return None
        for at, (offset, room) in enumerate(self._holes):
            if room >= size:
                self._holes[at : at + 1] = [(offset + size, room - size)] if room > size else []
                self._sizes[offset] = size
                self.used += size
                return offset
        return None

    def give_back(self, offset: int) -> None:
        size = self._sizes.pop(offset)
        self.used -= size
        at = bisect.bisect(self._holes, (offset, 0))
        if at < len(self._holes) and self._holes[at][0] == offset + size:
            size += self._holes.pop(at)[1]
        if at and sum(self._holes[at - 1]) == offset:
            at -= 1
            before, room = self._holes.pop(at)
            offset, size = before, room + size
        self._holes.insert(at, (offset, size))


def map_memory(file: int) -> memoryview:
    """The memory behind a descriptor, in this process; unmapped once nothing uses the view or an array in it."""
    return memoryview(mmap.mmap(file, os.fstat(file).st_size))


def write(inputs: Inputs, memory: memoryview, offset: int) -> Layout:
    """Copy the arrays of an item into a slot of size_of(inputs) bytes."""
    layout = tuple((name, array.dtype.char, array.shape) for name, array in inputs.items())
    for name, view in views(layout, memory, offset).items():
        view[...] = inputs[name]
    return layout


def size_of(inputs: Inputs) -> int:
    """How many bytes of a slot the arrays of an item take."""
    return sum(_aligned(array.nbytes) for array in inputs.values())


def views(layout: Layout, memory: memoryview, offset: int) -> Inputs:
    """The arrays of an item in the slot at `offset`."""
    arrays: Inputs = {}
    for name, dtype, shape in layout:
        array = arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _aligned(array.nbytes)
    return arrays


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

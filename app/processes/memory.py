"""The memory through which a front process hands arrays to device processes: mapped once, and used again and again.

It is an anonymous file of Linux (memfd_create): no path, nothing of /dev/shm, and gone with its processes.
"""

import bisect
import mmap
import os

from app.processes.messages import ALIGNMENT


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
        size = max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
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

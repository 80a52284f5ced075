"""What a front process and a device process tell each other, in packets of a Unix socket.

Each packet is of one kind, its first byte, and tells of as many items as there are. A front numbers its items. The
arrays of an item lie in a slot of the front's memory (see memory.py), and the device writes the row over them.
Each number that is sent with a slot comes back once, as ROWS, FAILED or FREE, and then the slot is free again.

    front  -> device   HELLO       the descriptor of the front's memory
                       LAYOUT      which arrays lie in a slot, and how; by a number of its own
                       ANNOUNCE    items that will be prepared, by their digest
                       ITEMS       prepared items
                       DROP        items that nobody wants any more
    device -> front    ROWS        rows of one batch are there
                       SHARED      the same, of items that were computed for another front
                       VECTOR      the row of an item that was announced, without a slot
                       ELSEWHERE   announced items that another front prepares
                       YOURS       the same items, once that front has given up or they have failed
                       FAILED      an item, and its error
                       FREE        slots of dropped items
"""

import math
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from struct import Struct

import numpy as np
import numpy.typing as npt

from app.errors import ServiceError
from app.processes.channel import MAX_PACKET
from app.towers import Inputs

HELLO, LAYOUT, ANNOUNCE, ITEMS, DROP = b"H", b"L", b"A", b"I", b"D"
ROWS, SHARED, VECTOR, ELSEWHERE, YOURS, FAILED, FREE = b"R", b"S", b"V", b"E", b"Y", b"X", b"F"

ALIGNMENT = 64

ITEM = Struct("<IIQd32s")
"""Number, number of the layout, offset of the slot, tag, digest."""
ANNOUNCED = Struct("<I32s")
"""Number, digest."""
TIMES = Struct("<dd")
"""Of a batch: when it started, by time.monotonic(), and how many seconds it took."""
NUMBER = Struct("<I")
_MAX_ITEMS = (MAX_PACKET - 64) // ITEM.size


@dataclass(frozen=True)
class Layout:
    """The arrays of an item: name, dtype and shape of each; they follow each other in a slot, aligned."""

    kind: str
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, kind: str, inputs: Inputs) -> "Layout":
        return cls(kind, tuple((name, array.dtype.char, array.shape) for name, array in inputs.items()))

    @cached_property
    def size(self) -> int:
        """How many bytes they take."""
        return sum(_aligned(np.dtype(dtype).itemsize * math.prod(shape)) for _, dtype, shape in self.arrays)

    def views(self, memory: memoryview, offset: int) -> Inputs:
        """The arrays in a slot that begins at `offset`."""
        views: Inputs = {}
        for name, dtype, shape in self.arrays:
            array: npt.NDArray[np.generic] = np.ndarray(shape, dtype, memory, offset)
            views[name] = array
            offset += _aligned(array.nbytes)
        return views


def numbers(kind: bytes, items: Iterable[int]) -> Iterator[bytes]:
    """Packets of item numbers."""
    return joined(kind, map(NUMBER.pack, items))


def joined(kind: bytes, records: Iterable[bytes]) -> Iterator[bytes]:
    """Packets of records, as many in each as it takes."""
    parts: list[bytes] = []
    for record in records:
        parts.append(record)
        if len(parts) == _MAX_ITEMS:
            yield kind + b"".join(parts)
            parts = []
    if parts:
        yield kind + b"".join(parts)


def read_numbers(records: memoryview) -> list[int]:
    return [number for (number,) in NUMBER.iter_unpack(records)]


def layout(number: int, each: Layout) -> bytes:
    """The packet that gives a layout its number."""
    return LAYOUT + NUMBER.pack(number) + pickle.dumps(each)


def read_layout(record: memoryview) -> tuple[int, Layout]:
    (number,) = NUMBER.unpack_from(record)
    each: Layout = pickle.loads(record[NUMBER.size :])
    return number, each


def failed(number: int, error: ServiceError) -> bytes:
    """The packet that tells of an item's error."""
    plain = type(error)(error.message)  # what caused it goes to the log only
    return FAILED + NUMBER.pack(number) + pickle.dumps(plain)


def read_failed(record: memoryview) -> tuple[int, ServiceError]:
    (number,) = NUMBER.unpack_from(record)
    error: ServiceError = pickle.loads(record[NUMBER.size :])
    return number, error


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT

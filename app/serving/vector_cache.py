"""Vectors computed before, by a cryptographic hash of kind and content. The content itself is not kept."""

from collections import OrderedDict

import numpy as np
from blake3 import blake3

from app.towers import Vector

# What an entry takes beside its row: the key, two object headers, a slot in the table.
_ENTRY_BYTES = 250


def digest(kind: str, content: bytes) -> bytes:
    """A hash of 32 bytes, which no other kind and content shares."""
    return blake3(kind.encode() + b"\0").update(content).digest()


class VectorCache:
    """At most `most_bytes` of rows; the least recently used go first. Not safe for threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes = 0

    def get(self, key: bytes) -> Vector | None:
        """The row, float32 of shape (width,), exactly as computed; None if it is not there."""
        row = self._rows.get(key)
        if row is None:
            return None
        self._rows.move_to_end(key)
        return np.frombuffer(row, np.float32)

    def put(self, key: bytes, row: Vector) -> None:
        if row.nbytes + _ENTRY_BYTES > self._most_bytes or key in self._rows:
            return
        self._rows[key] = row.tobytes()
        self.bytes += row.nbytes + _ENTRY_BYTES
        while self.bytes > self._most_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.bytes -= len(oldest) + _ENTRY_BYTES

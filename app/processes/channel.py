"""A Unix socket between two processes: packets of bytes or of Python values, and descriptors with them."""

import os
import pickle
import socket
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

MAX_PACKET = 65_536
_MAX_FILES = 4
_LARGE = b"large"
_INT = array("i").itemsize


class Channel:
    """One end of the socket. What the other end does not take yet waits here. Not safe for threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._buffer = bytearray(MAX_PACKET)
        self._view = memoryview(self._buffer)
        sock.setblocking(False)

    @staticmethod
    def pair() -> "tuple[Channel, Channel]":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ends[0]), Channel(ends[1])

    @property
    def is_blocked(self) -> bool:
        """Whether something waits; flush() sends it once the socket is writable."""
        return bool(self._unsent)

    def send(self, packet: bytes, files: Sequence[int] = ()) -> None:
        """Send a packet, and copies of descriptors, after those that wait. A process that has ended takes none."""
        self._unsent.append((packet, [os.dup(file) for file in files]))
        if len(self._unsent) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the other end takes it."""
        while self._unsent:
            packet, files = self._unsent[0]
            try:
                if files:
                    socket.send_fds(self.sock, [packet], files)
                else:
                    self.sock.send(packet)
            except BlockingIOError:
                return
            except OSError:  # it has ended, which receive() tells
                pass
            self._unsent.popleft()
            for file in files:
                os.close(file)

    def receive(self) -> tuple[memoryview, list[int]] | None:
        """The next packet, valid until the next call, and its descriptors; None if there is none.

        Raises EOFError at the end.
        """
        while True:
            try:
                size, carried, _, _ = self.sock.recvmsg_into([self._buffer], socket.CMSG_LEN(_MAX_FILES * _INT))
            except BlockingIOError:
                return None
            except ConnectionResetError:  # the other end has left something unread; what it sent comes now
                continue
            if not size:
                raise EOFError
            return self._view[:size], array("i", carried[0][2]).tolist() if carried else []

    def tell(self, *values: Any, files: Sequence[int] = ()) -> None:
        """Send values. A large one, such as a model's tokenizers, travels in an anonymous file."""
        packet = pickle.dumps(values)
        if len(packet) <= MAX_PACKET:
            self.send(packet, files)
            return
        with open(os.memfd_create("value"), "wb") as large:
            large.write(packet)
            large.flush()
            self.send(_LARGE, [large.fileno(), *files])

    def told(self) -> Iterator[tuple[Any, ...]]:
        """All that has arrived, each as its values, then its descriptors as an integer each.

        Where the socket blocks, also all that will. Raises EOFError at the end.
        """
        while (received := self.receive()) is not None:
            packet, files = received
            if packet == _LARGE:
                with open(files.pop(0), "rb") as large:
                    large.seek(0)
                    packet = memoryview(large.read())
            yield (*pickle.loads(packet), *files)

    def close(self) -> None:
        for _, files in self._unsent:
            for file in files:
                os.close(file)
        self._unsent.clear()
        self.sock.close()

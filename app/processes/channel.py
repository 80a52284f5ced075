"""A Unix socket between two processes, for Python values and for descriptors with them."""

import os
import pickle
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

MAX_PACKET = 65_536
_MAX_FILES = 4
_LARGE = b"large"


class Channel:
    """One end of the socket. What the other end does not take yet waits here. Not safe for threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        sock.setblocking(False)

    @staticmethod
    def pair() -> "tuple[Channel, Channel]":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ends[0]), Channel(ends[1])

    @property
    def is_blocked(self) -> bool:
        """Whether something waits; flush() sends it once the socket is writable."""
        return bool(self._unsent)

    def tell(self, *values: Any, files: Sequence[int] = ()) -> None:
        """Send values, and copies of descriptors, after those that wait. A process that has ended takes none.

        Many values, such as a model's tokenizers, travel in an anonymous file.
        """
        packet, copies = pickle.dumps(values), [os.dup(file) for file in files]
        if len(packet) > MAX_PACKET:
            large = os.memfd_create("value")
            with open(large, "wb", closefd=False) as file:
                file.write(packet)
            packet, copies = _LARGE, [large, *copies]
        self._unsent.append((packet, copies))
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
            except OSError:  # it has ended, which told() says
                pass
            self._unsent.popleft()
            for file in files:
                os.close(file)

    def told(self) -> Iterator[tuple[Any, ...]]:
        """All that has arrived, each as its values, then its descriptors as an integer each.

        Where the socket blocks, also all that will. Raises EOFError at the end.
        """
        while True:
            try:
                packet, files, _, _ = socket.recv_fds(self.sock, MAX_PACKET, _MAX_FILES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # the other end has left something unread; what it sent comes now
                continue
            if not packet:
                raise EOFError
            if packet == _LARGE:
                with open(files.pop(0), "rb") as large:
                    large.seek(0)
                    packet = large.read()
            yield (*pickle.loads(packet), *files)

    def close(self) -> None:
        for _, files in self._unsent:
            for file in files:
                os.close(file)
        self._unsent.clear()
        self.sock.close()

"""Between the supervisor and its children: Python values and descriptors, in packets of a Unix socket."""

import contextlib
import os
import pickle
import socket
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

_MAX_PACKET = 65_536
_MAX_FILES = 4
_LARGE = b"large"
_INT = array("i").itemsize


class Channel:
    """One end of a socket of packets. What the other end does not take yet waits here.

    A large value, such as a model's tokenizers, travels in an anonymous file.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent: deque[tuple[bytes, list[int]]] = deque()

    @staticmethod
    def pair() -> "tuple[Channel, Channel]":
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ends[0]), Channel(ends[1])

    @property
    def is_blocked(self) -> bool:
        """Whether something waits; flush() sends it once the socket is writable."""
        return bool(self._unsent)

    def send(self, *values: Any, files: Sequence[int] = ()) -> None:
        """Send values, and copies of descriptors, never waiting. A process that has ended takes none."""
        packet, sent = pickle.dumps(values), [os.dup(file) for file in files]
        if len(packet) > _MAX_PACKET:
            large = os.memfd_create("value")
            with open(large, "wb", closefd=False) as file:
                file.write(packet)
            packet, sent = _LARGE, [large, *sent]
        self._unsent.append((packet, sent))
        self.flush()

    def flush(self) -> None:
        while self._unsent:
            packet, files = self._unsent[0]
            try:
                carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))] if files else []
                self.sock.sendmsg([packet], carried, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # it has ended, which receive() tells
                pass
            self._unsent.popleft()
            for file in files:
                os.close(file)

    def receive(self, *, wait: bool = False) -> Iterator[tuple[Any, ...]]:
        """All that has arrived, each as its values, then its descriptors as an integer each; `wait` for one.

        Raises EOFError at the end.
        """
        while True:
            try:
                flags = 0 if wait else socket.MSG_DONTWAIT
                packet, carried, _, _ = self.sock.recvmsg(_MAX_PACKET, socket.CMSG_LEN(_MAX_FILES * _INT), flags)
            except BlockingIOError:
                return
            except ConnectionResetError:  # the other end has left something unread; what it sent comes now
                continue
            if not packet:
                raise EOFError
            files = array("i", carried[0][2]) if carried else array("i")
            if packet == _LARGE:
                with open(files[0], "rb") as large:
                    large.seek(0)
                    packet, files = large.read(), files[1:]
            yield (*pickle.loads(packet), *files)
            if wait:
                return

    def close(self) -> None:
        for _, files in self._unsent:
            for file in files:
                with contextlib.suppress(OSError):
                    os.close(file)
        self._unsent.clear()
        self.sock.close()

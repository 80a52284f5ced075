"""The device's end of the link (see remote.py): what front processes send arrives here, and rows go back to them."""

import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.errors import ServiceError
from app.processes.channel import Channel
from app.processes.memory import Layout, map_memory, views
from app.serving.computing import Outcome
from app.serving.item import Item, Stage
from app.serving.vector_cache import VectorCache
from app.towers import Vector, Vectors


@dataclass(eq=False)
class _Front:
    """A front process. `items` are the digests of the items that it waits for, by their numbers."""

    index: int
    channel: Channel
    memory: memoryview = field(default_factory=lambda: memoryview(b""))
    items: dict[int, bytes] = field(default_factory=dict)
    closed: bool = False


_Place = tuple[_Front, int]
"""A front, and an item's number there."""


@dataclass(eq=False, slots=True)
class _Wanted:
    """An item, and the offsets of the slots for its row; `left` are those whose fronts want it no longer."""

    item: Item
    slots: dict[_Place, int] = field(default_factory=dict)
    left: set[_Place] = field(default_factory=set)


class Fronts:
    """The Arrivals of a device, from all fronts. An item that several send is computed once.

    get() belongs to the thread of the device; deliver() and add_front() may be called from others.
    """

    def __init__(self, width: int, cache: VectorCache) -> None:
        self._width = width
        self._cache = cache
        self._poll = select.epoll()
        self._by_file: dict[int, _Front] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        self._ready: list[Item] = []
        self._lock = threading.Lock()

    def add_front(self, index: int, sock: socket.socket) -> None:
        """Listen to a front at the other end of `sock`."""
        front = _Front(index, Channel(sock))
        with self._lock:
            self._by_file[sock.fileno()] = front
        self._poll.register(sock, select.EPOLLIN)

    def empty(self) -> bool:
        return not self._poll.poll(0)

    def get(self) -> list[Item]:
        """See Arrivals. There may be no items in what fronts send."""
        for file, events in self._poll.poll():
            with self._lock:
                if (front := self._by_file.get(file)) is not None:
                    self._handle(front, events)
        ready, self._ready = self._ready, []
        return ready

    def deliver(self, items: list[Item], outcome: Outcome, seconds: float) -> None:
        """Send the rows of a batch, or the error of an item, to all that wait for them."""
        with self._lock:
            if isinstance(outcome, ServiceError):
                self._deliver_error(items[0], outcome)
            else:
                self._deliver_rows(items, outcome, seconds)

    # with the lock ----------------------------------------------------------------------------

    def _deliver_rows(self, items: list[Item], vectors: Vectors, seconds: float) -> None:
        rows: dict[tuple[_Front, float], list[int]] = {}
        for item, row in zip(items, vectors, strict=True):
            self._cache.put(item.key, row)
            for (front, number), offset in self._wanted.pop(item.key).slots.items():
                front.items.pop(number, None)
                self._write(front, offset, row)
                mine = number == item.number and front.index == item.source
                rows.setdefault((front, seconds if mine else 0.0), []).append(number)
        for (front, took), numbers in rows.items():
            self._tell(front, "rows", items[0].started, took, numbers)

    def _deliver_error(self, item: Item, error: ServiceError) -> None:
        plain = type(error)(error.message)  # what caused it goes to the log only
        for front, number in self._wanted.pop(item.key).slots:
            front.items.pop(number, None)
            self._tell(front, "failed", number, plain)

    def _handle(self, front: _Front, events: int) -> None:
        if events & select.EPOLLOUT:
            front.channel.flush()
            if not front.channel.is_blocked:
                self._poll.modify(front.channel.sock, select.EPOLLIN)
        try:
            for kind, value in front.channel.told():
                if kind == "items":
                    now = time.monotonic()
                    for record in value:
                        self._add(front, now, *record)
                elif kind == "drop":
                    for number in value:
                        self._drop(front, number)
                elif kind == "memory":
                    front.memory = map_memory(value)
                    os.close(value)
        except EOFError:
            self._lose(front)

    def _add(
        self, front: _Front, now: float, number: int, kind: str, layout: Layout, offset: int, tag: float, key: bytes
    ) -> None:
        if (row := self._cache.get(key)) is not None:
            self._write(front, offset, row)
            self._tell(front, "rows", now, 0.0, [number])
            return
        wanted = self._wanted.get(key)
        if wanted is None:
            item = Item(kind, key, b"", now, tag, source=front.index, number=number)
            item.inputs = views(layout, front.memory, offset)
            self._ready.append(item)
            wanted = self._wanted[key] = _Wanted(item)
        wanted.slots[front, number] = offset
        front.items[number] = key

    def _drop(self, front: _Front, number: int) -> None:
        """Nobody in that front wants an item any more."""
        key = front.items.pop(number, None)
        if key is None:  # it has been answered meanwhile
            return
        wanted = self._wanted[key]
        wanted.left.add((front, number))
        if len(wanted.left) == len(wanted.slots) and not wanted.item.started:  # else it is in a batch
            wanted.item.stage = Stage.OVER
            del self._wanted[key]
            for other, its_number in wanted.slots:
                self._tell(other, "free", [its_number])

    def _lose(self, front: _Front) -> None:
        """A front has ended. Its memory lives as long as an array in it."""
        file = front.channel.sock.fileno()
        self._poll.unregister(file)
        del self._by_file[file]
        front.channel.close()
        front.closed = True
        for number in list(front.items):
            self._drop(front, number)

    def _write(self, front: _Front, offset: int, row: Vector) -> None:
        if not front.closed:
            np.ndarray(self._width, np.float32, front.memory, offset)[...] = row

    def _tell(self, front: _Front, *values: Any) -> None:
        if front.closed:
            return
        front.channel.tell(*values)
        if front.channel.is_blocked:
            self._poll.modify(front.channel.sock, select.EPOLLIN | select.EPOLLOUT)

"""The device's end of the link: what front processes send arrives here, and rows go back to them."""

import os
import select
import socket
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np

from app.errors import ServiceError
from app.processes import messages
from app.processes.channel import Channel
from app.processes.memory import map_memory
from app.processes.messages import Layout
from app.serving.computing import Arrival, Outcome
from app.serving.item import Item, Stage
from app.serving.vector_cache import VectorCache
from app.towers import Vector, Vectors


@dataclass(eq=False)
class _Front:
    """A front process. `items` are the digests of the items that it waits for, by their numbers."""

    index: int
    channel: Channel
    memory: memoryview = field(default_factory=lambda: memoryview(b""))
    layouts: dict[int, Layout] = field(default_factory=dict)
    items: dict[int, bytes] = field(default_factory=dict)
    closed: bool = False


_Waiting = OrderedDict[tuple[_Front, int], int | None]


@dataclass(eq=False, slots=True)
class _Wanted:
    """An item by its digest. Without an `item`, the first of `waiting` prepares it.

    `waiting` are those who want the row, and where they want it: in a slot, or None for a packet. `held` are the
    slots of those who want it no longer, until the device has done with them.
    """

    item: Item | None = None
    waiting: "_Waiting" = field(default_factory=OrderedDict)
    held: "list[tuple[_Front, int]]" = field(default_factory=list)


class Fronts:
    """The Arrivals of a device, from all fronts. An item that several send is computed once.

    get() belongs to the thread of the device; put(), deliver() and add_front() may be called from others.
    """

    def __init__(self, width: int, cache: VectorCache) -> None:
        self._width = width
        self._cache = cache
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._by_file: dict[int, _Front] = {}
        self._wanted: dict[bytes, _Wanted] = {}
        self._ready: list[Item] = []
        self._put: deque[Arrival | None] = deque()
        self._lock = threading.RLock()

    def add_front(self, index: int, sock: socket.socket) -> None:
        """Listen to a front at the other end of `sock`."""
        front = _Front(index, Channel(sock))
        with self._lock:
            self._by_file[sock.fileno()] = front
        self._poll.register(sock, select.EPOLLIN)

    def put(self, arrival: Arrival | None, /) -> None:
        """A batch that failed and is tried again in parts, or the end."""
        with self._lock:
            if arrival is not None:
                for item in arrival[0]:
                    if item.stage is Stage.OVER:
                        self._forget(item.key)
                    item.started = 0.0
            self._put.append(arrival)
        os.eventfd_write(self._wake, 1)

    def empty(self) -> bool:
        return not self._put and not self._ready and not self._poll.poll(0)

    def get(self) -> Arrival | None:
        """See Arrivals. There may be no items in what fronts send."""
        if not self._put and not self._ready:
            for file, events in self._poll.poll():
                if file == self._wake:
                    os.eventfd_read(self._wake)
                elif (front := self._by_file.get(file)) is not None:
                    with self._lock:
                        self._handle(front, events)
        with self._lock:
            if self._put:
                return self._put.popleft()
            ready, self._ready = self._ready, []
            return ready, False

    def deliver(self, items: list[Item], outcome: Outcome, seconds: float) -> None:
        """Send the rows of a batch, or the error of an item, to all that wait for them."""
        with self._lock:
            if isinstance(outcome, ServiceError):
                self._deliver_error(items[0], outcome)
            else:
                self._deliver_rows(items, outcome, seconds)

    # with the lock ----------------------------------------------------------------------------

    def _deliver_rows(self, items: list[Item], vectors: Vectors, seconds: float) -> None:
        rows: dict[_Front, list[int]] = {}
        shared: dict[_Front, list[int]] = {}
        for item, row in zip(items, vectors, strict=True):
            self._cache.put(item.key, row)
            for (front, number), offset in self._forget(item.key).items():
                del front.items[number]
                if offset is None:
                    self._send_vector(front, number, row)
                else:
                    self._write(front, offset, row)
                    mine = number == item.number and front.index == item.source
                    (rows if mine else shared).setdefault(front, []).append(number)
        times = messages.TIMES.pack(items[0].started, seconds)
        for kind, by_front in ((messages.ROWS, rows), (messages.SHARED, shared)):
            for front, numbers in by_front.items():
                for packet in messages.numbers(kind + times, numbers):
                    self._send(front, packet)

    def _deliver_error(self, item: Item, error: ServiceError) -> None:
        """Those who only announced the item have no slot that could come back: they try it themselves."""
        announced: _Waiting = OrderedDict()
        for (front, number), offset in self._forget(item.key).items():
            if offset is None:
                announced[front, number] = None
            else:
                del front.items[number]
                self._send(front, messages.failed(number, error))
        if announced:
            self._wanted[item.key] = _Wanted(waiting=announced)
            self._leave_to_the_first(announced)

    def _handle(self, front: _Front, events: int) -> None:
        if events & select.EPOLLOUT:
            front.channel.flush()
            if not front.channel.is_blocked:
                self._poll.modify(front.channel.sock, select.EPOLLIN)
        if not events & ~select.EPOLLOUT:
            return
        try:
            received = front.channel.receive()
        except EOFError:
            self._lose(front)
            return
        if received is not None:
            packet, files = received
            for file in files:  # with HELLO
                front.memory = map_memory(file)
                os.close(file)
            self._read(front, bytes(packet[:1]), packet[1:])

    def _read(self, front: _Front, kind: bytes, records: memoryview) -> None:
        if kind == messages.ITEMS:
            now = time.monotonic()
            for number, layout, offset, tag, key in messages.ITEM.iter_unpack(records):
                self._add(front, number, front.layouts[layout], offset, tag, key, now)
        elif kind == messages.ANNOUNCE:
            for number, key in messages.ANNOUNCED.iter_unpack(records):
                self._announced(front, number, key)
        elif kind == messages.DROP:
            for number in messages.read_numbers(records):
                self._drop(front, number)
        elif kind == messages.LAYOUT:
            number, each = messages.read_layout(records)
            front.layouts[number] = each

    def _add(
        self, front: _Front, number: int, layout: Layout, offset: int, tag: float, key: bytes, now: float
    ) -> None:
        if (row := self._cache.get(key)) is not None:
            self._write(front, offset, row)
            self._send(front, messages.SHARED + messages.TIMES.pack(now, 0.0) + messages.NUMBER.pack(number))
            return
        wanted = self._wait(front, number, offset, key)
        if wanted.item is None:
            item = wanted.item = Item(layout.kind, key, b"", now, tag, Stage.TAKEN, source=front.index, number=number)
            item.inputs = layout.views(front.memory, offset)
            self._ready.append(item)

    def _announced(self, front: _Front, number: int, key: bytes) -> None:
        if (row := self._cache.get(key)) is not None:
            self._send_vector(front, number, row)
            return
        if key in self._wanted:
            self._send(front, messages.ELSEWHERE + messages.NUMBER.pack(number))
        self._wait(front, number, None, key)

    def _wait(self, front: _Front, number: int, offset: int | None, key: bytes) -> _Wanted:
        """Note that a front waits for an item, and where it wants the row."""
        wanted = self._wanted.setdefault(key, _Wanted())
        wanted.waiting[front, number] = offset
        front.items[number] = key
        if wanted.item is not None:
            wanted.item.stage = Stage.TAKEN  # it may be in a batch, and wanted by nobody until now
        return wanted

    def _drop(self, front: _Front, number: int) -> None:
        """Nobody in that front wants an item any more."""
        key = front.items.pop(number, None)
        if key is None:  # it has been answered meanwhile
            return
        wanted = self._wanted[key]
        first = next(iter(wanted.waiting)) == (front, number)
        offset = wanted.waiting.pop((front, number))
        if offset is not None:
            wanted.held.append((front, number))
        if wanted.waiting:
            if wanted.item is None and first:
                self._leave_to_the_first(wanted.waiting)
        elif wanted.item is None:
            del self._wanted[key]
        else:
            wanted.item.stage = Stage.OVER
            if not wanted.item.started:  # else it is in a batch, which will be delivered or tried again
                self._forget(key)

    def _leave_to_the_first(self, waiting: _Waiting) -> None:
        """Tell the first of those who wait to prepare the item."""
        front, number = next(iter(waiting))
        self._send(front, messages.YOURS + messages.NUMBER.pack(number))

    def _forget(self, key: bytes) -> _Waiting:
        """Nothing computes the item any more: slots that are held for it are free. Returns who waits."""
        wanted = self._wanted.pop(key, _Wanted())
        for front, number in wanted.held:
            self._send(front, messages.FREE + messages.NUMBER.pack(number))
        return wanted.waiting

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

    def _send_vector(self, front: _Front, number: int, row: Vector) -> None:
        self._send(front, messages.VECTOR + messages.NUMBER.pack(number) + row.tobytes())

    def _send(self, front: _Front, packet: bytes) -> None:
        if front.closed:
            return
        front.channel.send(packet)
        if front.channel.is_blocked:
            self._poll.modify(front.channel.sock, select.EPOLLIN | select.EPOLLOUT)

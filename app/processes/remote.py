"""The front's end of the link: prepared items go to a device process, and rows come back.

A front numbers the items that it sends. The arrays of each lie in a slot of the front's memory (see memory.py), and
the device writes the row over them. Each number comes back once, and then its slot is free again.

    front  -> device   "memory" descriptor
                       "items" [(number, kind, layout, offset of the slot, tag, digest)]
                       "drop" [number]: nobody wants these any more
    device -> front    "rows" when their batch started, the seconds that it took, [number]; 0 s if it was another
                       front's
                       "failed" number, error
                       "free" [number]: dropped by all before they were computed
"""

import asyncio
import itertools
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.errors import TooLarge
from app.processes.channel import Channel
from app.processes.memory import SharedMemory, size_of, write
from app.serving.item import Item, Stage
from app.serving.link import Deliver

# An item goes to the device at which equal ones are looked for, unless that has so many more under way.
_MUCH_BUSIER = 8


@dataclass(eq=False)
class _Device:
    """A device process, and the items that it has with their slots, by number."""

    channel: Channel
    sent: dict[int, tuple[Item, int]] = field(default_factory=dict)


class RemoteLink:
    """To one device process or several. Made on the event loop; submit() may be called from any thread.

    The memory for prepared items is `capacity` bytes. The items of a device that has ended go to the others, or wait
    for another one; whoever knows that there will be none fails them.
    """

    def __init__(self, capacity: int, width: int, deliver: Deliver) -> None:
        self._loop = asyncio.get_running_loop()
        self._width = width
        self._deliver = deliver
        self._memory = SharedMemory(capacity)
        self._devices: list[_Device] = []
        self._numbers = itertools.count(1)
        self._waiting: deque[Item] = deque()  # for room, or for a device
        self._dropped: list[int] = []
        self._lock = threading.Lock()

    def stop(self) -> None:
        for device in self._devices:
            self._disconnect(device)
        self._devices = []

    def add_device(self, sock: socket.socket) -> None:
        """Use a device process, at the other end of `sock`."""
        device = _Device(Channel(sock))
        device.channel.tell("memory", files=[self._memory.file])
        with self._lock:
            self._devices.append(device)
            self._send_waiting()
        self._loop.add_reader(sock, self._receive, device)

    def submit(self, items: list[Item]) -> None:
        with self._lock:
            self._waiting.extend(items)
            self._send_waiting()

    def drop(self, item: Item) -> None:
        if not self._dropped:
            self._loop.call_soon(self._send_dropped)
        self._dropped.append(item.number)

    # with the lock ----------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        """Send those that are still wanted, as far as there is room."""
        records: dict[_Device, list[tuple[Any, ...]]] = {}
        while self._waiting and self._devices:
            item = self._waiting[0]
            if item.stage is not Stage.OVER and not self._place(item, records):
                break
            self._waiting.popleft()
        for device, sent in records.items():
            self._tell(device, "items", sent)

    def _place(self, item: Item, records: dict[_Device, list[tuple[Any, ...]]]) -> bool:
        """Write the arrays into a slot, and the record for the item's device; returns False if there is no room."""
        try:
            offset = self._memory.take(max(size_of(item.inputs), 4 * self._width))
        except MemoryError:
            error = TooLarge("becomes more data than the server can hand to its device; send it smaller")
            self._loop.call_soon_threadsafe(self._deliver, [item], error, 0.0)
            return True
        if offset is None:
            return False
        device = self._device_for(item)
        item.number = next(self._numbers)
        device.sent[item.number] = item, offset
        layout = write(item.inputs, self._memory.view, offset)
        records.setdefault(device, []).append((item.number, item.kind, layout, offset, item.tag, item.key))
        return True

    def _device_for(self, item: Item) -> _Device:
        home = self._devices[item.key[0] % len(self._devices)]
        least = min(self._devices, key=lambda device: len(device.sent))
        return least if len(home.sent) > len(least.sent) + _MUCH_BUSIER else home

    def _tell(self, device: _Device, *values: Any) -> None:
        device.channel.tell(*values)
        if device.channel.is_blocked:
            self._loop.call_soon_threadsafe(self._flush_later, device)

    # on the event loop ------------------------------------------------------------------------

    def _flush_later(self, device: _Device) -> None:
        if device in self._devices:
            self._loop.add_writer(device.channel.sock, self._flush, device)

    def _flush(self, device: _Device) -> None:
        with self._lock:
            device.channel.flush()
            if not device.channel.is_blocked:
                self._loop.remove_writer(device.channel.sock)

    def _send_dropped(self) -> None:
        dropped, self._dropped = self._dropped, []
        with self._lock:
            for device in self._devices:
                if gone := [number for number in dropped if number in device.sent]:
                    self._tell(device, "drop", gone)

    def _receive(self, device: _Device) -> None:
        try:
            for kind, *values in device.channel.told():
                if kind == "rows":
                    self._take_rows(device, *values)
                elif kind == "failed":
                    number, error = values
                    item, _ = device.sent[number]
                    self._free(device, [number])
                    if item.stage is not Stage.OVER:
                        self._deliver([item], error, 0.0)
                elif kind == "free":
                    self._free(device, *values)
        except EOFError:
            self._lose(device)

    def _take_rows(self, device: _Device, started: float, seconds: float, numbers: list[int]) -> None:
        items, rows = [], []
        for number in numbers:
            item, offset = device.sent[number]
            if item.stage is not Stage.OVER:
                item.started = started
                items.append(item)
                rows.append(np.ndarray(self._width, np.float32, self._memory.view, offset))
        vectors = np.stack(rows) if rows else None
        self._free(device, numbers)
        if vectors is not None:
            self._deliver(items, vectors, seconds)

    def _free(self, device: _Device, numbers: list[int]) -> None:
        """Their slots are free for what waits."""
        with self._lock:
            for number in numbers:
                self._memory.give_back(device.sent.pop(number)[1])
            self._send_waiting()

    def _lose(self, device: _Device) -> None:
        """A device process has ended: its items go elsewhere."""
        self._disconnect(device)
        with self._lock:
            self._devices.remove(device)
            for item, offset in device.sent.values():
                self._memory.give_back(offset)
                self._waiting.append(item)
            self._send_waiting()

    def _disconnect(self, device: _Device) -> None:
        self._loop.remove_reader(device.channel.sock)
        self._loop.remove_writer(device.channel.sock)
        device.channel.close()

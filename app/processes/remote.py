"""The front's end of the link: prepared items go to a device process, and rows come back."""

import asyncio
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from app.errors import TooLarge
from app.processes import messages
from app.processes.channel import Channel
from app.processes.memory import SharedMemory
from app.processes.messages import Layout
from app.serving.item import Item, Stage
from app.serving.link import Deliver
from app.towers import Vector

# An item goes to the device at which equal ones are looked for, unless that has so many more under way.
_MUCH_BUSIER = 8


class _Device:
    """A device process, and the numbers of the items whose slots it has. `heard` is when it last answered."""

    def __init__(self, index: int, sock: socket.socket) -> None:
        self.index = index
        self.channel = Channel(sock)
        self.slots: dict[int, int] = {}
        self.layouts: set[int] = set()
        self.heard = 0.0
        self.told_as_hanging = False


class RemoteLink:
    """To one device process or several. Made on the event loop; submit() may be called from any thread.

    The memory for prepared items is `capacity` bytes. `on_hanging` is called with the index of a device that does not
    answer, and should end it. The items of a device that has ended go to the others, or wait for another one; whoever
    knows that there will be none fails them.
    """

    def __init__(
        self,
        capacity: int,
        width: int,
        deliver: Deliver,
        on_hanging: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._width = width
        self._deliver = deliver
        self._on_hanging = on_hanging
        self._memory = SharedMemory(capacity)
        self._devices: list[_Device] = []
        self._numbers = itertools.count(1)
        self._items: dict[int, Item] = {}
        self._device_of: dict[int, _Device] = {}
        self._layouts: dict[Layout, tuple[int, Layout]] = {}
        self._elsewhere: set[int] = set()
        self._waiting: deque[Item] = deque()  # for room, or for a device
        self._dropped: list[int] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Devices are added as they come."""

    def stop(self) -> None:
        for device in self._devices:
            self._loop.remove_reader(device.channel.sock)
            self._loop.remove_writer(device.channel.sock)
            device.channel.close()
        self._devices = []

    def add_device(self, index: int, sock: socket.socket) -> None:
        """Use a device process, at the other end of `sock`."""
        device = _Device(index, sock)
        device.channel.send(messages.HELLO, [self._memory.file])
        with self._lock:
            self._devices.append(device)
            self._send_waiting()
        self._loop.add_reader(sock, self._receive, device)

    def announce(self, items: list[Item]) -> None:
        with self._lock:
            for item in items if self._devices else ():
                device = self._number(item)
                record = messages.ANNOUNCED.pack(item.number, item.key)
                self._send(device, messages.ANNOUNCE + record)

    def submit(self, items: list[Item]) -> None:
        with self._lock:
            self._submit(items)

    def drop(self, item: Item) -> None:
        with self._lock:
            if self._items.pop(item.number, None) is None:
                return
        if not self._dropped:
            self._loop.call_soon(self._send_dropped)
        self._dropped.append(item.number)

    def busy_since(self, limit: float) -> float | None:
        """See Link. A device process that hangs is told to `on_hanging`; this one goes on."""
        now = time.monotonic()
        busy = [device for device in self._devices if device.slots]
        for device in busy:
            if now - device.heard > limit and not device.told_as_hanging:
                device.told_as_hanging = True
                self._on_hanging(device.index)
        return now if busy else None

    # with the lock ----------------------------------------------------------------------------

    def _number(self, item: Item) -> _Device:
        """Give the item a number, if it has none, and a device: the one that it goes to."""
        if not item.number:
            item.number = next(self._numbers)
            least = min(self._devices, key=lambda device: len(device.slots))
            home = self._devices[item.key[0] % len(self._devices)]
            busier = len(home.slots) > len(least.slots) + _MUCH_BUSIER
            self._device_of[item.number] = least if busier else home
            self._items[item.number] = item
        return self._device_of[item.number]

    def _submit(self, items: list[Item]) -> None:
        """Send those that are wanted and that no other front has sent, as far as there is room."""
        self._waiting.extend(item for item in items if item.number not in self._elsewhere)
        self._send_waiting()

    def _send_waiting(self) -> None:
        packets: dict[_Device, list[bytes]] = {}
        while self._waiting and self._devices:
            item = self._waiting[0]
            if item.stage is not Stage.OVER and not self._place(item, packets):
                break
            self._waiting.popleft()
        for device, records in packets.items():
            for packet in messages.joined(messages.ITEMS, records):
                self._send(device, packet)

    def _place(self, item: Item, packets: dict[_Device, list[bytes]]) -> bool:
        """Write the arrays into a slot and add the record; returns False if there is no room."""
        device = self._number(item)
        if item.number in device.slots:  # it was sent meanwhile
            return True
        layout = Layout.of(item.kind, item.inputs)
        # The first of those that are equal has computed its size.
        number, layout = self._layouts.setdefault(layout, (len(self._layouts), layout))
        try:
            offset = self._memory.take(max(layout.size, 4 * self._width))
        except MemoryError:
            error = TooLarge("becomes more data than the server can hand to its device; send it smaller")
            self._loop.call_soon_threadsafe(self._deliver, [item], error, 0.0)
            return True
        if offset is None:
            return False
        for name, view in layout.views(self._memory.view, offset).items():
            view[...] = item.inputs[name]
        if number not in device.layouts:
            device.layouts.add(number)
            self._send(device, messages.layout(number, layout))
        if not device.slots:
            device.heard = time.monotonic()
        device.slots[item.number] = offset
        packets.setdefault(device, []).append(messages.ITEM.pack(item.number, number, offset, item.tag, item.key))
        return True

    def _send(self, device: _Device, packet: bytes) -> None:
        device.channel.send(packet)
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
        by_device: dict[_Device, list[int]] = {}
        with self._lock:
            for number in dropped:
                self._elsewhere.discard(number)
                if (device := self._device_of.get(number)) is None:  # its row came meanwhile
                    continue
                by_device.setdefault(device, []).append(number)
                if number not in device.slots:
                    del self._device_of[number]
            for device, gone in by_device.items():
                for packet in messages.numbers(messages.DROP, gone):
                    self._send(device, packet)

    def _receive(self, device: _Device) -> None:
        try:
            while (received := device.channel.receive()) is not None:
                packet, _ = received
                device.heard = time.monotonic()
                self._read(device, bytes(packet[:1]), packet[1:])
        except EOFError:
            self._lose(device)

    def _read(self, device: _Device, kind: bytes, records: memoryview) -> None:
        if kind in (messages.ROWS, messages.SHARED):
            started, seconds = messages.TIMES.unpack_from(records)
            numbers = messages.read_numbers(records[messages.TIMES.size :])
            shared = kind == messages.SHARED
            self._take_rows(device, numbers, started, 0.0 if shared else seconds)
        elif kind == messages.VECTOR:
            (number,) = messages.NUMBER.unpack_from(records)
            row = np.frombuffer(records[messages.NUMBER.size :], np.float32).copy()
            self._take_vector(number, row)
        elif kind == messages.ELSEWHERE:
            with self._lock:
                self._elsewhere.update(number for number in messages.read_numbers(records) if number in self._items)
        elif kind == messages.YOURS:
            with self._lock:
                numbers = messages.read_numbers(records)
                self._elsewhere.difference_update(numbers)
                self._submit([item for number in numbers if (item := self._items.get(number)) and item.inputs])
        elif kind == messages.FAILED:
            number, error = messages.read_failed(records)
            item = self._take_item(number)
            self._free(device, [number])
            if item is not None:
                self._deliver([item], error, 0.0)
        elif kind == messages.FREE:
            self._free(device, messages.read_numbers(records))

    def _take_item(self, number: int) -> Item | None:
        with self._lock:
            self._elsewhere.discard(number)
            return self._items.pop(number, None)

    def _take_rows(self, device: _Device, numbers: list[int], started: float, seconds: float) -> None:
        items, rows = [], []
        for number in numbers:
            if (item := self._take_item(number)) is not None:
                item.started = started
                items.append(item)
                rows.append(np.ndarray(self._width, np.float32, self._memory.view, device.slots[number]))
        vectors = np.stack(rows) if rows else None
        self._free(device, numbers)
        if vectors is not None:
            self._deliver(items, vectors, seconds)

    def _take_vector(self, number: int, row: Vector) -> None:
        item = self._take_item(number)
        if item is None:
            return
        with self._lock:
            device = self._device_of[number]
            if number in device.slots:  # it was sent before this arrived
                self._send(device, messages.DROP + messages.NUMBER.pack(number))
            else:
                del self._device_of[number]
        self._deliver([item], row[None], 0.0)

    def _free(self, device: _Device, numbers: list[int]) -> None:
        """Their slots are free for what waits."""
        with self._lock:
            for number in numbers:
                self._memory.give_back(device.slots.pop(number))
                self._device_of.pop(number, None)
            self._send_waiting()

    def _lose(self, device: _Device) -> None:
        """A device process has ended: its items go elsewhere."""
        self._loop.remove_reader(device.channel.sock)
        self._loop.remove_writer(device.channel.sock)
        device.channel.close()
        with self._lock:
            self._devices.remove(device)
            for offset in device.slots.values():
                self._memory.give_back(offset)
            lost = [number for number, other in self._device_of.items() if other is device]
            items = [item for number in lost if (item := self._items.pop(number, None))]
            for number in lost:
                del self._device_of[number]
                self._elsewhere.discard(number)
            for item in items:
                item.number = 0
            self._submit([item for item in items if item.inputs])

"""Both ends of the link in one process, so that a test decides the order of events."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from app.errors import ServiceError
from app.processes.fronts import Fronts
from app.processes.remote import RemoteLink
from app.serving.computing import Outcome
from app.serving.item import Item, Stage
from app.serving.vector_cache import VectorCache, digest

WIDTH = 4


def row_of(item: Item) -> list[float]:
    return [float(item.inputs["ids"].sum()), float(len(item.inputs["ids"])), 0.0, 1.0]


class Device:
    """The device's end. It computes what has arrived when it is told to."""

    def __init__(self, cache: int = 0) -> None:
        self.fronts = Fronts(WIDTH, VectorCache(cache))
        self.items: list[Item] = []

    def join(self, link: RemoteLink, index: int) -> socket.socket:
        """Returns this end of the socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fronts.add_front(index, ours)
        link.add_device(theirs)
        return ours

    def read(self) -> list[Item]:
        """All that fronts have sent; returns the items that arrived."""
        arrived: list[Item] = []
        while not self.fronts.empty():
            arrived += self.fronts.get()
        self.items += arrived
        return arrived

    def compute(self, items: list[Item]) -> None:
        for item in items:
            item.started = 1.0
        self.fronts.deliver(items, np.array([row_of(item) for item in items], np.float32), 0.5)


class Front:
    """The front's end, and what it was given."""

    def __init__(self, capacity: int = 65_536) -> None:
        self.got: dict[Item, list[float] | str] = {}
        self.seconds: list[float] = []
        self.link = RemoteLink(capacity, WIDTH, self._take)

    def _take(self, items: list[Item], outcome: Outcome, seconds: float) -> None:
        for at, item in enumerate(items):
            item.stage = Stage.OVER
            self.got[item] = str(outcome) if isinstance(outcome, Exception) else outcome[at].tolist()
        self.seconds.append(seconds)

    @property
    def used(self) -> int:
        return self.link._memory.used


def two_fronts(cache: int = 0) -> tuple[Device, Front, Front]:
    """A device that two fronts have joined."""
    device, one, other = Device(cache), Front(), Front()
    device.join(one.link, 0)
    device.join(other.link, 1)
    return device, one, other


def item_of(text: str) -> Item:
    made = Item("texts", digest("texts", text.encode()), b"", 0.0, stage=Stage.TAKEN)
    made.inputs = {"ids": np.frombuffer(text.encode(), np.uint8).astype(np.int64)}
    return made


async def settle() -> None:
    """Let the loop read its sockets."""
    for _ in range(5):
        await asyncio.sleep(0.001)


def driven(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


@driven
async def test_rows_come_back_to_the_front_that_sent_them() -> None:
    device, fronts = Device(), [Front(), Front()]
    for index, front in enumerate(fronts):
        device.join(front.link, index)
    items = [[item_of(f"text {index} {n}" + "x" * n) for n in range(40)] for index in range(2)]
    for front, own in zip(fronts, items, strict=True):
        front.link.submit(own)
    arrived = device.read()
    assert len(arrived) == 80 and {item.source for item in arrived} == {0, 1}
    device.compute(arrived[::-1])
    await settle()
    for front, own in zip(fronts, items, strict=True):
        assert front.got == {item: row_of(item) for item in own}
        assert front.used == 0


@driven
async def test_an_equal_item_of_another_front_is_computed_once() -> None:
    device, one, other = two_fronts()
    first, second = item_of("equal"), item_of("equal")
    one.link.submit([first])
    device.read()
    other.link.submit([second])
    assert device.read() == []
    device.compute(device.items)
    await settle()
    assert one.got == {first: row_of(first)} and other.got == {second: row_of(second)}
    assert one.seconds == [0.5] and other.seconds == [0.0]
    assert one.used == other.used == 0


@driven
async def test_an_item_that_fails_fails_in_each_front() -> None:
    device, one, other = two_fronts()
    first, second = item_of("equal"), item_of("equal")
    one.link.submit([first])
    other.link.submit([second])
    device.fronts.deliver(device.read(), ServiceError("fails"), 0.5)
    await settle()
    assert one.got == {first: "fails"} and other.got == {second: "fails"}
    assert one.used == other.used == 0


@driven
async def test_a_front_that_gives_up_takes_the_item_from_nobody() -> None:
    for dies in (False, True):
        device, one, other = two_fronts()
        first, second = item_of("equal"), item_of("equal")
        one.link.submit([first])
        arrived = device.read()
        other.link.submit([second])
        if dies:
            one.link.stop()
        else:
            first.stage = Stage.OVER
            one.link.drop(first)
        await settle()
        assert device.read() == [] and arrived[0].stage is not Stage.OVER
        device.compute(arrived)
        await settle()
        assert other.got == {second: row_of(second)} and other.used == 0
        assert one.got == {} and (dies or one.used == 0)


@driven
async def test_a_slot_is_free_only_when_the_device_has_done_with_it() -> None:
    device, front = Device(), Front()
    device.join(front.link, 0)
    item = item_of("left alone")
    front.link.submit([item])
    (arrived,) = device.read()
    arrived.started = 1.0  # the batch runs
    item.stage = Stage.OVER
    front.link.drop(item)
    await settle()
    device.read()
    await settle()
    assert front.used > 0
    device.compute([arrived])
    await settle()
    assert front.used == 0 and front.got == {}


@driven
async def test_an_item_that_waits_and_is_dropped_is_skipped_and_its_slot_is_free() -> None:
    device, front = Device(), Front()
    device.join(front.link, 0)
    item = item_of("left alone")
    front.link.submit([item])
    (arrived,) = device.read()
    item.stage = Stage.OVER
    front.link.drop(item)
    await settle()
    device.read()
    await settle()
    assert arrived.stage is Stage.OVER and front.used == 0


@driven
async def test_an_item_that_was_dropped_in_a_running_batch_and_comes_again_is_answered() -> None:
    device, front = Device(), Front()
    device.join(front.link, 0)
    first, again = item_of("again"), item_of("again")
    front.link.submit([first])
    (arrived,) = device.read()
    arrived.started = 1.0
    first.stage = Stage.OVER
    front.link.drop(first)
    await settle()
    device.read()
    front.link.submit([again])
    device.read()
    assert arrived.stage is not Stage.OVER
    device.compute([arrived])
    await settle()
    assert front.got == {again: row_of(again)} and front.used == 0


@driven
async def test_a_row_that_is_in_the_cache_comes_at_once() -> None:
    device, one, other = two_fronts(10_000)
    first, second = item_of("equal"), item_of("equal")
    one.link.submit([first])
    device.compute(device.read())
    other.link.submit([second])
    assert device.read() == []
    await settle()
    assert other.got == {second: row_of(second)}
    assert one.used == other.used == 0


@driven
async def test_items_wait_for_room_and_for_a_device() -> None:
    device, front = Device(), Front(capacity=1024)
    items = [item_of("x" * 30 + str(n)) for n in range(20)]
    front.link.submit(items)
    device.join(front.link, 0)
    while len(front.got) < 20:
        arrived = device.read()
        assert 0 < len(arrived) < 20 and front.used <= 1024
        device.compute(arrived)
        await settle()
    assert front.got == {item: row_of(item) for item in items} and front.used == 0


@driven
async def test_items_of_a_device_that_ends_go_to_the_next() -> None:
    lost, front = Device(), Front()
    sock = lost.join(front.link, 0)
    sent, dropped = item_of("sent"), item_of("dropped")
    front.link.submit([sent, dropped])
    lost.read()
    dropped.stage = Stage.OVER
    sock.shutdown(socket.SHUT_RDWR)
    await settle()
    device = Device()
    device.join(front.link, 1)
    device.compute(device.read())
    await settle()
    assert front.got == {sent: row_of(sent)} and front.used == 0

"""What stands between preparing and the device: within one process, or to a process of its own (app/processes)."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from app.serving.computing import COMPUTE_TIMEOUT, Computing, Outcome
from app.serving.item import Item
from app.serving.metrics import Metrics
from app.towers import Tower

Deliver = Callable[[list[Item], Outcome, float], None]
"""Takes the items of one kind, their outcome, and how many seconds they took; 0 if they were computed for others."""

OnBroken = Callable[[str], None]
"""Takes the reason why the device cannot go on."""


class Link(Protocol):
    """Hands prepared items to the device. What it was made with is called on the event loop."""

    def stop(self) -> None:
        """End it; what is under way is finished or not."""

    def submit(self, items: list[Item]) -> None:
        """Hand over prepared items, from any thread."""

    def drop(self, item: Item) -> None:
        """Say that nobody wants an item any more. For the event loop."""


Connect = Callable[[Deliver, OnBroken], Link]


class LocalLink:
    """To a device of this process. Made on the event loop."""

    def __init__(
        self,
        towers: Mapping[str, Tower],
        width: int,
        deliver: Deliver,
        on_broken: OnBroken,
        metrics: Metrics,
        *,
        overlap: bool,
        timeout: float = COMPUTE_TIMEOUT,
    ) -> None:
        """For `overlap` and `timeout` see Computing."""
        loop = asyncio.get_running_loop()
        self._arrivals: SimpleQueue[list[Item] | None] = SimpleQueue()
        to_loop = partial(on_loop, loop, deliver), partial(on_loop, loop, on_broken)
        Computing(towers, width, self._arrivals, *to_loop, metrics, overlap=overlap, timeout=timeout)

    def stop(self) -> None:
        self._arrivals.put(None)

    def submit(self, items: list[Item]) -> None:
        self._arrivals.put(items)

    def drop(self, item: Item) -> None:
        """The device sees it by the item's stage."""


def on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    """Let an event loop make a call, from any thread."""
    with suppress(RuntimeError):  # the loop has ended, so nobody waits
        loop.call_soon_threadsafe(call, *arguments)

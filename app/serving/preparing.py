"""From items to rows: how the event loop, the preparing threads and the device work together.

The event loop owns the state of all that waits (see turns.py). It hands items to threads that prepare them. The
threads hand them on to the device, and the results return to the loop. The loop prepares small items itself: waking a
thread takes longer than tokenizing a caption.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

import numpy as np

from app.errors import EngineBroken, Overloaded, ServiceError, Unavailable, describe_unforeseen
from app.processors.picture import PictureProcessor
from app.processors.text import TextPreparer
from app.serving.computing import Outcome, error_for
from app.serving.item import Caller, Item, Job, Stage
from app.serving.link import Connect, on_loop
from app.serving.metrics import KindMetrics, Metrics
from app.serving.turns import Turns, Wanted
from app.serving.vector_cache import VectorCache, digest
from app.towers import CutInputs, Inputs, Tower, Vectors

_log = logging.getLogger(__name__)

# Requests of more bytes or items are hashed off the event loop.
_MANY_BYTES = 500_000
_MANY_ITEMS = 500
# About how many bytes of items are prepared together.
_TOGETHER_BYTES = 2048
# How many items the event loop prepares at once.
_TOGETHER_ON_THE_LOOP = 32
# For so many turns of the event loop it is waited for more that arrives at once.
_MAX_TURNS = 4


Preparer = TextPreparer | PictureProcessor
"""Turns the items of one tower into arrays, on any thread. May raise whatever a library raises."""


class Preparing:
    """Owns the preparing threads, and all that waits. Used on the event loop.

    `on_broken` is called once, with the reason, when the device cannot go on.
    """

    def __init__(
        self,
        *,
        towers: Mapping[str, Tower],
        preparers: Mapping[str, Preparer],
        width: int,
        threads: int,
        connect: Connect,
        cache: VectorCache,
        client_timeout: float,
        metrics: Metrics,
        on_broken: Callable[[str], None],
    ) -> None:
        """`threads` is how many prepare. `connect` makes the link to the device."""
        self._preparers = preparers
        self._width = width
        self._loop = asyncio.get_running_loop()
        self._on_broken = on_broken
        limits = {kind: tower.limits for kind, tower in towers.items()}
        # One thread is always left for texts, since pictures may take long.
        max_preparing = {"images": max(1, threads - 1)}
        self._turns = Turns(limits, max_preparing, cache, client_timeout, lambda item: self._link.drop(item))
        self._preparing: dict[Item, None] = {}
        self._handing_out = self._changed = False
        self._tasks: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._threads = threads
        self._link = connect(self._computed, self.give_up)
        self._metrics = metrics
        self._kind_metrics = {kind: KindMetrics(metrics, kind) for kind in towers}
        metrics.waiting.set_function(lambda: self._turns.waiting)
        for number in range(threads):
            Thread(target=self._work, name=f"prepare-{number}", daemon=True).start()

    def stop(self) -> None:
        """End the threads; what still waits fails with Unavailable."""
        self._stop(Unavailable("the server is shutting down"))

    def give_up(self, message: str) -> None:
        """Fail all that waits and call `on_broken`, once, since the device cannot go on."""
        if self._turns.stopped is None:
            self._stop(EngineBroken(message))
            self._on_broken(message)

    def _stop(self, error: ServiceError) -> None:
        self._turns.stop(error)
        self._link.stop()
        for _ in range(self._threads):
            self._tasks.put(None)

    def watch(self, limit: float) -> None:
        """Give up if a preparation takes more than `limit` s, or jobs wait twice as long without any progress."""
        now = time.monotonic()
        if now - min((item.taken for item in self._preparing), default=now) > limit:
            self.give_up(f"preparing an item has taken more than {limit:g} s; it hangs")
        elif self._turns.jobs and now - self._turns.progress > 2 * limit:
            self.give_up(f"requests have waited for more than {2 * limit:g} s without progress")

    async def vectorize(self, texts: list[bytes], images: list[bytes], caller: Caller) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Texts are UTF-8, images base64. Raises InvalidRequest that names an item at fault, Unavailable, or ClientGone,
        after which nothing more is computed for the caller.
        """
        contents = {"texts": texts, "images": images}
        if len(texts) + len(images) > _MANY_ITEMS or sum(map(len, texts)) + sum(map(len, images)) > _MANY_BYTES:
            wanted = await caller.wait(asyncio.ensure_future(asyncio.to_thread(_wanted, contents)))
        else:
            wanted = _wanted(contents)
        rows = {kind: np.empty((len(items), self._width), np.float32) for kind, items in contents.items()}
        job = Job(rows, caller.arrived, timeline=caller.timeline)
        now = time.monotonic()
        cached, joined = self._turns.add(job, wanted, now)
        if caller.timeline is not None:
            caller.timeline.added, caller.timeline.cached = now, sum(cached.values())
            caller.timeline.wanted = {kind: len(items) for kind, items in contents.items() if items}
        for kind, metrics in self._kind_metrics.items():
            if cached[kind]:
                metrics.cached.inc(cached[kind])
            if joined[kind]:
                metrics.joined.inc(joined[kind])
        if not job.over:
            await self._finish(job, caller)
        if job.error is not None:
            if isinstance(job.error, Overloaded):
                self._metrics.refused.labels("late").inc()
            raise job.error
        return rows["texts"], rows["images"]

    async def _finish(self, job: Job, caller: Caller) -> None:
        """Wait until the job is over, or its caller leaves."""
        future: asyncio.Future[None] = self._loop.create_future()
        job.on_over = lambda: None if future.done() else future.set_result(None)
        self._hand_out_soon()
        try:
            await caller.wait(future)
        finally:
            if not job.over:
                for item in job.items:
                    self._kind_metrics[item.kind].dropped.inc()
                self._metrics.left_seconds.observe(time.monotonic() - job.arrived)
                self._turns.leave(job)
                self._hand_out_soon()

    def _hand_out_soon(self) -> None:
        """Call after each change. What changes in the next few turns of the event loop, which take microseconds, is
        handed out together: that wakes the device once."""
        self._changed = True
        if self._turns.jobs and not self._handing_out:
            self._handing_out = True
            self._loop.call_soon(self._wait_for_calm, _MAX_TURNS)

    def _wait_for_calm(self, turns: int) -> None:
        if self._changed and turns:
            self._changed = False
            self._loop.call_soon(self._wait_for_calm, turns - 1)
        else:
            self._hand_out()

    def _hand_out(self) -> None:
        """Hand items to the threads, or prepare them here."""
        self._handing_out = False
        ready: list[Item] = []
        while items := self._take_together():
            quick = self._preparers[items[0].kind].is_quick(items[0].content)
            if quick and len(ready) + len(items) <= _TOGETHER_ON_THE_LOOP:
                self._prepare(items)
                self._prepared(items)
                ready += items
            else:
                self._preparing.update(dict.fromkeys(items))
                self._tasks.put(items)
        # At the end: the device's thread would only wait for the interpreter while this one goes on.
        self._submit(ready)

    def _submit(self, items: list[Item]) -> None:
        if ready := [item for item in items if item.inputs]:
            self._link.submit(ready)

    def _take_together(self) -> list[Item]:
        """What one thread prepares next: one item, or several quick ones."""
        items: list[Item] = []
        size = 0
        while (item := self._turns.take(time.monotonic(), items[0].kind if items else None)) is not None:
            items.append(item)
            size += len(item.content)
            if size > _TOGETHER_BYTES or not self._preparers[item.kind].is_quick(item.content):
                break
        return items

    def _prepared(self, items: list[Item]) -> None:
        """Items were prepared, or cannot be, or are not wanted any more."""
        now = time.monotonic()
        metrics = self._kind_metrics[items[0].kind]
        for item in items:
            self._preparing.pop(item, None)
            self._turns.prepared(item, now)
            if item.error is not None:
                metrics.count_failed(item.error.cause)
                self._turns.failed(item, item.error, now)
            elif item.inputs:
                metrics.preparing_seconds.observe((item.prepared - item.taken) / len(items))
                if isinstance(item.inputs, CutInputs):
                    self._metrics.texts_cut.inc()

    def _computed(self, items: list[Item], outcome: Outcome, seconds: float) -> None:
        """Rows came, or the error of an item; without `seconds` they were computed for another process."""
        now = time.monotonic()
        metrics = self._kind_metrics[items[0].kind]
        if isinstance(outcome, ServiceError):
            metrics.count_failed(outcome.cause)
            self._turns.failed(items[0], outcome, now)
        else:
            bad = self._turns.computed(items, outcome, seconds, now)
            (metrics.items if seconds else metrics.joined).inc(len(items) - bad)
            if bad:
                metrics.count_failed("not_finite", bad)
            for item in items if seconds else ():
                metrics.waiting_seconds.observe(item.taken - item.added + item.started - item.prepared)
        self._hand_out_soon()

    # on the threads ---------------------------------------------------------------------------

    def _work(self) -> None:
        """What each preparing thread runs."""
        try:
            while (items := self._tasks.get()) is not None:
                self._prepare(items)
                self._submit(items)
                on_loop(self._loop, self._prepared_on_thread, items)
        except BaseException as error:  # if a thread ended unseen, requests would wait for ever
            _log.critical("a preparing thread failed: %s", describe_unforeseen(error))
            message = f"a preparing thread failed ({type(error).__name__}); the server's log says why"
            on_loop(self._loop, self.give_up, message)

    def _prepared_on_thread(self, items: list[Item]) -> None:
        self._prepared(items)
        self._hand_out_soon()

    def _prepare(self, items: list[Item]) -> None:
        """Give each that is still wanted its arrays, or its error."""
        wanted = [item for item in items if item.stage is not Stage.OVER]
        preparer = self._preparers[items[0].kind]
        arrays: list[Inputs] = []
        if len(wanted) > 1:
            with suppress(BaseException):  # also a library's panic; the loop below finds which of them is at fault
                arrays = preparer.many([item.content for item in wanted])
        for at, item in enumerate(wanted):
            try:
                item.inputs = arrays[at] if arrays else preparer(item.content)
                item.prepared = time.monotonic()
            except BaseException as cause:
                item.error = error_for(cause, item.kind, "prepared")


def _wanted(contents: Mapping[str, list[bytes]]) -> list[Wanted]:
    """The distinct items of a request: each is computed once."""
    wanted: dict[bytes, Wanted] = {}
    for kind, items in contents.items():
        for position, content in enumerate(items):
            key = digest(kind, content)
            if key in wanted:
                wanted[key].positions.append(position)
            else:
                wanted[key] = Wanted(kind, key, content, [position])
    return list(wanted.values())

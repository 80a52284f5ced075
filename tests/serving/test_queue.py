"""Whatever happens in whatever order: own rows for each request, nothing left behind, nobody asleep beside work."""

from typing import Any

import numpy as np
from app.serving.queue import Batch, Queue, Wanted
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import EngineBroken, InvalidRequest, OutOfMemory, ServiceError, Unavailable
from app.serving.item import Item, Request, Stage
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits

WIDTH = 2
# Few different items, so that requests share them. The number is the row that an item gets.
CONTENTS = {"texts": [f"text {n}" for n in range(8)], "images": [f"image {n}" for n in range(6)]}
BAD = {"text 6", "image 5"}  # cannot be prepared
FAILING = {"text 7", "image 4"}  # cannot be computed, nor can a batch that holds it
ITEMS = [(kind, content) for kind, contents in CONTENTS.items() for content in contents]


def row(content: str) -> list[float]:
    return [float(content[0] == "t"), float(content.split()[1])]


def key(content: str) -> bytes:
    return content.encode()


def at_fault(wanted: dict[str, list[str]], error: Exception) -> str:
    """The item that the error names by kind and position."""
    assert isinstance(error, ServiceError) and error.parameter is not None and error.position is not None
    return wanted[error.parameter][error.position]


class Worker:
    """A thread of the batcher: asleep until it is woken, then it looks for work before it sleeps again."""

    def __init__(self) -> None:
        self.awake = True
        self.work: Any = None


class Machine(RuleBasedStateMachine):
    @initialize(
        preparing=st.integers(1, 3),
        device=st.integers(1, 2),
        limit=st.integers(1, 4),
        cache=st.sampled_from([0, 1000, 10**6]),
        patience=st.sampled_from([None, 0.05, 0.5]),
        most=st.sampled_from([None, 1, 2]),
    )
    def start(
        self,
        preparing: int,
        device: int,
        limit: int,
        cache: int,
        patience: float | None,
        most: int | None,
    ) -> None:
        self.now = 0.0
        self.queue = Queue(VectorCache(cache))
        for kind in CONTENTS:
            limits = BatchLimits(limit, limit * 10)
            self.queue.add_lane(kind, limits, most if kind == "images" else None)
        for _ in range(100 if patience else 0):
            self.queue._patience.observe(patience or 0.0, left=True)
        self.live: dict[Request, dict[str, list[str]]] = {}
        self.preparing = [Worker() for _ in range(preparing)]
        self.device = [Worker() for _ in range(device)]
        self.launching: Batch | None = None
        self.stopped = False
        self.wake()

    def wake(self) -> None:
        """What the batcher does after each change: one is woken if somebody can go on, and wakes the next."""
        self.now += 0.01
        everybody = self.queue.stopped is not None
        for workers, count in ((self.preparing, self.queue.preparable), (self.device, int(self.queue.launchable))):
            idle = [worker for worker in workers if worker.work is None]
            coming = any(worker.awake for worker in idle)
            for worker in idle if everybody else idle[: 1 if count and not coming else 0]:
                worker.awake = True
        for request in self.queue.take_settled():
            assert request.over and not request.items
            wanted = self.live.pop(request)
            if request.error is None:
                for kind, contents in wanted.items():
                    assert request.rows[kind].tolist() == [row(content) for content in contents]
            elif isinstance(request.error, InvalidRequest):
                assert at_fault(wanted, request.error) in BAD
            elif not isinstance(request.error, Unavailable):
                assert at_fault(wanted, request.error) in FAILING

    # requests

    @rule(contents=st.lists(st.sampled_from(ITEMS), max_size=12))
    def add(self, contents: list[tuple[str, str]]) -> None:
        by_kind = {kind: [content for each, content in contents if each == kind] for kind in CONTENTS}
        rows = {kind: np.full((len(each), WIDTH), np.nan, np.float32) for kind, each in by_kind.items()}
        request = Request(rows, self.now)
        wanted: dict[str, Wanted] = {}
        for kind, each in by_kind.items():
            for position, content in enumerate(each):
                wanted.setdefault(content, Wanted(kind, key(content), key(content), [])).positions.append(position)
        try:
            self.queue.add(request, wanted.values(), self.now)
        except Unavailable:
            assert self.queue.stopped is not None
        else:
            assert self.queue.stopped is None
            self.live[request] = by_kind
        self.wake()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.live)))
        self.queue.leave(request, self.now)
        assert request.over
        del self.live[request]
        self.wake()

    @rule(seconds=st.floats(0.1, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # workers

    def idle(self, workers: list[Worker]) -> list[Worker]:
        return [worker for worker in workers if worker.awake and worker.work is None]

    def busy(self, workers: list[Worker]) -> list[Worker]:
        return [worker for worker in workers if worker.work is not None]

    @precondition(lambda self: self.idle(self.preparing))
    @rule()
    def take(self) -> None:
        worker = self.idle(self.preparing)[0]
        could = self.queue.preparable
        worker.work = self.queue.take(self.now)
        assert (worker.work is not None) == (could > 0)
        worker.awake = worker.work is not None
        if worker.work is not None:
            self.wake()

    @precondition(lambda self: self.busy(self.preparing))
    @rule(data=st.data())
    def finish_preparing(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.busy(self.preparing)))
        item: Item = worker.work
        worker.work = None
        if item.key.decode() in BAD:
            self.queue.not_prepared(item, InvalidRequest("is bad"), self.now)
        else:
            tokens = 1 + len(item.content) % 3
            self.queue.prepared(item, {"input_ids": np.zeros(tokens), "content": item.key}, self.now)  # type: ignore[dict-item]
        self.wake()

    @precondition(lambda self: self.idle(self.device))
    @rule()
    def next_batch(self) -> None:
        worker = self.idle(self.device)[0]
        could = self.queue.launchable
        worker.work = self.queue.next_batch(self.now)
        assert (worker.work is not None) == could
        worker.awake = worker.work is not None
        if worker.work is not None:
            assert self.launching is None, "two batches are launched at once"
            assert worker.work.items, "an empty batch"
            self.launching = worker.work
            self.wake()

    @precondition(lambda self: self.launching is not None)
    @rule()
    def launched(self) -> None:
        assert self.launching is not None
        self.queue.launched(self.launching)
        self.launching = None
        self.wake()

    @precondition(lambda self: self.busy(self.device))
    @rule(data=st.data(), outcome=st.sampled_from(["computed", "computed", "computed", "memory", "failed"]))
    def finish_batch(self, data: st.DataObject, outcome: str) -> None:
        worker = data.draw(st.sampled_from(self.busy(self.device)))
        batch: Batch = worker.work
        worker.work = None
        if self.launching is batch:
            self.launching = None
        contents = [item.key.decode() for item in batch.items]
        if FAILING & set(contents):
            self.queue.not_computed(batch, ServiceError("the batch failed"), self.now)
        elif outcome == "computed" or len(contents) == 1:
            vectors = np.array([row(content) for content in contents], np.float32)
            self.queue.computed(batch, vectors, self.now)
        elif outcome == "memory":
            self.queue.not_computed(batch, OutOfMemory("does not fit"), self.now)
        else:
            self.queue.not_computed(batch, ServiceError("the batch failed"), self.now)
        self.wake()

    # the end of everything

    @rule(broken=st.booleans())
    @precondition(lambda self: len(self.live) > 3)
    def stop(self, broken: bool) -> None:
        self.queue.stop(EngineBroken("broken") if broken else Unavailable("stopped"))
        self.wake()
        assert not self.live and not self.queue.waiting
        assert not self.queue.preparable and not self.queue.launchable

    @invariant()
    def nobody_sleeps_beside_work(self) -> None:
        awake = [worker for worker in self.preparing if worker.awake and worker.work is None]
        asleep = [worker for worker in self.preparing if not worker.awake and worker.work is None]
        assert not (self.queue.preparable and asleep and not awake)
        awake = [worker for worker in self.device if worker.awake and worker.work is None]
        asleep = [worker for worker in self.device if not worker.awake and worker.work is None]
        assert not (self.queue.launchable and asleep and not awake)

    @invariant()
    def counts_are_right(self) -> None:
        queue = self.queue
        assert queue.waiting == sum(request.unfinished for request in self.live)
        for kind, lane in queue._lanes.items():
            mine = [item for item in queue._items.values() if item.kind == kind]
            assert lane.waiting == sum(item.stage is Stage.WAITING for item in mine)
            assert lane.preparing == sum(item.stage is Stage.PREPARING for item in mine)
            ready = {item for item in mine if item.stage is Stage.READY}
            assert set(lane.ready) | {item for part in queue._parts for item in part if item.kind == kind} == ready
            assert all(item.requests for item in mine if item.stage in (Stage.HELD, Stage.WAITING, Stage.READY))
        assert all(queue._parts)

    @invariant()
    def watchdog_is_silent_only_while_something_runs(self) -> None:
        runs = any(worker.work for worker in self.preparing + self.device)
        assert (self.queue.running_for(self.now + 1) > 0) == runs
        assert (self.queue.stalled_for(self.now + 1) > 0) == (bool(self.live) and not runs)

    def teardown(self) -> None:
        """Let every worker go on until nothing can: then nothing waits."""
        if not hasattr(self, "queue"):
            return
        for _ in range(10_000):
            if self.launching is not None:
                self.launched()
            workers = self.preparing + self.device
            if not any(worker.awake or worker.work for worker in workers):
                break
            for worker in workers:
                if worker.work is not None:
                    self.finish(worker)
                elif worker.awake and worker in self.preparing:
                    self.take_with(worker)
                elif worker.awake:
                    self.batch_with(worker)
                self.nobody_sleeps_beside_work()
        assert not self.live, "a request is never answered"
        assert self.queue.waiting == 0 and not self.queue._items and not self.queue._requests
        for lane in self.queue._lanes.values():
            assert not lane.requests and not lane.ready and lane.waiting == lane.preparing == 0
        assert not self.queue._parts and not self.queue._running and not self.queue._preparing

    def take_with(self, worker: Worker) -> None:
        worker.work = self.queue.take(self.now)
        worker.awake = worker.work is not None
        if worker.work is not None:
            self.wake()

    def batch_with(self, worker: Worker) -> None:
        worker.work = self.queue.next_batch(self.now)
        worker.awake = worker.work is not None
        if worker.work is not None:
            self.launching = worker.work
            self.wake()

    def finish(self, worker: Worker) -> None:
        work, worker.work = worker.work, None
        if isinstance(work, Item):
            if work.key.decode() in BAD:
                self.queue.not_prepared(work, InvalidRequest("is bad"), self.now)
            else:
                self.queue.prepared(work, {"input_ids": np.zeros(2)}, self.now)
        else:
            if self.launching is work:
                self.launching = None
            contents = [item.key.decode() for item in work.items]
            if FAILING & set(contents):
                self.queue.not_computed(work, ServiceError("the batch failed"), self.now)
            else:
                self.queue.computed(work, np.array([row(content) for content in contents], np.float32), self.now)
        self.wake()


TestQueue = Machine.TestCase
# Without shrinking, which takes minutes: the steps that are printed tell enough.
TestQueue.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, phases=(Phase.reuse, Phase.generate)
)

"""Whatever happens in whatever order: own rows for each job, nothing left behind, nobody asleep beside work."""

from typing import Any

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import EngineBroken, InvalidRequest, Overloaded, ServiceError, Unavailable
from app.serving.computing import Ready
from app.serving.item import Item, Job, Stage
from app.serving.turns import Turns, Wanted
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits
from tests.support.search import times

WIDTH = 2
# Few different items, so that jobs share them. The number is the row that an item gets.
CONTENTS = {"texts": [f"text {n}" for n in range(8)], "images": [f"image {n}" for n in range(6)]}
BAD = {"text 6", "image 5"}  # cannot be prepared
FAILING = {"text 7", "image 4"}  # cannot be computed, nor can a batch that holds it
ITEMS = [(kind, content) for kind, contents in CONTENTS.items() for content in contents]
CLIENT_TIMEOUT = 4.0


def row(content: str) -> list[float]:
    return [float(content[0] == "t"), float(content.split()[1])]


class Machine(RuleBasedStateMachine):
    """The event loop, which owns the turns; threads that prepare; and the device, which owns what is ready."""

    @initialize(
        limit=st.integers(1, 4),
        cache=st.sampled_from([0, 1000, 10**6]),
        max_preparing=st.sampled_from([None, 1, 2]),
        overlap=st.integers(1, 2),
    )
    def start(self, limit: int, cache: int, max_preparing: int | None, overlap: int) -> None:
        self.now = 0.0
        limits = {kind: BatchLimits(limit, limit * 10) for kind in CONTENTS}
        self.turns = Turns(
            limits, {"images": max_preparing} if max_preparing else {}, VectorCache(cache), CLIENT_TIMEOUT
        )
        self.ready = Ready(limits)
        self.limit, self.overlap = limit, overlap
        self.live: dict[Job, dict[str, list[str]]] = {}
        self.preparing: list[Item] = []
        self.prepared: list[Item] = []
        self.computing: list[list[Item]] = []
        self.delivered: list[tuple[list[Item], np.ndarray | ServiceError]] = []

    def over(self, job: Job) -> None:
        assert job.over and not job.items
        wanted = self.live.pop(job)
        if job.error is None:
            for kind, contents in wanted.items():
                assert job.rows[kind].tolist() == [row(content) for content in contents]
        elif isinstance(job.error, Unavailable):
            stopped = self.turns.stopped is not None
            assert stopped or (isinstance(job.error, Overloaded) and self.now - job.arrived > CLIENT_TIMEOUT)
        else:
            at_fault = BAD if isinstance(job.error, InvalidRequest) else FAILING
            assert job.error.parameter is not None and job.error.position is not None
            assert wanted[job.error.parameter][job.error.position] in at_fault

    # jobs

    @rule(contents=st.lists(st.sampled_from(ITEMS), max_size=12))
    def add(self, contents: list[tuple[str, str]]) -> None:
        self.now += 0.01
        by_kind = {kind: [content for each, content in contents if each == kind] for kind in CONTENTS}
        rows = {kind: np.full((len(each), WIDTH), np.nan, np.float32) for kind, each in by_kind.items()}
        job = Job(rows, self.now)
        job.on_over = lambda: self.over(job)
        wanted: dict[str, Wanted] = {}
        for kind, each in by_kind.items():
            for position, content in enumerate(each):
                key = content.encode()
                wanted.setdefault(content, Wanted(kind, key, key, [])).positions.append(position)
        self.live[job] = by_kind
        try:
            self.turns.add(job, wanted.values(), self.now)
        except Unavailable:
            assert self.turns.stopped is not None
            del self.live[job]
        else:
            assert self.turns.stopped is None

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.live)))
        del self.live[job]
        self.turns.leave(job)
        assert job.over

    @rule(seconds=st.floats(0.1, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # threads and device

    @rule()
    def take(self) -> None:
        if (item := self.turns.take(self.now)) is not None:
            assert item.stage is Stage.TAKEN and item.jobs
            self.preparing.append(item)

    @precondition(lambda self: self.preparing)
    @rule(data=st.data())
    def prepare(self, data: st.DataObject) -> None:
        """A thread hands a good item to the device at once; the loop hears of it later."""
        item = data.draw(st.sampled_from(self.preparing))
        self.preparing.remove(item)
        self.prepared.append(item)
        if item.stage is not Stage.OVER and item.key.decode() not in BAD:
            item.inputs = {"input_ids": np.zeros(1 + len(item.key) % 3)}
            self.ready.add([item])

    @precondition(lambda self: self.prepared)
    @rule(data=st.data())
    def hear_of_prepared(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.prepared))
        self.prepared.remove(item)
        self.turns.prepared(item, self.now)
        if not item.inputs and item.key.decode() in BAD:
            self.turns.failed(item, InvalidRequest("is bad"), self.now)

    @precondition(lambda self: len(self.computing) < self.overlap)
    @rule()
    def begin(self) -> None:
        if batch := self.ready.next_batch():
            assert len({item.kind for item in batch}) == 1 and len(batch) <= self.limit
            self.computing.append(batch)

    @precondition(lambda self: self.computing)
    @rule(data=st.data(), succeeds=st.booleans())
    def finish(self, data: st.DataObject, succeeds: bool) -> None:
        batch = data.draw(st.sampled_from(self.computing))
        self.computing.remove(batch)
        contents = [item.key.decode() for item in batch]
        if (FAILING & set(contents) or not succeeds) and len(batch) > 1:
            middle = (len(batch) + 1) // 2
            self.computing += [batch[:middle], batch[middle:]]
        elif FAILING & set(contents):
            self.delivered.append((batch, ServiceError("could not be computed")))
        else:
            self.delivered.append((batch, np.array([row(content) for content in contents], np.float32)))

    @precondition(lambda self: self.delivered)
    @rule()
    def hear_of_computed(self) -> None:
        batch, outcome = self.delivered.pop(0)
        if isinstance(outcome, ServiceError):
            self.turns.failed(batch[0], outcome, self.now)
        else:
            self.turns.computed(batch, outcome, 0.01, self.now)

    # the end of everything

    @rule(broken=st.booleans())
    @precondition(lambda self: len(self.live) > 3)
    def stop(self, broken: bool) -> None:
        self.turns.stop(EngineBroken("broken") if broken else Unavailable("stopped"))
        assert not self.live and not self.turns.waiting and self.turns.take(self.now) is None

    @invariant()
    def everything_is_counted(self) -> None:
        if not hasattr(self, "turns"):
            return
        assert self.turns.waiting == sum(job.unfinished for job in self.live)
        assert set(self.turns.jobs) == set(self.live)
        items: set[Item] = {item for job in self.live for item in job.items}
        assert set(self.turns._items.values()) == items
        for kind, lane in self.turns._lanes.items():
            mine = [item for item in items if item.kind == kind]
            assert lane.waiting == sum(item.stage is Stage.WAITING for item in mine)
            assert lane.ahead == sum(item.stage is Stage.TAKEN for item in mine)
            assert lane.preparing == sum(item.kind == kind for item in self.preparing + self.prepared)
            assert {job for item in mine for job in item.jobs} <= lane.jobs <= set(self.live)

    def teardown(self) -> None:
        """Let everybody go on until nothing can: then nothing waits."""
        if not hasattr(self, "turns"):
            return
        busy = True
        while busy:
            busy = False
            while (item := self.turns.take(self.now)) is not None:
                self.preparing.append(item)
                busy = True
            while self.preparing:
                self.prepare(_First())  # type: ignore[arg-type]
                busy = True
            while self.prepared:
                self.hear_of_prepared(_First())  # type: ignore[arg-type]
                busy = True
            if not self.computing:
                self.begin()
            while self.computing:
                self.finish(_First(), True)  # type: ignore[arg-type]
                busy = True
            while self.delivered:
                self.hear_of_computed()
                busy = True
        assert not self.live, "a job is never answered"
        assert self.turns.waiting == 0 and not self.turns._items and not self.turns.jobs and self.ready.is_empty
        for lane in self.turns._lanes.values():
            assert not lane.jobs and not lane.backlogs and not lane.begun
            assert lane.waiting == lane.ahead == lane.preparing == 0


class _First:
    """Draws the first, where nothing is to be chosen any more."""

    def draw(self, strategy: Any) -> Any:
        return strategy.elements[0]


TestTurns = Machine.TestCase
# Without shrinking, which takes minutes: the steps that are printed tell enough.
TestTurns.settings = settings(max_examples=times(100), stateful_step_count=50, phases=(Phase.reuse, Phase.generate))

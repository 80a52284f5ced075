"""Clients who leave before the queue reaches them get most of what the server can give, in simulated time."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from app.serving.queue import Batch, Queue, Wanted

from app.serving.item import Item, Request
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits

COMPUTE = {"texts": 0.01, "images": 0.07}
PREPARE = {"texts": 0.0002, "images": 0.005}


@dataclass
class Result:
    """Answers, and how long each had been waited for, by kind of client."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    order: list[int] = field(default_factory=list)

    def answered(self) -> int:
        return sum(map(len, self.waits.values()))


class Simulation:
    """Clients in a closed loop around the queue, with two threads that prepare and one device."""

    def __init__(self, batch: int = 1) -> None:
        self.queue = Queue(VectorCache(0))
        for kind in COMPUTE:
            self.queue.add_lane(kind, BatchLimits(batch, batch))
        self.now = 0.0
        self.result = Result()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._waiting: dict[Request, Callable[[], None]] = {}
        self._preparing = self._computing = 0

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def client(
        self,
        name: str,
        patience: float,
        items: dict[str, int],
        start: float = 0.0,
        pause: float = 0.0,
        patient_until: float = 0.0,
    ) -> None:
        """Sends a request with so many items of each kind, again and again; leaves after `patience` seconds."""

        def send() -> None:
            number = next(self._numbers)
            wanted = [
                Wanted(kind, f"{kind} {number} {n}".encode(), b"", [n])
                for kind, count in items.items()
                for n in range(count)
            ]
            rows = {kind: np.empty((count, 1), np.float32) for kind, count in items.items()}
            request = Request(rows, self.now)

            def answered() -> None:
                assert request.error is None
                self.result.waits.setdefault(name, []).append(self.now - request.arrived)
                self.result.order.append(number)
                self.at(self.now + pause, send)

            def leave() -> None:
                if request in self._waiting:
                    del self._waiting[request]
                    self.queue.leave(request, self.now)
                    self.result.left[name] += 1
                    send()

            self._waiting[request] = answered
            self.queue.add(request, wanted, self.now)
            self.at(self.now + (patience if self.now >= patient_until else 1000.0), leave)

        self.at(start, send)

    def run(self, seconds: float) -> Result:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._work()
        self.now = end
        return self.result

    def _work(self) -> None:
        while self._preparing < 2 and (item := self.queue.take(self.now)) is not None:
            self._preparing += 1
            self.at(self.now + PREPARE[item.kind], lambda item=item: self._prepared(item))  # type: ignore[misc]
        if not self._computing and (batch := self.queue.next_batch(self.now)) is not None:
            self._computing = 1
            self.at(self.now + COMPUTE[batch.kind] * len(batch.items), lambda: self._computed(batch))

    def _prepared(self, item: Item) -> None:
        self._preparing -= 1
        self.queue.prepared(item, {}, self.now)

    def _computed(self, batch: Batch) -> None:
        self._computing = 0
        self.queue.computed(batch, np.zeros((len(batch.items), 1), np.float32), self.now)
        for request in self.queue.take_settled():
            self._waiting.pop(request)()


BODIES = {"pictures": {"images": 1}, "texts": {"texts": 7}, "both": {"images": 1, "texts": 1}, "many": {"images": 3}}


def answers(clients: int, patience: float, items: dict[str, int], batch: int) -> float:
    simulation = Simulation(batch)
    for n in range(clients):
        simulation.client("client", patience, items, start=n * 0.003)
    return simulation.run(40).answered()


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("clients, patience", [(24, 1.0), (48, 2.0), (16, 1.0)])
def test_most_answers_reach_clients_of_any_patience(clients: int, patience: float, batch: int, body: str) -> None:
    items = BODIES[body]
    assert answers(clients, patience, items, batch) >= 0.8 * answers(clients, 1000.0, items, batch)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("clients, patience", [(24, 1.0), (48, 2.0), (16, 1.0)])
def test_clients_who_lose_their_patience_are_soon_known(clients: int, patience: float, body: str) -> None:
    simulation = Simulation()
    for n in range(clients):
        simulation.client("client", patience, BODIES[body], start=n * 0.003, patient_until=100.0)
    patient = simulation.run(100).answered()
    before = simulation.run(3).answered()
    assert simulation.run(10).answered() - before >= 0.8 * patient * 10 / 100


def test_while_the_queue_is_short_the_order_stays() -> None:
    """Also where some have left before."""
    simulation = Simulation()
    for n in range(9):  # a queue of 0.63 s
        simulation.client("client", 1.0, {"images": 1}, start=n * 0.003)
    for _ in range(10):
        simulation.queue._patience.observe(1.0, left=True)
    result = simulation.run(30)
    assert result.order == sorted(result.order)
    assert not result.left


def test_patient_clients_are_not_starved_by_impatient_ones() -> None:
    simulation = Simulation()
    for n in range(24):
        simulation.client("impatient", 1.0, {"images": 1}, start=n * 0.003)
    for n in range(8):
        simulation.client("patient", 60.0, {"images": 1}, start=n * 0.004)
    result = simulation.run(60)
    assert result.answered() > 0.8 * 60 / COMPUTE["images"]
    assert not result.left["patient"]
    assert len(result.waits["patient"]) > 0.2 * result.answered()


def test_a_query_beside_an_import_whose_clients_leave() -> None:
    simulation = Simulation()
    for n in range(48):
        simulation.client("import", 2.0, {"images": 1}, start=n * 0.003)
    simulation.client("query", 2.0, {"texts": 1}, pause=0.1)
    result = simulation.run(30)
    assert not result.left["query"]
    assert max(result.waits["query"]) < 2 * COMPUTE["images"]


def test_some_who_leave_at_random_change_nothing() -> None:
    """A tenth of the clients gives up early; the others are served in order."""
    simulation = Simulation()
    for n in range(20):
        simulation.client("client", 50.0, {"images": 1}, start=n * 0.003)
    for n in range(2):
        simulation.client("hasty", 0.2 + n / 3, {"images": 1}, start=n * 0.004)
    result = simulation.run(60)
    assert not result.left["client"]
    assert max(result.waits["client"]) < 2 * 22 * COMPUTE["images"]

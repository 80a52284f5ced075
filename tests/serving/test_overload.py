"""Clients who leave before the queue reaches them get most of what the server can give, in simulated time."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.errors import Overloaded
from app.serving.computing import Ready
from app.serving.item import Item, Job
from app.serving.turns import Turns, Wanted
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits

COMPUTE = {"texts": 0.01, "images": 0.07}
PREPARE = {"texts": 0.0002, "images": 0.005}


@dataclass
class Result:
    """Answers, and how long each had been waited for, by kind of client."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    order: list[int] = field(default_factory=list)

    def answered(self) -> int:
        return sum(map(len, self.waits.values()))


class Simulation:
    """Clients in a closed loop around the turns, with two threads that prepare and one device."""

    def __init__(self, batch: int = 1, client_timeout: float = 50.0) -> None:
        limits = {kind: BatchLimits(batch, batch) for kind in COMPUTE}
        self.turns = Turns(limits, {"images": 2}, VectorCache(0), client_timeout)
        self.ready = Ready(limits)
        self.now = 0.0
        self.result = Result()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._preparing = self._computing = 0

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def client(
        self, name: str, patience: float, items: dict[str, int], start: float = 0.0, pause: float = 0.0
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
            job = Job(rows, self.now)

            def over() -> None:
                if job.error is None:
                    self.result.waits.setdefault(name, []).append(self.now - job.arrived)
                    self.result.order.append(number)
                    self.at(self.now + pause, send)
                else:
                    assert isinstance(job.error, Overloaded)
                    self.result.refused[name] += 1
                    self.at(self.now + 0.05, send)

            def leave() -> None:
                if not job.over:
                    self.turns.leave(job)
                    self.result.left[name] += 1
                    send()

            job.on_over = over
            self.turns.add(job, wanted, self.now)
            self.at(self.now + patience, leave)

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
        while self._preparing < 2 and (item := self.turns.take(self.now)) is not None:
            self._preparing += 1
            self.at(self.now + PREPARE[item.kind], lambda item=item: self._prepared(item))  # type: ignore[misc]
        if not self._computing and (batch := self.ready.next_batch()):
            self._computing = 1
            seconds = COMPUTE[batch[0].kind] * len(batch)
            self.at(self.now + seconds, lambda: self._computed(batch, seconds))

    def _prepared(self, item: Item) -> None:
        self._preparing -= 1
        self.turns.prepared(item, self.now)
        self.ready.add([item])

    def _computed(self, batch: list[Item], seconds: float) -> None:
        self._computing = 0
        self.turns.computed(batch, np.zeros((len(batch), 1), np.float32), seconds, self.now)


BODIES = {"pictures": {"images": 1}, "texts": {"texts": 7}, "both": {"images": 1, "texts": 1}, "many": {"images": 3}}


def answers(clients: int, patience: float, items: dict[str, int], batch: int, client_timeout: float) -> float:
    simulation = Simulation(batch, client_timeout)
    for n in range(clients):
        simulation.client("client", patience, items, start=n * 0.003)
    return simulation.run(40).answered()


# Of what patient clients get. Where a request has a picture and a text, the device computes texts whose pictures come
# too late.
GOODPUT = {"pictures": 0.95, "texts": 0.85, "many": 0.95, "both": 0.6}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "clients, patience, batch", [(24, 1.0, 1), (48, 2.0, 1), (48, 2.0, 2), (16, 1.0, 1), (120, 5.0, 4), (80, 5.0, 2)]
)
def test_most_answers_reach_clients_who_leave_after_client_timeout(
    clients: int, patience: float, batch: int, body: str
) -> None:
    items = BODIES[body]
    patient = answers(clients, 1000.0, items, batch, 50.0)
    assert answers(clients, patience, items, batch, patience) >= GOODPUT[body] * patient


def test_while_the_queue_is_short_the_order_stays() -> None:
    simulation = Simulation(client_timeout=1.0)
    for n in range(9):  # a queue of 0.63 s
        simulation.client("client", 1.0, {"images": 1}, start=n * 0.003)
    result = simulation.run(30)
    assert result.order == sorted(result.order)
    assert not result.left and not result.refused


def test_clients_who_wait_beyond_client_timeout_are_answered_or_told_so() -> None:
    simulation = Simulation(client_timeout=1.0)
    for n in range(32):
        simulation.client("patient", 60.0, {"images": 1}, start=n * 0.004)
    result = simulation.run(60)
    assert not result.left, "somebody waited for a minute"
    assert result.refused["patient"] and max(result.waits["patient"]) < 1.5
    assert result.answered() > 0.9 * 60 / COMPUTE["images"]


def test_a_request_too_large_for_the_time_is_answered_where_nobody_else_waits() -> None:
    simulation = Simulation(client_timeout=1.0)
    simulation.client("script", 60.0, {"images": 100})
    result = simulation.run(30)
    assert len(result.waits["script"]) == 4 and not result.refused


def test_a_query_beside_an_import_whose_clients_leave() -> None:
    simulation = Simulation(client_timeout=2.0)
    for n in range(48):
        simulation.client("import", 2.0, {"images": 1}, start=n * 0.003)
    simulation.client("query", 2.0, {"texts": 1}, pause=0.1)
    result = simulation.run(30)
    assert not result.left["query"] and not result.refused["query"]
    assert max(result.waits["query"]) < 2 * COMPUTE["images"]


def test_who_leaves_changes_nothing_for_the_others() -> None:
    """Some clients give up early; the others are served in order."""
    simulation = Simulation()
    for n in range(20):
        simulation.client("client", 50.0, {"images": 1}, start=n * 0.003)
    for n in range(2):
        simulation.client("hasty", 0.2 + n / 3, {"images": 1}, start=n * 0.004)
    result = simulation.run(60)
    assert not result.left["client"]
    assert max(result.waits["client"]) < 2 * 22 * COMPUTE["images"]

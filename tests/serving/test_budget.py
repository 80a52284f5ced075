"""How large the budget is, who waits for it, and that nothing of it is lost when clients leave while they wait."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.errors import BodyTooLarge, Overloaded, TooLarge
from app.serving.budget import MIB, Budget, Limits, limits_for
from app.serving.item import Caller
from app.settings import Settings
from tests.support.search import times

SMALL = Limits(
    request_bytes=1000 * 1024,
    max_body=300 * 1024,
    max_items=100,
    item_bytes=100,
    picture_bytes=32 * MIB,
    kept_bytes=0,
)


def waiting(budget: Budget) -> int:
    return sum(pool.waiting for pool in (budget.beginnings, budget.bodies, budget.items, budget.pictures))


@given(free=st.integers(0, 2**40), width=st.integers(1, 8192), threads=st.integers(1, 256))
def test_the_limits_fit_into_what_is_free(free: int, width: int, threads: int) -> None:
    limits = limits_for(Settings(), free, width, threads)
    assert limits.request_bytes + limits.picture_bytes + limits.kept_bytes <= 0.8 * max(free, 64 * MIB)
    assert limits.max_items >= 1
    largest = limits.max_body + limits.max_items * limits.item_bytes
    assert 0 < largest <= limits.request_bytes / 2


def test_announced_bytes_cost_the_others_nothing() -> None:
    async def check() -> None:
        budget = Budget(SMALL, 0)
        for _ in range(3):
            budget.admit(Caller(), 300 * 1024)
        last = budget.admit(Caller())
        assert budget.used()["requests"] == 0
        await last.take_body(300 * 1024)

    asyncio.run(check())


def test_a_client_that_sends_less_than_it_announced_holds_no_more_than_a_beginning() -> None:
    """Those who send all of theirs are answered beside it."""

    async def check() -> None:
        budget = Budget(SMALL, 0)
        for _ in range(3):
            await budget.admit(Caller(), SMALL.max_body).take_body(1)
        for _ in range(20):
            honest = budget.admit(Caller(), SMALL.max_body)
            await honest.take_body(SMALL.max_body)
            honest.end_body()
            await honest.take_items(100)
            honest.release()
        assert budget.used()["requests"] == 3 * budget.beginning

    asyncio.run(check())


def test_what_can_never_fit_is_refused_at_once_and_counted() -> None:
    causes: list[str] = []
    budget = Budget(SMALL, 20, causes.append)

    async def check() -> None:
        with pytest.raises(BodyTooLarge):
            budget.admit(Caller(), SMALL.max_body + 1)
        admission = budget.admit(Caller())
        await admission.take_body(SMALL.max_body)
        with pytest.raises(BodyTooLarge):
            await admission.take_body(1)
        with pytest.raises(TooLarge, match="101 items"):
            await admission.take_items(101)
        admission.release()

    asyncio.run(check())
    with pytest.raises(TooLarge, match="send it smaller"), budget.preparing(33 * MIB):
        pass
    assert causes == ["too_large"] * 4
    assert set(budget.used().values()) == {0}


def test_who_waits_for_too_long_is_refused_by_cause() -> None:
    causes: list[str] = []

    async def check() -> None:
        budget = Budget(SMALL, 0.05, causes.append)
        first, second = budget.admit(Caller()), budget.admit(Caller())
        await first.take_body(SMALL.max_body)
        with pytest.raises(Overloaded, match="no room for more requests"):
            await second.take_body(SMALL.max_body)
        first.release()
        second.release()
        assert set(budget.used().values()) == {0} and not waiting(budget)

    asyncio.run(check())
    assert causes == ["requests"]


def test_a_query_passes_a_full_budget() -> None:
    async def check() -> None:
        budget = Budget(SMALL, 0)
        full = False
        for _ in range(6):
            admission = budget.admit(Caller())
            try:
                for _ in range(4):
                    await admission.take_body(64 * 1024)
            except Overloaded:
                full = True
        assert full
        query = budget.admit(Caller(), 2000)
        await query.take_body(2000)
        await query.take_items(1)

    asyncio.run(check())


@hypothesis_settings(max_examples=times(15))
@given(seed=st.integers(0, 2**32))
def test_clients_that_leave_while_they_wait_cost_nobody_a_wake_up(seed: int) -> None:
    """Bodies that grow side by side, of which any leaves at any moment: the others are all read."""
    rng = random.Random(seed)
    budget = Budget(SMALL, 30)

    async def client(size: int) -> None:
        admission = budget.admit(Caller(), size)
        try:
            while size > 0:
                await admission.take_body(min(size, 50_000))
                size -= 50_000
                await asyncio.sleep(0)
            await admission.take_items(rng.randint(1, 60))
            await asyncio.sleep(0)
        finally:
            admission.release()

    async def check() -> None:
        tasks = [asyncio.create_task(client(rng.choice((500, 30_000, 200_000, 300_000)))) for _ in range(60)]
        leaving = rng.sample(tasks, 20)
        for task in leaving:
            for _ in range(rng.randint(0, 5)):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(25):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            assert result is None or (task in leaving and isinstance(result, asyncio.CancelledError))

    asyncio.run(check())
    assert set(budget.used().values()) == {0} and not waiting(budget)


def test_threads_that_prepare_take_turns() -> None:
    budget = Budget(SMALL, 0)
    lock, now, most = threading.Lock(), 0, 0

    def prepare(size: int) -> None:
        nonlocal now, most
        with budget.preparing(size):
            with lock:
                now += size
                most = max(most, now)
            time.sleep(0.001)
            with lock:
                now -= size

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(prepare, [1 * MIB, 20 * MIB, 9 * MIB, 28 * MIB] * 25))
    assert most <= SMALL.picture_bytes
    assert budget.used()["pictures"] == waiting(budget) == 0

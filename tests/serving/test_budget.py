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
from app.settings import Settings
from tests.support.search import times

SMALL = Limits(
    body_bytes=1000 * 1024,
    most_body=400 * 1024,
    items=100,
    answer_bytes=10_000,
    bytes_per_answer=100,
    picture_bytes=32 * MIB,
    kept_bytes=0,
)


@given(free=st.integers(0, 2**40), width=st.integers(1, 8192), threads=st.integers(1, 256))
def test_the_limits_fit_into_what_is_free(free: int, width: int, threads: int) -> None:
    limits = limits_for(Settings(), free, width, threads)
    used = limits.body_bytes + limits.answer_bytes + limits.picture_bytes + limits.kept_bytes
    assert used <= 0.8 * max(free, 64 * MIB)
    assert 0 < limits.most_body <= limits.body_bytes / 2
    assert limits.items >= 1 and limits.items * limits.bytes_per_answer <= max(limits.answer_bytes, 30 * width)


def test_settings_override_what_follows_from_the_memory() -> None:
    chosen = {"max_waiting_bytes": 10 * MIB, "max_waiting_items": 7, "max_answer_bytes": MIB}
    limits = limits_for(Settings(**chosen, max_picture_bytes=3 * MIB), 2**30, 512, 2)
    assert (limits.body_bytes, limits.items) == (10 * MIB, 7)
    assert (limits.answer_bytes, limits.picture_bytes) == (MIB, 3 * MIB)


def test_announced_bytes_cost_the_others_nothing() -> None:
    async def check() -> None:
        budget = Budget(SMALL, 0)
        with budget.admit(400 * 1024), budget.admit(400 * 1024), budget.admit(400 * 1024), budget.admit() as last:
            assert budget.used()["bodies"] == 0
            await last.grow_body(400 * 1024)

    asyncio.run(check())


def test_what_can_never_fit_is_refused_at_once_and_counted() -> None:
    causes: list[str] = []
    budget = Budget(SMALL, 20, causes.append)

    async def check() -> None:
        with pytest.raises(BodyTooLarge), budget.admit(SMALL.most_body + 1):
            pass
        with budget.admit() as admission:
            await admission.grow_body(SMALL.most_body)
            with pytest.raises(BodyTooLarge):
                await admission.grow_body(1)
            with pytest.raises(TooLarge, match="101 items"):
                await admission.take_items(101)

    asyncio.run(check())
    with pytest.raises(TooLarge, match="send it smaller"), budget.preparing(33 * MIB):
        pass
    assert causes == ["too_large"] * 4
    assert set(budget.used().values()) == {0}


def test_who_waits_for_too_long_is_refused_by_cause() -> None:
    causes: list[str] = []

    async def check() -> None:
        budget = Budget(SMALL, 0.05, causes.append)
        with budget.admit() as first, budget.admit() as second:
            await first.take_items(budget.most_items)
            with pytest.raises(Overloaded, match="items"):
                await second.take_items(50)
        assert set(budget.used().values()) == set(budget.waiting().values()) == {0}

    asyncio.run(check())
    assert causes == ["items"]


def test_a_query_passes_a_full_budget() -> None:
    async def check() -> None:
        budget = Budget(SMALL, 0)
        imports = [budget.admit() for _ in range(5)]
        admissions = [each.__enter__() for each in imports]
        full = False
        for admission in admissions:
            try:
                for _ in range(6):
                    await admission.grow_body(64 * 1024)
            except Overloaded:
                full = True
        assert full
        with budget.admit(2000) as query:
            await query.grow_body(2000)
        for each in imports:
            each.__exit__(None, None, None)

    asyncio.run(check())


@hypothesis_settings(max_examples=times(15), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_clients_that_leave_while_they_wait_cost_nobody_a_wake_up(seed: int) -> None:
    """Bodies that grow side by side, of which any leaves at any moment: the others are all read."""
    rng = random.Random(seed)
    budget = Budget(SMALL, 30)

    async def client(size: int) -> None:
        with budget.admit(size) as admission:
            while size > 0:
                await admission.grow_body(min(size, 50_000))
                size -= 50_000
                await asyncio.sleep(0)
            count = rng.randint(1, 60)
            await admission.take_items(count)
            await asyncio.sleep(0)

    async def check() -> None:
        tasks = [asyncio.create_task(client(rng.choice((500, 30_000, 200_000, 400_000)))) for _ in range(60)]
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
    assert set(budget.used().values()) == set(budget.waiting().values()) == {0}


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
    assert budget.used()["pictures"] == budget.waiting()["pictures"] == 0

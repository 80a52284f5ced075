"""A full server, seen from the wire: what finds no room waits, and is refused only after a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.engine import FakeSession, HeldSession, fake_model
from tests.support.load import BATCH, ask, wait_until
from tests.support.server import RunningApp

RunApp = Callable[..., RunningApp]


def test_what_finds_no_room_in_time_is_refused(run_app: RunApp) -> None:
    """With the least memory there is room for some of these requests."""
    engine = HeldSession()
    running = run_app(fake_model(engine), max_memory=1, client_timeout=1, **BATCH)
    large = "x" * 6_000_000
    with ThreadPoolExecutor(12) as pool:
        first = [pool.submit(ask, running.url, [f"{large} {i}"]) for i in range(4)]
        wait_until(lambda: any(each.done() for each in first))
        refused = next(each.result() for each in first if each.done())
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert "no room for more requests" in refused.json()["error"]
        engine.go_on.set()
        statuses = [each.result().status_code for each in first]
        assert set(statuses) == {200, 503}
        assert running.metric('clip_requests_refused_total{cause="requests"}') == statuses.count(503)
    assert ask(running.url, ["later"]).status_code == 200
    assert ask(running.url, ["a"] * 10_001).status_code == 413
    assert running.metric('clip_requests_refused_total{cause="too_large"}') == 1
    assert set(running.used().values()) == {0}


def test_what_finds_no_room_waits_for_it(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession(0.01)), max_memory=1, **BATCH)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda i: ask(running.url, ["x" * 900_000 + str(i)]), range(40)))
    assert [answer.json()["textVectors"][0][0] for answer in answers] == list(range(40))
    assert set(running.used().values()) == {0}

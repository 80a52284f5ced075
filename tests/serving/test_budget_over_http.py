"""A full server, seen from the wire: what finds no room waits, and is refused only after a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.engine import FakeSession, HeldSession, fake_model
from tests.support.load import BATCH, ask, wait_until
from tests.support.server import RunningApp

RunApp = Callable[..., RunningApp]


def test_without_a_time_to_wait_what_finds_no_room_is_refused_at_once(run_app: RunApp) -> None:
    engine = HeldSession()
    running = run_app(fake_model(engine), max_waiting_items=10, room_timeout=0, **BATCH)
    with ThreadPoolExecutor(12) as pool:
        first = [pool.submit(ask, running.url, [f"text {i}"]) for i in range(10)]
        wait_until(lambda: running.metric("clip_items_waiting") == 10)
        refused = ask(running.url, ["one more"])
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert "items" in refused.json()["error"]
        engine.go_on.set()
        assert [answer.result().status_code for answer in first] == [200] * 10
    assert running.metric('clip_requests_refused_total{cause="items"}') == 1
    assert ask(running.url, ["later"]).status_code == 200
    assert ask(running.url, [f"text {i}" for i in range(11)]).status_code == 413
    assert running.metric('clip_requests_refused_total{cause="too_large"}') == 1


def test_what_finds_no_room_waits_for_it(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession(0.01)), max_waiting_items=4, max_waiting_bytes=400_000, **BATCH)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda i: ask(running.url, ["x" * 90_000 + str(i)]), range(40)))
    assert [answer.json()["textVectors"][0][0] for answer in answers] == list(range(40))
    assert set(running.used().values()) == {0}

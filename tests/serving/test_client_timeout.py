"""CLIENT_TIMEOUT over HTTP: who waits beyond it while others come is told so."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.engine import FakeSession, fake_model
from tests.support.load import ask
from tests.support.server import RunningApp


def test_who_cannot_be_answered_in_time_is_told_so_and_the_newest_are_answered(
    run_app: Callable[..., RunningApp],
) -> None:
    running = run_app(fake_model(FakeSession(0.1)), max_batch=1, client_timeout=1, vector_cache_bytes=0)
    ends = time.monotonic() + 5
    lock, numbers, outcomes = threading.Lock(), iter(range(10**6)), list[tuple[int, float]]()

    def client(_: int) -> None:
        while time.monotonic() < ends:
            with lock:
                number = next(numbers)
            started = time.monotonic()
            answer = ask(running.url, [f"text {number}"])
            with lock:
                outcomes.append((answer.status_code, time.monotonic() - started))
            assert answer.status_code == 200 or "CLIENT_TIMEOUT" in answer.json()["error"]

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(client, range(30)))
    answered = [seconds for status, seconds in outcomes if status == 200]
    assert {status for status, _ in outcomes} == {200, 503}
    # Those who come last are alone, and are answered however late.
    assert sum(seconds < 1 for seconds in answered) > 20
    assert running.metric('clip_requests_refused_total{cause="late"}') == len(outcomes) - len(answered)

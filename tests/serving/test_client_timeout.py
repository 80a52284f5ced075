"""CLIENT_TIMEOUT over HTTP: who waits beyond it while others come is told so."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.engine import FakeSession, fake_model
from tests.support.load import ask, wait_until
from tests.support.server import RunningApp


def test_who_cannot_be_answered_in_time_is_told_so_and_the_newest_are_answered(
    run_app: Callable[..., RunningApp],
) -> None:
    engine = FakeSession(0.3)
    running = run_app(fake_model(engine), max_batch=1, client_timeout=4, vector_cache_bytes=0)
    engine.batches.clear()
    engine.gate.clear()
    with ThreadPoolExecutor(10) as pool:
        computing = pool.submit(ask, running.url, ["text 0"])
        wait_until(lambda: bool(engine.batches))
        late = [pool.submit(ask, running.url, [f"text {number}"]) for number in range(1, 7)]
        wait_until(lambda: running.metric("clip_items_waiting") == 7)
        time.sleep(4)
        last = [pool.submit(ask, running.url, [f"text {number}"]) for number in range(7, 10)]
        wait_until(lambda: running.metric("clip_items_waiting") == 10)
        engine.gate.set()
        assert [answer.result().status_code for answer in (computing, *last)] == [200] * 4
        for answer in late:
            assert answer.result().status_code == 503 and "CLIENT_TIMEOUT" in answer.result().json()["error"]
    # The device began one more when it ended the first, before anybody could be refused.
    assert len(engine.batches) <= 5
    assert running.metric('clip_requests_refused_total{cause="late"}') == len(late)

"""Requests wait for the model, and are told why if it does not come."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings
from app.towers import LoadedModel
from tests.support.engine import FakeSession, fake_model
from tests.support.load import BATCH, ask, wait_until
from tests.support.server import RunningApp


def test_requests_wait_for_the_model() -> None:
    load = fake_model(FakeSession())
    seen: dict[str, httpx.Response] = {}
    waiting: list[Future[httpx.Response]] = []

    def slow(settings: Settings) -> LoadedModel:
        for path in ("live", "ready"):
            seen[path] = httpx.get(f"{running.url}/.well-known/{path}")
        waiting.append(pool.submit(ask, running.url, ["a"]))
        waiting.append(pool.submit(httpx.get, f"{running.url}/meta"))
        time.sleep(0.5)
        assert not any(each.done() for each in waiting)
        return load(settings)

    running = RunningApp(create_app(Settings(**BATCH), slow))
    with ThreadPoolExecutor(2) as pool, running:
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert seen["live"].status_code == 204
    assert seen["ready"].status_code == 503 and "still loading" in seen["ready"].json()["error"]


@pytest.mark.parametrize("cause", [ConfigurationError("no such model"), RuntimeError("no such model")])
def test_if_loading_fails_those_who_wait_are_told_why(cause: Exception) -> None:
    answers: list[Future[httpx.Response]] = []

    def fail(_: Settings) -> LoadedModel:
        answers.append(pool.submit(ask, running.url, ["a"]))
        time.sleep(0.5)
        raise cause

    running = RunningApp(create_app(Settings(**BATCH), fail, lambda: None))
    with ThreadPoolExecutor(1) as pool, running.served():
        wait_until(lambda: bool(answers))
        answer = answers[0].result()
    assert answer.status_code == 503 and "no such model" in answer.json()["error"]


def test_a_model_that_takes_too_long_is_not_waited_for() -> None:
    loaded = threading.Event()

    def slow(settings: Settings) -> LoadedModel:
        loaded.wait(60)
        return fake_model(FakeSession())(settings)

    running = RunningApp(create_app(Settings(client_timeout=0.25, **BATCH), slow))
    with running.served():
        answer = ask(running.url, ["a"])
        loaded.set()
    assert answer.status_code == 503 and answer.headers["retry-after"]

"""Batching, fairness, failures and bounds, seen from the wire with an engine that obeys the test."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image

from tests.support.engine import FakeSession, HeldSession, fake_model, vector_of
from tests.support.load import BATCH, ask, wait_until
from tests.support.server import RunningApp

RunApp = Callable[..., RunningApp]


def picture(width: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 2)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_64_clients_get_their_own_vectors_in_order(run_app: RunApp) -> None:
    texts, images = FakeSession(0.002), FakeSession(0.002)
    url = run_app(fake_model(texts, images), **BATCH).url

    def one(client: int) -> bool:
        count = 1 + client * 7 % 23
        mine = [f"text {client * 100 + i} {'x' * (i % 5)}" for i in range(count)]
        widths = [1 + (client + i) % 50 for i in range(client % 4)]
        answer = ask(url, mine, [picture(width) for width in widths]).json()
        return answer["textVectors"] == [vector_of(text) for text in mine] and answer["imageVectors"] == [
            vector_of(f"picture {width}") for width in widths
        ]

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(256)))
    assert max(map(len, texts.batches)) == 8
    assert max(map(len, images.batches)) <= 8


def test_single_item_requests_share_a_batch(run_app: RunApp) -> None:
    engine = FakeSession()
    running = run_app(fake_model(engine), **BATCH)
    engine.batches.clear()
    engine.gate.clear()
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(ask, running.url, ["text 0"])]
        wait_until(lambda: engine.batches == [["text 0"]])
        prepared = running.metric("clip_preparing_seconds_count")
        answers += [pool.submit(ask, running.url, [f"text {number}"]) for number in range(1, 9)]
        wait_until(lambda: running.metric("clip_preparing_seconds_count") == prepared + 8)
        engine.gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 9
    assert len(engine.batches) <= 3
    assert sum(map(len, engine.batches)) == 9


def test_identical_items_are_computed_once(run_app: RunApp) -> None:
    engine = FakeSession()
    url = run_app(fake_model(engine), **BATCH).url
    engine.batches.clear()
    answer = ask(url, ["a1", "b2", "a1", "a1"]).json()["textVectors"]
    assert answer == [vector_of(text) for text in ("a1", "b2", "a1", "a1")]
    assert sorted(item for batch in engine.batches for item in batch) == ["a1", "b2"]


def test_a_long_text_does_not_pad_short_ones(run_app: RunApp) -> None:
    engine = FakeSession(0.05)
    url = run_app(fake_model(engine, max_tokens=2000), max_batch=32).url
    engine.batches.clear()
    texts = [f"short {i:02}" for i in range(30)] + ["long " * 15]
    assert ask(url, texts).json()["textVectors"] == [vector_of(text) for text in texts]
    assert len(engine.batches) <= 4
    for batch in engine.batches:
        tokens = [len(text) for text in batch]
        assert sum(tokens) >= 0.75 * len(batch) * max(tokens)


def test_a_small_request_is_next_behind_a_huge_one(run_app: RunApp) -> None:
    engine = FakeSession(0.02)
    running = run_app(fake_model(engine), **BATCH)
    url = running.url
    with ThreadPoolExecutor(2) as pool:
        huge = pool.submit(ask, url, [f"huge {i}" for i in range(2000)])
        wait_until(lambda: len(engine.batches) > 20)
        engine.gate.clear()
        before, waiting = len(engine.batches), running.metric("clip_items_waiting")
        small = pool.submit(ask, url, ["small 1"])
        wait_until(lambda: running.metric("clip_items_waiting") > waiting)
        engine.gate.set()
        assert small.result().status_code == 200
        turn = next(n for n, batch in enumerate(engine.batches) if "small 1" in batch)
        assert turn - before <= 3
        assert not huge.done()
        assert huge.result().json()["textVectors"][1999] == vector_of("huge 1999")


def test_a_huge_request_gets_its_share_beside_many_small_ones(run_app: RunApp) -> None:
    engine = FakeSession(0.005)
    url = run_app(fake_model(engine), **BATCH).url
    stop = threading.Event()

    def small_ones() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                assert client.post(f"{url}/vectorize", json={"texts": ["small"]}).status_code == 200

    with ThreadPoolExecutor(16) as pool:
        for _ in range(16):
            pool.submit(small_ones)
        try:
            assert len(ask(url, [f"huge {i}" for i in range(100)]).json()["textVectors"]) == 100
        finally:
            stop.set()


def test_a_text_does_not_wait_behind_an_import_of_images(run_app: RunApp) -> None:
    texts, images = FakeSession(), FakeSession(0.05)
    url = run_app(fake_model(texts, images), **BATCH).url
    with ThreadPoolExecutor(1) as pool:
        huge = pool.submit(ask, url, [], [picture(i) for i in range(1, 200)])
        wait_until(lambda: len(images.batches) > 5)
        before = len(images.batches)
        assert ask(url, ["query 1"]).status_code == 200
        assert len(images.batches) - before <= 3
        assert not huge.done()
        huge.result()


def test_an_item_that_fails_fails_its_own_request_only(run_app: RunApp) -> None:
    engine = FakeSession(0.05)
    url = run_app(fake_model(engine), **BATCH).url
    texts = [f"good {i}" for i in range(7)] + ["raise 7"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: ask(url, [text]), texts))
    assert [answer.status_code for answer in answers] == [200] * 7 + [500]
    assert answers[7].json()["error"].startswith("texts[0]: ")
    assert "inside of the engine" not in answers[7].text
    assert ask(url, ["good", "raise"]).json()["error"].startswith("texts[1]: ")
    assert ask(url, ["good", "nan"]).json()["error"].startswith("texts[1]: ")


def test_a_picture_that_fails_fails_its_own_request_only(run_app: RunApp) -> None:
    url = run_app(fake_model(FakeSession(), FakeSession(0.02)), **BATCH).url
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: ask(url, None, [picture(i) if i else "junk!"]), range(8)))
    assert [answer.status_code for answer in answers] == [422] + [200] * 7
    answer = ask(url, None, [picture(1), picture(2), "junk!"])
    assert answer.status_code == 422 and answer.json()["error"].startswith("images[2]: ")


def test_out_of_memory_halves_the_batch(run_app: RunApp) -> None:
    engine = FakeSession()
    url = run_app(fake_model(engine), **BATCH).url
    texts = [f"memory {i}" for i in range(8)]
    assert ask(url, texts).json()["textVectors"] == [vector_of(text) for text in texts]
    answer = ask(url, ["good", "nomemory"])
    assert answer.status_code == 503 and "texts[1]" in answer.json()["error"]
    assert ask(url, ["good"]).status_code == 200


def test_a_broken_device_ends_the_server(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), **BATCH)
    answer = ask(running.url, ["broken"])
    assert answer.status_code == 503 and "device failed" in answer.json()["error"]
    wait_until(lambda: running.failures == ["failed"])
    ready = httpx.get(f"{running.url}/.well-known/ready")
    assert ready.status_code == 503 and "device failed" in ready.json()["error"]
    assert ask(running.url, ["good"]).status_code == 503
    assert httpx.get(f"{running.url}/.well-known/live").status_code == 204


def test_a_device_that_hangs_ends_the_server(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), compute_timeout=0.5, **BATCH)
    answer = ask(running.url, ["hang"])
    assert answer.status_code == 503 and "hangs" in answer.json()["error"]
    assert running.failures == ["failed"]


def test_a_client_that_leaves_costs_nothing_more(run_app: RunApp) -> None:
    engine = FakeSession()
    running = run_app(fake_model(engine), **BATCH)
    engine.gate.clear()
    body = b'{"texts": [' + b", ".join(b'"gone %d"' % i for i in range(800)) + b"]}"
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: any("gone" in item for batch in engine.batches for item in batch))
    wait_until(lambda: running.metric("clip_items_waiting") == 0)
    assert running.metric("clip_items_dropped_total") == 800
    engine.gate.set()
    assert ask(running.url, ["next"]).status_code == 200
    assert sum("gone" in item for batch in engine.batches for item in batch) <= 8


def test_a_text_does_not_wait_behind_pictures_that_take_long_to_decode(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), threads=1, decode_timeout=4, **BATCH)
    request = json.loads((Path(__file__).parents[1] / "cases" / "ccitt_request.json").read_text())
    with ThreadPoolExecutor(2) as pool:
        stuck = [
            pool.submit(ask, running.url, [], [image + blanks for image in request["images"]])
            for blanks in ("", "\n")
        ]
        wait_until(lambda: running.metric("clip_items_waiting") == 2)
        assert ask(running.url, ["text 1"]).status_code == 200
        assert not any(each.done() for each in stuck)
        assert [each.result().status_code for each in stuck] == [422, 422]


def test_a_body_that_waits_for_room_is_not_given_up(run_app: RunApp) -> None:
    engine = HeldSession()
    running = run_app(fake_model(engine), max_memory=1, stall_timeout=0.5, **BATCH)  # the least: 22 MiB for requests
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, running.url, ["x" * 6_000_000 + f" {i}"]) for i in range(4)]
        wait_until(lambda: running.service.current.budget.bodies.waiting > 0)
        time.sleep(1.5)
        assert not any(each.done() for each in asked)
        engine.go_on.set()
        assert [each.result().status_code for each in asked] == [200] * 4


def test_a_body_that_never_comes_is_given_up(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), stall_timeout=0.3, **BATCH)
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        client.settimeout(60)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    wait_until(lambda: set(running.used().values()) == {0})

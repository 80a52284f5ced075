"""What a library may do to a worker, and clients to each other, with one device thread and with two as on a GPU."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from app.errors import EngineBroken
from app.serving.item import Caller, Item
from app.serving.link import LocalLink
from app.serving.metrics import Metrics
from app.serving.preparing import Preparing
from app.serving.vector_cache import VectorCache
from app.towers import BatchLimits, Inputs, Tower, Vectors
from tests.support.engine import WIDTH, FakeSession, Panic, fake_model, prepare_text, vector_of
from tests.support.load import ask, wait_until
from tests.support.server import RunningApp

RunApp = Callable[..., RunningApp]
BATCH = {"max_batch": 8, "vector_cache_bytes": 0}


@pytest.fixture(params=[1, 2])
def run(request: pytest.FixtureRequest, run_app: RunApp) -> RunApp:
    """Servers with one device thread and with two."""
    return partial(run_app, enable_cuda=request.param == 2, **BATCH)


@pytest.mark.parametrize("fault", ["panic", "exit", "raise", "nan"])
def test_nothing_that_a_library_raises_ends_a_thread(run: RunApp, fault: str) -> None:
    engine = FakeSession(0.01)
    url = run(fake_model(engine)).url
    texts = [f"good {i}" for i in range(6)] + [f"{fault} 6", f"{fault} 7"]
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda text: ask(url, [text]), texts))
        assert [answer.status_code for answer in answers] == [200] * 6 + [500] * 2
        assert answers[7].json()["error"].startswith("texts[0]: ")
        assert "inside" not in answers[7].text
    assert ask(url, texts[:6]).json()["textVectors"] == [vector_of(text) for text in texts[:6]]


def test_a_batch_that_fails_while_nothing_else_waits(run: RunApp) -> None:
    """Its halves are tried at once."""
    engine = FakeSession()
    url = run(fake_model(engine)).url
    for _ in range(5):
        texts = [f"memory {i}" for i in range(8)]
        assert ask(url, texts).json()["textVectors"] == [vector_of(text) for text in texts]
        assert ask(url, ["good", "raise"]).json()["error"].startswith("texts[1]: ")


def test_a_large_request_whose_client_leaves_costs_the_next_one_nothing(run: RunApp) -> None:
    engine = FakeSession(0.01)
    running = run(fake_model(engine))
    body = b'{"texts": [' + b", ".join(b'"gone %d"' % i for i in range(3000)) + b"]}"
    head = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    for number in range(3):
        engine.batches.clear()
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
            client.sendall(head + body)
            wait_until(lambda: len(engine.batches) > 3)
            engine.gate.clear()  # everything that may be prepared is, and waits for the device
            time.sleep(0.1)
            waiting = running.metric("clip_items_waiting")
            with ThreadPoolExecutor(1) as pool:
                small = pool.submit(ask, running.url, [f"small {number}"])
                wait_until(lambda before=waiting: running.metric("clip_items_waiting") > before)
                client.close()
                wait_until(lambda: running.metric("clip_items_waiting") <= 1)
                engine.gate.set()
                assert small.result().json()["textVectors"] == [vector_of(f"small {number}")]
    assert running.metric("clip_items_waiting") == 0
    assert running.metric("clip_left_seconds_count") == 3


def test_an_equal_item_joins_the_one_under_way_whoever_leaves(run: RunApp) -> None:
    engine = FakeSession()
    running = run(fake_model(engine))
    engine.batches.clear()
    engine.gate.clear()
    body = b'{"texts": ["both 1", "both 2"]}'
    head = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ThreadPoolExecutor(1) as pool:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
            client.sendall(head + body)
            wait_until(lambda: running.metric("clip_items_waiting") == 2)
            second = pool.submit(ask, running.url, ["both 2", "both 1", "both 2"])
            wait_until(lambda: running.metric("clip_items_joined_total") == 2)
        wait_until(lambda: running.metric("clip_items_waiting") == 3)
        engine.gate.set()
        assert second.result().json()["textVectors"] == [vector_of(f"both {n}") for n in (2, 1, 2)]
    assert sorted(text for batch in engine.batches for text in batch) == ["both 1", "both 2"]


def test_a_vector_that_was_computed_before_is_kept(run_app: RunApp) -> None:
    engine = FakeSession()
    running = run_app(fake_model(engine), **{**BATCH, "vector_cache_bytes": 10_000})
    first = ask(running.url, ["again 1", "again 2"]).json()
    engine.batches.clear()
    assert ask(running.url, ["again 2", "again 1"]).json()["textVectors"] == first["textVectors"][::-1]
    assert engine.batches == []
    assert running.metric("clip_items_cached_total") == 2


class Preparer:
    """Texts that are prepared together are added to `together`; one that is held has `begun` until it may `go_on`."""

    def __init__(self) -> None:
        self.together: list[list[bytes]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def is_quick(self, content: bytes) -> bool:
        return len(content) < 100 and content != b"held"

    def __call__(self, content: bytes) -> Inputs:
        if content == b"held":
            self.begun.set()
            self.go_on.wait(60)
        if b"unprepared" in content:
            raise Panic("inside of the decoder")
        return prepare_text(content.decode())

    def many(self, contents: list[bytes]) -> list[Inputs]:
        self.together.append(contents)
        return [self(content) for content in contents]


def serving(
    session: FakeSession,
    preparer: Preparer,
    broken: list[str],
    threads: int = 2,
    overlap: bool = True,
) -> Preparing:
    """Called on the event loop."""
    tower, metrics = Tower(prepare_text, session, BatchLimits(4, 1000)), Metrics()
    towers = {"texts": tower, "images": tower}
    return Preparing(
        towers=towers,
        preparers={"texts": preparer, "images": preparer},
        width=WIDTH,
        threads=threads,
        connect=lambda deliver, on_broken: LocalLink(towers, WIDTH, deliver, on_broken, metrics, overlap=overlap),
        cache=VectorCache(0),
        client_timeout=50.0,
        metrics=metrics,
        on_broken=broken.append,
    )


@pytest.mark.parametrize("large", [b"", b"x" * 100], ids=["on the event loop", "on a thread"])
def test_a_panic_while_preparing_fails_its_item_alone(large: bytes) -> None:
    async def run() -> None:
        made = serving(FakeSession(), Preparer(), [])
        for _ in range(4):
            with pytest.raises(Exception, match=r"texts\[1\]: could not be prepared"):
                await made.vectorize([b"good", b"unprepared" + large], [], Caller())
        rows, _ = await made.vectorize([b"good 1"], [], Caller())
        assert rows.tolist() == [vector_of("good 1")]
        made.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_short_texts_are_prepared_together_and_the_one_at_fault_fails_alone() -> None:
    async def run() -> None:
        preparer = Preparer()
        made = serving(FakeSession(), preparer, [])
        requests = [[b"good %d" % n] for n in range(6)] + [[b"unprepared"], [b"long " * 1000], [b"last"]]
        others = [asyncio.ensure_future(made.vectorize(texts, [], Caller())) for texts in requests]
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        for texts, outcome in zip(requests, outcomes, strict=True):
            if texts == [b"unprepared"]:
                assert str(outcome).startswith("texts[0]: could not be prepared")
            else:
                assert not isinstance(outcome, BaseException)
                assert outcome[0].tolist() == [vector_of(texts[0].decode())]
        assert [texts for (texts,) in requests[:7]] in [each[:7] for each in preparer.together]
        made.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_text_that_takes_long_to_prepare_keeps_nobody_waiting() -> None:
    async def run() -> None:
        preparer = Preparer()
        made = serving(FakeSession(), preparer, [])
        first = asyncio.ensure_future(made.vectorize([b"held"], [], Caller()))
        await asyncio.to_thread(preparer.begun.wait, 20)
        rows, _ = await made.vectorize([b"short 1", b"long " * 1000], [], Caller())
        assert rows.tolist() == [vector_of("short 1"), vector_of("long " * 1000)]
        assert not first.done()
        preparer.go_on.set()
        await first
        made.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_items_that_wait_while_nothing_runs_are_noticed() -> None:
    """Here because there are no threads; whatever the reason, somebody has to see it."""

    async def run() -> None:
        broken: list[str] = []
        made = serving(FakeSession(), Preparer(), broken, threads=0)
        made._preparing = Forgets()
        waiting = asyncio.ensure_future(made.vectorize([b"held"], [], Caller()))
        await asyncio.sleep(0.1)
        made.watch(60.0)
        assert not broken
        made.watch(0.01)
        with pytest.raises(EngineBroken, match="without progress"):
            await waiting
        made.watch(0.01)
        assert len(broken) == 1

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_preparation_that_hangs_is_noticed() -> None:
    async def run() -> None:
        broken: list[str] = []
        preparer = Preparer()
        made = serving(FakeSession(), preparer, broken)
        waiting = asyncio.ensure_future(made.vectorize([b"held"], [], Caller()))
        await asyncio.to_thread(preparer.begun.wait, 20)
        await asyncio.sleep(0.05)
        made.watch(0.01)
        with pytest.raises(EngineBroken, match="preparing an item"):
            await waiting
        preparer.go_on.set()

    asyncio.run(asyncio.wait_for(run(), 30))


class Forgets(dict[Item, None]):
    """Knows of no item that is being prepared."""

    def update(self, *_: object) -> None:
        pass


class Overlapping:
    """A device that takes a batch while another is computed, as a GPU does, and never two at the very same time."""

    def __init__(self) -> None:
        self.starting = 0
        self.most_running = self.running = 0

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        self.starting += 1
        assert self.starting == 1, "two threads start a batch at once"
        texts = ["".join(map(chr, row)).rstrip("\0") for row in batch["input_ids"]]
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.starting -= 1

        def finish() -> Vectors:
            wait_until(lambda: self.most_running > 1)
            self.running -= 1
            return np.array([vector_of(text) for text in texts], np.float32)

        return finish


def test_the_device_gets_the_next_batch_while_it_computes() -> None:
    async def run() -> None:
        device = Overlapping()
        made = serving(device, Preparer(), [])  # type: ignore[arg-type]
        texts = [b"text %d" % n for n in range(40)]
        rows, _ = await made.vectorize(texts, [], Caller())
        assert rows.tolist() == [vector_of(text.decode()) for text in texts]
        assert device.most_running == 2
        made.stop()

    asyncio.run(asyncio.wait_for(run(), 60))

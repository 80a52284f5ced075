"""Where the time of one text goes: microseconds of CPU for each step of its way, and for the whole way.

    python -m benchmarks.steps [--models demo/models] [--repeat 2000]

The engine is replaced by one that takes no time. Each step is the best of seven rounds of calls one after another;
the whole ways are run through the app, without a network, by one caller and by sixteen.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from app.api.vectorize import dump_response, parse_request
from app.main import create_app
from app.models.load import load_model
from app.processors.padding import collate
from app.processors.text import TextPreparer
from app.serving.item import Job
from app.serving.metrics import KindMetrics, Metrics
from app.serving.pool import Claim, Pool
from app.serving.turns import Turns, Wanted
from app.serving.vector_cache import VectorCache, digest
from app.settings import Settings
from app.towers import BatchLimits
from benchmarks.timed_engine import WIDTH, load_timed

_ROUNDS = 7
_TEXT = b"a photograph of a small red circle on a blue background"


def best(call: Callable[[], object], repeat: int) -> float:
    """Microseconds of this process's CPU for one call."""
    times = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for _ in range(repeat):
            call()
        times.append((time.process_time() - started) / repeat)
    return min(times) * 1e6


def turn() -> Callable[[], None]:
    """A job of one text through the state of all that waits."""
    turns = Turns({"texts": BatchLimits(32, 1000)}, {}, VectorCache(0), 50.0)
    vectors = np.ones((1, WIDTH), np.float32)
    numbers = iter(range(10**9))

    def call() -> None:
        job = Job({"texts": np.empty((1, WIDTH), np.float32)}, 0.0)
        turns.add(job, [Wanted("texts", b"%d" % next(numbers), _TEXT, [0])], 1.0)
        item = turns.take(1.0)
        assert item is not None
        turns.prepared(item, 1.0)
        turns.computed([item], vectors, 0.001, 1.0)

    return call


def steps(models: Path) -> dict[str, Callable[[], object]]:
    """The steps that can be called alone, by name."""
    model = load_model(Settings(models_dir=models))
    body = b'{"texts": ["%b"]}' % _TEXT
    preparer = TextPreparer(model.text.processor)
    inputs = preparer(_TEXT)
    rows = np.random.default_rng(1).normal(size=(1, WIDTH)).astype(np.float32)
    nothing = np.empty((0, WIDTH), np.float32)
    bodies, answers, metrics = Pool(2**30, 2**16), Pool(2**30, 2**18), Metrics()
    counts = KindMetrics(metrics, "texts")

    def budget() -> None:
        for pool, claim in ((bodies, Claim(100)), (answers, Claim(15_000))):
            pool.ask(claim)
            pool.release(claim)

    def count() -> None:
        for histogram in (counts.waiting_seconds, counts.preparing_seconds):
            histogram.observe(0.01)
        counts.items.inc()
        metrics.bytes_in.inc(100)
        metrics.count_answer("/vectorize", 200, 0.01)

    return {
        "body to items": lambda: parse_request(body, 100),
        "budget": budget,
        "hash": lambda: digest("texts", _TEXT),
        "turn": turn(),
        "tokenize": lambda: preparer(_TEXT),
        "batch of one": lambda: collate([inputs], model.text.padding),
        "vector to JSON": lambda: dump_response(rows, nothing),
        "metrics": count,
    }


async def through_the_app(models: Path, callers: int, repeat: int) -> float:
    """Microseconds of CPU for one request, sent by so many callers at once."""
    app = create_app(Settings(models_dir=models, vector_cache_bytes=0), load=load_timed)
    async with app.router.lifespan_context(app):
        await app.state.service.running()
        numbers = iter(range(10**9))

        async def ask() -> None:
            body = b'{"texts": ["%b %d"]}' % (_TEXT, next(numbers))
            headers = [(b"host", b"localhost"), (b"content-length", b"%d" % len(body))]
            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": "POST",
                "path": "/vectorize",
                "raw_path": b"/vectorize",
                "query_string": b"",
                "root_path": "",
                "headers": headers,
                "state": {},
            }

            parts = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive() -> dict[str, Any]:
                return next(parts, None) or await asyncio.get_running_loop().create_future()

            async def send(message: Any) -> None:
                assert message.get("status", 200) == 200

            await app(scope, receive, send)

        async def caller() -> None:
            for _ in range(repeat // callers):
                await ask()

        times = []
        for _ in range(_ROUNDS):
            started = time.process_time()
            await asyncio.gather(*(caller() for _ in range(callers)))
            times.append((time.process_time() - started) / (repeat // callers * callers))
        return min(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--repeat", type=int, default=2000)
    options = parser.parse_args()
    total = 0.0
    for name, call in steps(options.models).items():
        taken = best(call, options.repeat)
        total += taken
        print(f"{name:32}{taken:8.1f} us", flush=True)
    print(f"{'together':32}{total:8.1f} us")
    for callers in (1, 16):
        taken = uvloop.run(through_the_app(options.models, callers, options.repeat))
        print(f"{f'through the app, {callers} at once':32}{taken:8.1f} us", flush=True)


if __name__ == "__main__":
    main()

"""What the metrics cost: the calls that a request makes, times what each takes, beside the request's CPU time.

    python -m benchmarks.metrics_cost [--models demo/models] [--seconds 8] [--connections 16]

A run with and one without metrics differ by less than two runs with them, so the calls are counted on a server whose
metrics count them, timed alone, and set beside the CPU seconds that another server takes for the same requests.
"""

import argparse
import asyncio
import signal
import threading
import timeit
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from app.main import create_app
from app.server import make_server
from app.serving.metrics import Metrics
from app.settings import Settings
from app.sockets import listen
from benchmarks.load import image_bodies, load, text_bodies
from benchmarks.servers import is_ready, server

BODIES: dict[str, Callable[[], Iterator[bytes]]] = {"texts": text_bodies, "images": image_bodies}


class Counted:
    """A metric that counts the calls of its methods."""

    def __init__(self, metric: Any, calls: Counter[str]) -> None:
        self._metric = metric
        self._calls = calls

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls[method] += 1
            result = getattr(self._metric, method)(*args, **kwargs)
            return Counted(result, self._calls) if method == "labels" else result

        return call


def calls_of_a_request(models: Path, connections: int, seconds: float) -> dict[str, dict[str, float]]:
    """By kind of request, how often it calls each method of a metric."""
    calls: Counter[str] = Counter()
    app = create_app(Settings(models_dir=models, vector_cache_bytes=0))
    metrics = app.state.service.metrics
    for name, metric in list(vars(metrics).items()):
        if isinstance(metric, MetricWrapperBase):
            setattr(metrics, name, Counted(metric, calls))
    sockets = listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    running = make_server(app)
    thread = threading.Thread(target=running.run, args=(sockets,))
    thread.start()
    found: dict[str, dict[str, float]] = {}
    try:
        while not is_ready(port):
            threading.Event().wait(0.05)
        for kind, bodies in BODIES.items():
            calls.clear()
            asyncio.run(load(port, bodies(), connections, seconds))
            answered = calls["time"]  # once a request, warm-up included
            found[kind] = {method: count / answered for method, count in calls.items()}
    finally:
        running.handle_exit(signal.SIGINT, None)
        thread.join()
    return found


def microseconds_of_a_call() -> dict[str, float]:
    metrics = Metrics()
    histogram = metrics.waiting_seconds.labels("texts")

    def timed() -> None:
        with metrics.request_seconds.time():
            pass

    calls: dict[str, Callable[[], object]] = {
        "labels": lambda: metrics.waiting_seconds.labels("texts"),
        "observe": lambda: histogram.observe(0.05),
        "inc": lambda: metrics.bytes_in.inc(1000),
        "set": lambda: metrics.waiting.set(3),
        "time": timed,
    }
    return {name: 1e6 * min(timeit.repeat(call, number=100_000)) / 100_000 for name, call in calls.items()}


def cpu_seconds(port: int) -> tuple[float, float]:
    """Of the server so far, and the requests for vectors that it has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        rows = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[:1] != "#")
    return float(rows["process_cpu_seconds_total"]), float(rows["clip_request_seconds_count"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    per_call = microseconds_of_a_call()
    counts = calls_of_a_request(options.models, options.connections, options.seconds / 2)
    print("microseconds a call: " + ", ".join(f"{name} {value:.2f}" for name, value in per_call.items()))
    with server("app", options.models, {}) as (port, _, _):
        for kind, bodies in BODIES.items():
            before = cpu_seconds(port)
            asyncio.run(load(port, bodies(), options.connections, options.seconds))
            seconds, answered = (after - start for after, start in zip(cpu_seconds(port), before, strict=True))
            cost = sum(count * per_call[method] for method, count in counts[kind].items())
            request = 1e6 * seconds / answered
            print(
                f"{kind}: {sum(counts[kind].values()):.1f} calls a request, {cost:.1f} of the {request:.0f} "
                f"microseconds of CPU that it takes: {cost / request:.2%}"
            )


if __name__ == "__main__":
    main()

"""The metrics for Prometheus, each described in docs/operations.md."""

import itertools
import os
import pickle
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 50, 100)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class KindMetrics:
    """The metrics of one kind, "texts" or "images"; each label is looked up once."""

    def __init__(self, metrics: "Metrics", kind: str) -> None:
        self.waiting_seconds = metrics.waiting_seconds.labels(kind)
        self.preparing_seconds = metrics.preparing_seconds.labels(kind)
        self.computing_seconds = metrics.computing_seconds.labels(kind)
        self.batch_items = metrics.batch_items.labels(kind)
        self.items = metrics.items.labels(kind)
        self.joined = metrics.joined.labels(kind)
        self.cached = metrics.cached.labels(kind)
        self.dropped = metrics.dropped.labels(kind)
        self._failed = metrics.failed
        self._kind = kind

    def count_failed(self, cause: str, items: int = 1) -> None:
        """Count items that failed, by the word for what is wrong."""
        self._failed.labels(self._kind, cause).inc(items)


class Metrics:
    """The metrics of one app, in a registry of its own. `kind` is "texts" or "images"."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=_SECONDS)
        kind = ("kind",)
        self.request_seconds = histogram("clip_request_seconds", "a request for vectors, from its head to its answer")
        self.waiting_seconds = histogram("clip_waiting_seconds", "time in which nobody works on an item", kind)
        self.preparing_seconds = histogram("clip_preparing_seconds", "time to prepare an item", kind)
        self.computing_seconds = histogram("clip_computing_seconds", "time to compute a batch", kind)
        self.batch_items = histogram("clip_batch_items", "items in a batch", kind, buckets=_ITEMS)
        self.items = counter("clip_items", "items computed", kind)
        self.joined = counter("clip_items_joined", "items equal to one under way, which shared its vector", kind)
        self.cached = counter("clip_items_cached", "items whose vector was still in the cache", kind)
        self.failed = counter("clip_items_failed", "items that failed, by what is wrong", ("kind", "cause"))
        self.dropped = counter("clip_items_dropped", "items whose client left before they were computed", kind)
        self.texts_cut = counter("clip_texts_cut", "texts longer than the model reads, which were cut")
        self.waiting = gauge("clip_items_waiting", "items whose vectors are not there yet")
        self.waiting_bytes = gauge("clip_bytes_waiting", "bytes that requests not yet answered take")
        self.bytes_in = counter("clip_received_bytes", "bytes of bodies received")
        self.responses = counter("clip_responses", "answers to requests for vectors", ("status",))
        self.refused = counter("clip_requests_refused", "requests for which there was no room, by cause", ("cause",))
        self.left_seconds = histogram("clip_left_seconds", "how long clients waited that left before an answer")
        self.fronts = gauge("clip_fronts", "processes that take requests; 0 if the one that computes does")
        self.fronts_replaced = counter("clip_fronts_replaced", "such processes that ended and were replaced")
        self.devices_lost = counter("clip_devices_lost", "processes that computed and ended, while others go on")
        self.ready_seconds = gauge("clip_ready_seconds", "seconds from start to ready; 0 until then")
        self.model = Info("clip_model", "what is served", registry=registry)
        ProcessCollector(registry=registry)
        self._answered = {200: self.responses.labels(200)}

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """Count an answer to a request for vectors; others are not counted."""
        if path in ("/vectorize", "/v1/embeddings"):
            self.request_seconds.observe(seconds)
            (self._answered.get(status) or self.responses.labels(status)).inc()

    def dump(self) -> bytes:
        return generate_latest(self._registry)

    def snapshot(self) -> bytes:
        """The values of this moment, for merge() in another process."""
        return pickle.dumps([*self._registry.collect()])


def merge(snapshots: Iterable[bytes]) -> bytes:
    """The metrics of several processes as those of one, in the text format of Prometheus."""
    return generate_latest(_Merged(snapshots))


def counts_of(snapshots: Iterable[bytes]) -> bytes:
    """A snapshot of what processes that have ended counted: what they had at the moment is gone."""
    merged = _Merged(snapshots).collect()
    return pickle.dumps([each for each in merged if each.type in ("counter", "histogram")])


class _Merged(Collector):
    """Sums over processes. The earliest start counts, and what only one process knows is its own."""

    def __init__(self, snapshots: Iterable[bytes]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        metrics: dict[str, Metric] = {}
        values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
        for metric in itertools.chain.from_iterable(map(pickle.loads, self._snapshots)):
            metrics.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                key = metric.name, sample.name, tuple(sample.labels.items())
                before = values.get(key)
                values[key] = sample.value if before is None else _combined(sample.name, before, sample.value)
        for (metric_name, name, labels), value in values.items():
            metrics[metric_name].samples.append(Sample(name, dict(labels), value))
        return metrics.values()


def _combined(name: str, one: float, other: float) -> float:
    if name.endswith(("_created", "_start_time_seconds")):
        return min(one, other)
    if name.endswith(("_info", "clip_ready_seconds", "process_max_fds")):
        return max(one, other)
    return one + other


def seconds_since_start(process: int | str) -> float:
    """Seconds for which a process, or "self", has run; 0 if the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0

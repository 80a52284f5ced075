"""What is counted, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counts of one app, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.items = Counter("clip_items", "items computed", ["kind"], registry=registry)
        self.dropped = Counter(
            "clip_items_dropped",
            "items not computed, for their request was over",
            ["kind"],
            registry=registry,
        )
        self.refused = Counter(
            "clip_requests_refused", "requests refused, by what there was no room for", ["cause"], registry=registry
        )
        self.waiting = Gauge("clip_items_waiting", "items accepted and not yet computed", registry=registry)
        self.batch_items = Histogram(
            "clip_batch_items", "items in a batch", ["kind"], registry=registry, buckets=_ITEMS
        )
        self.batch_seconds = Histogram(
            "clip_batch_seconds", "time to compute a batch", ["kind"], registry=registry, buckets=_SECONDS
        )
        self.responses = Counter("clip_responses", "answers to requests for vectors", ["status"], registry=registry)

    def count_answer(self, path: str, status: int) -> None:
        """Count an answer, if it is one to a request for vectors."""
        if path in ("/vectorize", "/v1/embeddings"):
            self.responses.labels(status).inc()

    def dump(self) -> bytes:
        """All counts in the text format of Prometheus."""
        return generate_latest(self._registry)

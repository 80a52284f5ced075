"""One span per request, with OpenTelemetry; imported only if its variables ask for it.

FastAPI makes the span; what happens to the items of the request is added here. The SDK reads its variables itself:
service name, resource, sampler, limits, and those of the exporter.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app.api.entry import one_spelling
from app.logs import Throttle
from app.serving.item import Passage, Timeline
from app.settings import VERSION, TracingVariables, not_installed

_log = logging.getLogger(__name__)

_UNTRACED = frozenset({"/.well-known/live", "/.well-known/ready", "/health", "/metrics"})
# How long the end of the process waits for the last spans to reach the collector.
_CLOSE_SECONDS = 1.0
_QUEUE_OF_SPANS = "opentelemetry.sdk._shared_internal"
_EXPORTERS = "opentelemetry_traces_exporter"
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
# A collector that is not there is named once a minute; the libraries log each attempt.
_once_a_minute = Throttle(most=1, seconds=60)


class Tracer:
    """Adds to the span of each request what happened to its items; `close` sends the remaining spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("multi2vec-clip", VERSION)
        self._epoch = 0.0
        for name in ("opentelemetry.baggage", "opentelemetry.trace"):
            # Their warnings quote what clients send in headers, once per request.
            logging.getLogger(name).setLevel(logging.ERROR)

    @property
    def telemetry(self) -> TelemetryConfig:
        """What FastAPI does: one span per request, except for probes and metrics, and nothing else."""
        return {
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: one_spelling(scope["path"]) in _UNTRACED,
        }

    def begin(self, request_id: str) -> Timeline | None:
        """What records a request that has just arrived; None if its span is not recorded."""
        span = trace.get_current_span()
        span.set_attribute("clip.request_id", request_id)
        return Timeline() if span.is_recording() else None

    def finish(self, timeline: Timeline) -> None:
        """Add what was recorded. Call it before the answer is sent, with which FastAPI ends the span."""
        self._epoch = time.time() - time.monotonic()
        counts = {**timeline.wanted, "cached": timeline.cached}
        trace.get_current_span().set_attributes({f"clip.{name}": count for name, count in counts.items() if count})
        if timeline.added is not None:
            self._add("receiving", timeline.began, timeline.added)
            for kind, passages in timeline.passages.items():
                self._add_phases(kind, passages, timeline.added)

    def close(self) -> None:
        """Send the remaining spans, for at most a second, since the collector may be gone."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)
        if thread.is_alive():
            _log.warning("the last spans did not reach the collector within %g s", _CLOSE_SECONDS)

    def _add_phases(self, kind: str, passages: Sequence[Passage], added: float) -> None:
        """Add a span for each phase that began; one that did not end lasts until now.

        An item that an earlier request asked for too may have been taken before this request was `added`.
        """
        taken = _first(each.taken for each in passages)
        prepared = _first(each.prepared for each in passages)
        started = _first(each.started for each in passages)
        attributes: dict[str, str | int] = {"clip.kind": kind, "clip.items": len(passages)}
        for name, start, end in (
            ("waiting", added, taken),
            ("preparing", taken, max(each.prepared for each in passages)),
            ("waiting", prepared, started),
            ("computing", started, max(each.ended for each in passages)),
        ):
            if name == "computing" and (batch := max(each.batch for each in passages)):
                attributes["clip.batch_items"] = batch
            if start:
                self._add(name, max(added, start), max(added, start, end or time.monotonic()), attributes)

    def _add(self, name: str, start: float, end: float, attributes: Mapping[str, str | int] | None = None) -> None:
        """Add a child of the current span that has ended. Times are seconds of time.monotonic()."""
        began, ended = (int((self._epoch + moment) * 1e9) for moment in (start, end))
        self._tracer.start_span(name, attributes=attributes, start_time=began).end(ended)


def _first(moments: Iterable[float]) -> float:
    return min(filter(None, moments), default=0.0)


def open_tracer(environment: Mapping[str, str]) -> Tracer:
    """The tracer that the variables ask for. Raises LookupError if no installed package has what they name."""
    resource = Resource.create({SERVICE_VERSION: VERSION})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "multi2vec-clip"}))
    if not get_global_textmap().fields:
        # OTEL_PROPAGATORS=none gives no context at all, and FastAPI fails on that; nothing here reads baggage.
        set_global_textmap(W3CBaggagePropagator())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # In the order in which BatchSpanProcessor takes them.
    batches = [value for name, value in TracingVariables() if name.startswith("otel_bsp")]
    for name in (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        exporter = _exporter(name.strip(), environment)
        for source in (exporter.__module__, _QUEUE_OF_SPANS):
            logging.getLogger(source).addFilter(_once_a_minute)
        provider.add_span_processor(BatchSpanProcessor(exporter(), *batches))
    return Tracer(provider)


def _exporter(name: str, environment: Mapping[str, str]) -> Any:
    """The class of an exporter."""
    if name == "otlp":
        variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next(filter(None, map(environment.get, variables)), "http/protobuf").strip()
        if protocol not in _PROTOCOLS:
            raise LookupError(f"spans cannot be sent by OTEL_EXPORTER_OTLP_PROTOCOL={protocol}; choose http/protobuf")
        name = _PROTOCOLS[protocol]
    for found in entry_points(group=_EXPORTERS, name=name):
        return found.load()
    if name == "otlp_proto_grpc":
        raise LookupError("spans over gRPC need a package: pip install opentelemetry-exporter-otlp-proto-grpc")
    raise LookupError(f"OTEL_TRACES_EXPORTER={name}: {not_installed(name, _EXPORTERS)}")

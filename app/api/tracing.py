"""One span per request, with OpenTelemetry; imported only if its variables ask for it.

FastAPI makes the span; what happens to the items of the request is added here. The SDK reads its variables itself:
service name, resource, sampler, limits, and those of the exporter.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from app.api.request import one_spelling
from app.serving.timeline import Passage, Timeline
from app.settings import VERSION, TracingVariables, not_installed

_log = logging.getLogger(__name__)

_UNTRACED = frozenset({"/.well-known/live", "/.well-known/ready", "/health", "/metrics"})
# How long the end of the process waits for the last spans to reach the collector.
_CLOSE_SECONDS = 1.0
_SAY_EVERY = 60.0
_QUEUE_OF_SPANS = "opentelemetry.sdk._shared_internal"
_DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
_EXPORTERS = "opentelemetry_traces_exporter"
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class RequestTrace:
    """Adds to the span of one request what its `timeline` recorded."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span, request_id: str) -> None:
        self.timeline = Timeline()
        self._tracer, self._span = tracer, span
        self._began, self._finished = time.monotonic(), False
        self._epoch = time.time() - self._began
        span.set_attribute("clip.request_id", request_id)

    def finish(self) -> None:
        """Call this before sending the answer, with which FastAPI ends the span. A second call does nothing."""
        if self._finished:
            return
        self._finished, timeline = True, self.timeline
        counts = {**timeline.wanted, "cached": timeline.cached}
        self._span.set_attributes({f"clip.{name}": count for name, count in counts.items() if count})
        if timeline.added is None:
            return
        self._add("receiving", self._began, timeline.added)
        for kind, passages in timeline.passages.items():
            for name, start, end in _phases(passages, timeline.added, time.monotonic()):
                attributes: dict[str, str | int] = {"clip.kind": kind, "clip.items": len(passages)}
                if name == "computing" and (batch := max(each.batch for each in passages)):
                    attributes["clip.batch_items"] = batch
                self._add(name, start, end, attributes)

    def _add(self, name: str, start: float, end: float, attributes: Mapping[str, str | int] | None = None) -> None:
        """Add a child span that has ended. Times are seconds of time.monotonic()."""
        began, ended = (int((self._epoch + moment) * 1e9) for moment in (start, end))
        inside = trace.set_span_in_context(self._span)
        self._tracer.start_span(name, inside, attributes=attributes, start_time=began).end(ended)


def _phases(passages: Sequence[Passage], added: float, over: float) -> Iterator[tuple[str, float, float]]:
    """Name, start and end of each phase that began; one that did not end is given the end of the request, `over`.

    An item that an earlier request asked for too may have been taken before this request was `added`.
    """
    taken, prepared, started, *_ = (min(filter(None, stamps), default=0.0) for stamps in zip(*passages, strict=True))
    _, all_prepared, _, ended, _ = map(max, zip(*passages, strict=True))
    steps = (
        ("waiting", added, taken),
        ("preparing", taken, all_prepared),
        ("waiting", prepared, started),
        ("computing", started, ended),
    )
    for name, start, end in steps:
        if start:
            yield name, max(added, start), max(added, start, end) if end else over


class Tracer:
    """Makes the spans of requests; `close` sends the remaining ones."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("multi2vec-clip", VERSION)
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

    def begin(self, request_id: str) -> RequestTrace | None:
        """The trace of a request that has just arrived; None if its span is not recorded."""
        span = trace.get_current_span()
        return RequestTrace(self._tracer, span, request_id) if span.is_recording() else None

    def close(self) -> None:
        """Send the remaining spans, for at most a second, since the collector may be gone."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)
        if thread.is_alive():
            _log.warning("the last spans did not reach the collector within %g s", _CLOSE_SECONDS)


class _Exporter(SpanExporter):
    """Logs once that spans do not arrive, and why, and once that they do again; the libraries log each attempt.

    A collector that fails and recovers all the time is named once a minute.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing, self._quiet_until = False, 0.0
        self._logs = [logging.getLogger(name) for name in (type(exporter).__module__, _QUEUE_OF_SPANS)]
        for log in self._logs:
            log.addFilter(self._take_line)

    def _take_line(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if record.levelno >= logging.WARNING and not self._failing and now > self._quiet_until:
            self._failing, self._quiet_until = True, now + _SAY_EVERY
            cause = record.getMessage()
            _log.warning("spans do not reach the collector; they are dropped while that lasts: %s", cause)
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if self._failing and result is SpanExportResult.SUCCESS:
            self._failing = False
            _log.info("spans reach the collector again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        for log in self._logs:
            log.removeFilter(self._take_line)


def open_tracer(environment: Mapping[str, str]) -> Tracer:
    """The tracer that the variables ask for. Raises LookupError if no installed package has what they name."""
    exporters = list(_exporters(environment))
    detectors = environment.get(_DETECTORS, "").strip()
    if detectors and (problem := not_installed(detectors, "opentelemetry_resource_detector", "*")):
        raise LookupError(f"{_DETECTORS}={detectors!r}: {problem}")
    resource = Resource.create({SERVICE_VERSION: VERSION})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "multi2vec-clip"}))
    if not get_global_textmap().fields:
        # OTEL_PROPAGATORS=none gives no context at all, and FastAPI fails on that; nothing here reads baggage.
        set_global_textmap(W3CBaggagePropagator())
    # The SDK's own metrics: no variable may turn them on, since nothing here would send them.
    no_metrics = NoOpMeterProvider()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, meter_provider=no_metrics)
    # In the order in which BatchSpanProcessor takes them.
    batches = [value for name, value in TracingVariables() if name.startswith("otel_bsp")]
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, *batches, meter_provider=no_metrics))
    return Tracer(provider)


def _exporters(environment: Mapping[str, str]) -> Iterator[SpanExporter]:
    of_traces, of_all = (environment.get(f"OTEL_EXPORTER_OTLP_{each}PROTOCOL", "") for each in ("TRACES_", ""))
    protocol = (of_traces or of_all or "http/protobuf").strip()
    for name in map(str.strip, (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")):
        if name == "otlp" and protocol not in _PROTOCOLS:
            raise LookupError(f"spans cannot be sent by OTEL_EXPORTER_OTLP_PROTOCOL={protocol}; choose http/protobuf")
        found = entry_points(group=_EXPORTERS, name=_PROTOCOLS[protocol] if name == "otlp" else name)
        if not found and name == "otlp":
            raise LookupError("spans over gRPC need a package: pip install opentelemetry-exporter-otlp-proto-grpc")
        if not found:
            raise LookupError(f"OTEL_TRACES_EXPORTER={name}: {not_installed(name, _EXPORTERS)}")
        yield _Exporter(next(iter(found)).load()())

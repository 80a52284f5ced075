"""One span a request, with OpenTelemetry; imported only where its variables ask for it.

FastAPI makes the span; what happens to the items of the request is added here. The SDK reads its variables itself:
service name, resource, sampler, limits, batches, and those of the exporter.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points

from fastapi.telemetry import TelemetryConfig
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, get_current_span, set_span_in_context

from app.api.request import one_spelling
from app.serving.timeline import Passage, Timeline
from app.settings import VERSION, TracingVariables, not_installed

_log = logging.getLogger(__name__)

_UNTRACED = frozenset({"/.well-known/live", "/.well-known/ready", "/health", "/metrics"})
# For the last spans to reach the collector, before the process ends without them.
_CLOSE_SECONDS = 1.0
# Their warnings quote what a client sent in its headers, once a request.
_QUOTING = ("opentelemetry.baggage", "opentelemetry.trace")
_QUEUE_OF_SPANS = "opentelemetry.sdk._shared_internal"
_SAY_EVERY = 60.0
_DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
_EXPORTERS = "opentelemetry_traces_exporter"
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class RequestTrace:
    """What is added to the span of one request: `timeline` takes what it tells."""

    def __init__(self, tracer: "Tracer", span: Span, request_id: str) -> None:
        self.timeline = Timeline()
        self._began = time.monotonic()
        self._tracer = tracer
        self._span = span
        self._finished = False
        span.set_attribute("clip.request_id", request_id)

    def finish(self) -> None:
        """Call it before the answer is sent, with which FastAPI ends the span; a second call does nothing."""
        if self._finished:
            return
        self._finished, now, timeline = True, time.monotonic(), self.timeline
        for kind, count in timeline.wanted.items():
            self._span.set_attribute(f"clip.{kind}", count)
        if timeline.cached:
            self._span.set_attribute("clip.cached", timeline.cached)
        if timeline.added is None:
            return
        context = set_span_in_context(self._span)
        epoch = time.time() - time.monotonic()
        self._tracer.add("receiving", context, epoch + self._began, epoch + timeline.added, {})
        for kind, passage in timeline.passages.items():
            for name, start, end in _phases(passage, timeline.added, now):
                attributes: dict[str, str | int] = {"clip.kind": kind, "clip.items": passage.items}
                if name == "computing" and passage.batch:
                    attributes["clip.batch_items"] = passage.batch
                self._tracer.add(name, context, epoch + start, epoch + end, attributes)


class Tracer:
    """Makes the spans of requests; `close` sends those that are left."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("multi2vec-clip", VERSION)
        for name in _QUOTING:
            logging.getLogger(name).setLevel(logging.ERROR)

    @property
    def telemetry(self) -> TelemetryConfig:
        """What FastAPI is to do: a span of each request, but for probes and metrics, and nothing else."""
        return {
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: one_spelling(scope["path"]) in _UNTRACED,
        }

    def begin(self, request_id: str) -> RequestTrace | None:
        """For a request that has just arrived; None if its span is not recorded."""
        span = get_current_span()
        return RequestTrace(self, span, request_id) if span.is_recording() else None

    def add(self, name: str, context: Context, start: float, end: float, attributes: Mapping[str, str | int]) -> None:
        """A span that has ended already. Seconds since 1970."""
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=int(start * 1e9))
        span.end(int(end * 1e9))

    def close(self) -> None:
        """Send what is left, for at most a second: nobody waits for a collector that is not there."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)
        if thread.is_alive():
            _log.warning("the last spans did not reach the collector within %g s", _CLOSE_SECONDS)


class _Exporter(SpanExporter):
    """Says once that spans do not arrive, with the cause, and once that they do again.

    The libraries' own lines, several for each attempt, are left out.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self._said_at: float | None = None
        self._warned = False
        self._logs = [logging.getLogger(name) for name in (type(exporter).__module__, _QUEUE_OF_SPANS)]
        for log in self._logs:
            log.addFilter(self._take_line)

    def _take_line(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self._fail(record.getMessage())
        return False

    def _fail(self, cause: str) -> None:
        now = time.monotonic()
        # A collector that is only too slow fails and recovers all the time.
        if not self._failing and (self._said_at is None or now > self._said_at + _SAY_EVERY):
            self._said_at, self._warned = now, True
            _log.warning("spans do not reach the collector; they are dropped while that lasts: %s", cause)
        self._failing = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._fail("the exporter does not say why")
        elif self._failing:
            self._failing = False
            if self._warned:
                self._warned = False
                _log.info("spans reach the collector again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        for log in self._logs:
            log.removeFilter(self._take_line)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _NoPropagator(CompositePropagator):
    """For OTEL_PROPAGATORS=none: the library's own gives no context at all, and FastAPI fails on that."""

    def __init__(self) -> None:
        super().__init__([])

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return Context() if context is None else context


def open_tracer(environment: Mapping[str, str]) -> Tracer:
    """What the variables ask for. Raises LookupError where no package that is installed gives what they name."""
    exporters = [_exporter(name) for name in _exporter_names(environment)]
    detectors = environment.get(_DETECTORS, "").strip()
    if detectors and (problem := not_installed(detectors, "opentelemetry_resource_detector", "*")):
        raise LookupError(f"{_DETECTORS}={detectors!r}: {problem}")
    resource = Resource.create({SERVICE_VERSION: VERSION})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "multi2vec-clip"}))
    if not get_global_textmap().fields:
        set_global_textmap(_NoPropagator())
    # Metrics of the SDK itself: no variable is to turn them on, for nothing here would send them.
    no_metrics = NoOpMeterProvider()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, meter_provider=no_metrics)
    batches = TracingVariables()
    for exporter in exporters:
        processor = BatchSpanProcessor(
            exporter,
            batches.otel_bsp_max_queue_size,
            batches.otel_bsp_schedule_delay,
            batches.otel_bsp_max_export_batch_size,
            batches.otel_bsp_export_timeout,
            meter_provider=no_metrics,
        )
        provider.add_span_processor(processor)
    return Tracer(provider)


def _exporter_names(environment: Mapping[str, str]) -> Iterator[str]:
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    ).strip()
    for name in map(str.strip, (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")):
        if name == "otlp" and protocol not in _PROTOCOLS:
            raise LookupError(f"spans cannot be sent by OTEL_EXPORTER_OTLP_PROTOCOL={protocol}; choose http/protobuf")
        yield _PROTOCOLS[protocol] if name == "otlp" else name


def _exporter(name: str) -> SpanExporter:
    for entry_point in entry_points(group=_EXPORTERS, name=name):
        return _Exporter(entry_point.load()())
    if name == _PROTOCOLS["grpc"]:
        raise LookupError("spans over gRPC need a package: pip install opentelemetry-exporter-otlp-proto-grpc")
    raise LookupError(f"OTEL_TRACES_EXPORTER={name}: {not_installed(name, _EXPORTERS)}")


def _phases(passage: Passage, added: float, over: float) -> Iterator[tuple[str, float, float]]:
    """Name, start and end of each phase; what has not ended when the request is over ends then.

    Items that other requests have asked for before were taken before this one was added.
    """
    steps = (
        ("waiting", added, passage.taken),
        ("preparing", passage.taken, passage.all_prepared),
        ("waiting", passage.prepared, passage.started),
        ("computing", passage.started, passage.ended),
    )
    for name, start, end in steps:
        if start is not None:
            start = max(added, start)
            yield name, start, over if end is None else max(start, end)

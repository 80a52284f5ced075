"""Traces: one span a request with its phases inside, where OpenTelemetry's variables ask for them."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.api.tracing import Tracer
from app.main import create_app
from app.settings import Settings
from tests.support.collector import Collector, value_of
from tests.support.engine import FakeSession, HeldSession, fake_model
from tests.support.load import BATCH, ask, wait_until
from tests.support.samples import as_base64, encoded, scene
from tests.support.server import ROOT, RunningApp, free_port, start_server, wait_for_ready

PHASES = ["receiving", "waiting", "preparing", "waiting", "computing"]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Traced:
    """An app on a port, and the spans that it has made."""

    def __init__(self, running: RunningApp, exporter: InMemorySpanExporter) -> None:
        self.url, self.running = running.url, running
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def request(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The span of the one request since the last call, and its children in the order of their starts."""
        wait_until(lambda: any(span.kind is SpanKind.SERVER for span in self.spans))
        (parent,) = [span for span in self.spans if span.kind is SpanKind.SERVER]
        children = [span for span in self.spans if span is not parent]
        self._exporter.clear()
        assert all(child.parent == parent.context for child in children)
        return parent, sorted(children, key=lambda child: child.start_time or 0)


@pytest.fixture
def traced() -> Iterator[Callable[..., Traced]]:
    with contextlib.ExitStack() as stack:

        def run(session: FakeSession | None = None, **settings: object) -> Traced:
            exporter = InMemorySpanExporter()
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            load = fake_model(session or FakeSession())
            app = create_app(Settings(**BATCH, **settings), load, lambda: None, Tracer(provider))  # type: ignore[arg-type]
            return Traced(stack.enter_context(RunningApp(app)), exporter)

        yield run


def test_a_request_is_one_span_with_its_phases_inside(traced: Callable[..., Traced]) -> None:
    app = traced()
    headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    httpx.post(f"{app.url}/vectorize", json={"texts": ["a secret 7"]}, headers=headers)
    span, children = app.request()
    assert span.name == "POST /vectorize" and span.attributes is not None
    attributes = dict(span.attributes)
    assert f"http://{attributes.pop('server.address')}:{attributes.pop('server.port')}" == app.url
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/vectorize",
        "http.response.status_code": 200,
        "url.path": "/vectorize",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "clip.request_id": "mine",
        "clip.texts": 1,
    }
    assert span.context is not None and f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT
    assert [child.name for child in children] == PHASES
    times = [time or 0 for child in children for time in (child.start_time, child.end_time)]
    assert times == sorted(times) and times[1:-1:2] == times[2::2]  # one after the other, without a gap
    assert (span.start_time or 0) <= times[0] and times[-1] <= (span.end_time or 0)
    assert children[-1].attributes == {"clip.kind": "texts", "clip.items": 1, "clip.batch_items": 1}
    assert not any("secret" in each.to_json() for each in [span, *children])


def test_the_spans_are_what_the_histograms_count(traced: Callable[..., Traced]) -> None:
    app = traced(FakeSession(seconds=0.05))
    ask(app.url, ["a 7"])
    _, children = app.request()
    for phase in ("waiting", "preparing", "computing"):
        spent = sum((c.end_time or 0) - (c.start_time or 0) for c in children if c.name == phase) / 1e9
        assert app.running.metric(f"clip_{phase}_seconds_sum") == pytest.approx(spent, abs=1e-5), phase


def test_texts_and_pictures_have_phases_of_their_own(traced: Callable[..., Traced]) -> None:
    app = traced()
    texts = [f"a {number}" for number in range(20)]
    ask(app.url, texts, [as_base64(encoded(scene())).decode()])
    span, children = app.request()
    assert span.attributes is not None and span.attributes["clip.texts"] == 20 and span.attributes["clip.images"] == 1
    computing = {
        str(c.attributes["clip.kind"]): c.attributes for c in children if c.name == "computing" and c.attributes
    }
    assert computing["texts"]["clip.items"] == 20 and 1 < int(str(computing["texts"]["clip.batch_items"])) <= 8
    assert computing["images"]["clip.items"] == 1
    ask(app.url, texts)
    span, children = app.request()
    assert span.attributes is not None and span.attributes["clip.cached"] == 20
    assert [child.name for child in children] == ["receiving"]


def test_the_callers_sampling_is_honoured_and_probes_are_no_spans(traced: Callable[..., Traced]) -> None:
    app = traced()
    httpx.post(f"{app.url}/vectorize", json={"texts": ["a"]}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    for path in ("/.well-known/live", "/.well-known/ready", "//.well-known/ready/", "/metrics"):
        httpx.get(app.url + path)
    httpx.get(f"{app.url}/meta", headers={"traceparent": "nonsense", "tracestate": "=" * 1000})
    span, _ = app.request()  # nothing of those before
    assert span.name == "GET /meta" and span.parent is None


def test_headers_that_make_no_sense_cost_nothing_and_are_not_logged(
    traced: Callable[..., Traced], caplog: pytest.LogCaptureFixture
) -> None:
    app = traced()
    good = f"00-{TRACE}-{PARENT}-01"
    for headers in (
        {"traceparent": good, "tracestate": "secret=1,secret=2,secret"},
        {"traceparent": good, "baggage": "secret"},
        {"traceparent": good, "baggage": "secret=" + "1" * 50_000},
        {"traceparent": "secret" + good},
        {"host": "secret:secret@secret:99999999"},
    ):
        assert httpx.post(f"{app.url}/vectorize", json={"texts": ["a 7"]}, headers=headers).status_code == 200
        span, _ = app.request()
        assert span.name == "POST /vectorize"
    assert "secret" not in caplog.text


def test_errors_of_ours_are_errors_of_the_span(traced: Callable[..., Traced]) -> None:
    app = traced(api_token="t")
    client = httpx.Client(headers={"authorization": "Bearer t"}, base_url=app.url)
    client.post("/vectorize", json={"texts": ["raise"]})
    span, children = app.request()
    assert span.attributes is not None and span.status.status_code is StatusCode.ERROR
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (500, "500")
    assert [child.name for child in children] == PHASES
    client.post("/vectorize", json={"images": ["no picture"]})
    span, children = app.request()
    assert span.attributes is not None and span.attributes["http.response.status_code"] == 422
    assert span.status.status_code is StatusCode.UNSET and "error.type" not in span.attributes
    assert [child.name for child in children] == ["receiving", "waiting", "preparing"]
    for post, status in ((httpx.post, 401), (client.post, 404)):
        post(f"{app.url}/nowhere")
        span, children = app.request()
        assert span.attributes is not None and span.attributes["http.response.status_code"] == status
        assert span.name == "POST" and not children


def test_a_client_that_leaves_ends_its_span(traced: Callable[..., Traced]) -> None:
    session = HeldSession()
    app = traced(session)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{app.url}/vectorize", json={"texts": ["a 7"]}, timeout=0.5)
    span, children = app.request()
    assert span.attributes is not None and span.attributes["http.response.status_code"] == 499
    assert [child.name for child in children] == PHASES
    session.go_on.set()


@contextlib.contextmanager
def served(models: Path, workers: int, **env: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    port = free_port()
    process = start_server(models, workers=workers, PORT=str(port), **env)
    try:
        wait_for_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()


def test_a_process_sends_its_last_spans_when_it_is_told_to_stop(tiny_models: Path, workers: int) -> None:
    with Collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with served(tiny_models, workers, **variables) as (url, process):
            ask(url, ["one"])
            assert not collector.spans
            process.terminate()
            _, log = process.communicate(timeout=60)
        assert process.returncode == 0 and "WARNING" not in log
        assert sorted(span.name for span in collector.spans) == sorted([*PHASES, "POST /vectorize"])
        (server,) = [span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
        assert {each.key: value_of(each.value) for each in server.attributes}["http.response.status_code"] == 200
        assert collector.resource["service.name"] == "multi2vec-clip" and collector.resource["service.version"]


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_collector_that_is_not_there_delays_nothing(tiny_models: Path, silent: str, workers: int) -> None:
    """Neither a request nor the stop: their time-outs are far beyond those here. Each process says it once
    a minute."""
    for address, said in ((f"http://127.0.0.1:{free_port()}", "Connection refused"), (silent, "within 1 s")):
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        started = time.monotonic()
        with served(tiny_models, workers, LOG_FORMAT="json", **variables) as (url, process):
            for number in range(20):  # more than the queue of spans takes
                assert ask(url, [f"text {number}"]).status_code == 200
            process.terminate()
            _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        warnings = [line["message"] for line in map(json.loads, log.splitlines()) if line["level"] == "warning"]
        about = [line for line in warnings if "Span" in line or "spans" in line]
        minutes = 1 + int((time.monotonic() - started) / 60)
        assert len(about) == len(warnings) <= 2 * workers * minutes and any(said in line for line in about), warnings


def test_what_keeps_spans_away_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "pictures")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        with RunningApp(create_app(Settings(**BATCH), fake_model(FakeSession()))) as running:  # type: ignore[arg-type]
            collector.away = True
            ask(running.url, ["a 1"])
            wait_until(lambda: "Service Unavailable" in caplog.text)
            ask(running.url, ["a 2"])
            collector.away = False
            wait_until(lambda: bool(collector.spans), 30)
            assert collector.resource["service.name"] == "pictures"
    assert [record.levelname for record in caplog.records if "span" in record.getMessage()] == ["WARNING"]


def test_without_its_packages_the_start_says_what_to_install(tiny_models: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    with served(tiny_models, workers, OTEL_TRACES_EXPORTER="otlp", PYTHONPATH=str(tmp_path)) as (url, process):
        assert ask(url, ["one"]).status_code == 200
        process.terminate()
        _, log = process.communicate(timeout=60)
    (line,) = [line for line in log.splitlines() if "WARNING" in line]
    assert "opentelemetry.sdk" in line and "pip install -r requirements/tracing.txt" in line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "nobodys", "has 'nobodys'; choose from console, otlp_proto_http"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http", "OTEL_EXPORTER_OTLP_PROTOCOL=http; choose http/protobuf"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json; choose http/protobuf"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "pip install opentelemetry-exporter-otlp-proto-grpc"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000", "max_export_batch_size"),
    ],
)
def test_a_variable_that_does_not_fit_costs_the_traces_alone(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with RunningApp(create_app(Settings(**BATCH), fake_model(FakeSession()))) as running:  # type: ignore[arg-type]
        assert ask(running.url, ["a 7"]).status_code == 200
    (record,) = [record for record in caplog.records if "no traces" in record.getMessage()]
    assert said in record.getMessage()
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("traces", ["otlp", "none"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_PROPAGATORS", "tracecontext,nonsense", "has 'nonsense'; choose from baggage, none, tracecontext"),
        ("OTEL_PYTHON_CONTEXT", "nonsense", "choose from contextvars_context"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "greater than 0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "a valid integer"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1.5", "a valid integer"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "-1", "greater than 0"),
    ],
)
def test_what_a_library_would_answer_with_a_traceback_ends_the_start(
    name: str, value: str, said: str, traces: str, tiny_models: Path, workers: int
) -> None:
    variables = {"PORT": str(free_port()), "OTEL_TRACES_EXPORTER": traces, name: value}
    process = start_server(tiny_models, workers=workers, **variables)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1 and log.count("\n") == 1
    assert log.startswith(f"error: {name}={value!r}: ") and said in log


def test_values_that_fit_are_taken_and_empty_ones_are_unset(tiny_models: Path, workers: int) -> None:
    with Collector() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_PROPAGATORS": "baggage, None",
            "OTEL_PYTHON_CONTEXT": "contextvars_context",
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_BSP_MAX_QUEUE_SIZE": "",
        }
        with served(tiny_models, workers, **variables) as (url, process):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert httpx.post(f"{url}/vectorize", json={"texts": ["one"]}, headers=headers).status_code == 200
            wait_until(lambda: any(span.kind == span.SPAN_KIND_SERVER for span in collector.spans))
            process.terminate()
            _, log = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in log and "WARNING" not in log
        assert collector.resource["process.pid"]
        assert not any(span.trace_id.hex() == TRACE for span in collector.spans)  # for nothing is propagated


def test_the_sdk_is_not_imported_where_it_is_not_asked_for() -> None:
    program = (
        "import json, os, sys\n"
        "from app.main import create_app\n"
        "from app.settings import Settings\n"
        "for variables in json.loads(sys.argv[1]):\n"
        "    os.environ.update(variables)\n"
        "    create_app(Settings())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'app.api.tracing'))])\n"
    )
    off = [
        {},
        {"OTEL_SERVICE_NAME": "clip", "OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", program, json.dumps(off)]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""create_app(settings): wires the rooms."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app.api import embeddings, page
from app.api.entry import OPEN, Entry
from app.api.routes import router
from app.api.schemas import describe_token
from app.api.status import add_error_handlers
from app.errors import first_line
from app.models.bake import load_named_model
from app.serving.service import Service
from app.settings import Settings
from app.towers import LoadedModel
from app.version import VERSION

if TYPE_CHECKING:
    from app.api.tracing import Tracer

_log = logging.getLogger(__name__)

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _traces_are_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter != "none"
    return any(environment.get(f"OTEL_EXPORTER_OTLP{signal}_ENDPOINT") for signal in ("", "_TRACES"))


def _open_tracer(environment: Mapping[str, str]) -> "Tracer | None":
    """What OpenTelemetry's variables ask for. What keeps traces from being made is said, and keeps nothing else."""
    if not _traces_are_wanted(environment):
        return None
    try:
        from app.api.tracing import open_tracer

        return open_tracer(environment)
    except ImportError as error:
        way_out = "pip install -r requirements/tracing.txt, or build the image with TRACING=1"
        cause = f"{error.name} is not installed; {way_out}"
    except Exception as error:  # of a library, about the value of one of its variables
        cause = first_line(error)
    _log.warning("no traces, though OpenTelemetry's variables ask for them: %s", cause)
    return None


def create_app(
    settings: Settings,
    load: Callable[[Settings], LoadedModel] | None = None,
    on_failure: Callable[[], None] = _terminate,
    tracer: "Tracer | None" = None,
) -> FastAPI:
    """The application. `load` gives another model; `on_failure` ends a server that cannot answer any more.

    `tracer` makes spans in place of the one that OpenTelemetry's variables ask for, if they do.
    """
    tracer = tracer or _open_tracer(os.environ)
    stopping = threading.Event()
    load = load or functools.partial(load_named_model, environment=os.environ, stop=stopping)
    service = Service(settings, load, on_failure, stopping)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        service.stop()
        if tracer is not None:
            tracer.close()

    app = FastAPI(
        title="multi2vec-clip",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry=tracer.telemetry if tracer is not None else _NO_TELEMETRY,
    )
    app.state.service = service
    app.include_router(router)
    if settings.enable_page:
        app.include_router(page.router)
    if settings.enable_embeddings_api:
        app.include_router(embeddings.router)
    add_error_handlers(app)
    token = settings.api_token.get_secret_value().strip() if settings.api_token else None
    if token:
        describe_token(app, OPEN)
    app.add_middleware(Entry, token=token, count=service.metrics.count_answer, tracer=tracer)
    return app

"""create_app(settings): the one place that wires settings, model, processors, budget, batches and routes."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app.api import embeddings, page, routes, vectorize
from app.api.entry import Entry
from app.api.status import answer_http_errors, errors
from app.cgroup import resident_memory, usable_cpus, usable_memory
from app.errors import first_line
from app.models.bake import load_named_model
from app.processors.picture import PictureProcessor, keep_decoded_memory
from app.processors.text import TextPreparer
from app.serving.budget import Budget, limits_for, max_pixels_for
from app.serving.computing import COMPUTE_TIMEOUT
from app.serving.link import Deliver, Link, LocalLink, OnBroken
from app.serving.metrics import Metrics, seconds_since_start
from app.serving.preparing import Preparing
from app.serving.service import Running, Service
from app.serving.turns import BATCHES_AHEAD
from app.serving.vector_cache import VectorCache
from app.settings import VERSION, Settings
from app.towers import BatchLimits, LoadedModel, Tower

if TYPE_CHECKING:
    from app.api.tracing import Tracer

_log = logging.getLogger(__name__)

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
# What the interpreter and the libraries take at work, beside the model and the budget.
_HEADROOM = 64 * 2**20
# So many items of a usual size, at least, are prepared ahead by each of several front processes.
_MIN_AHEAD = 16
# Shared memory for prepared items, in bytes, has at least this size.
_MIN_SHARED = 16 * 2**20


@dataclass(frozen=True)
class Share:
    """One front process among several. `index` counts them, those that replace others too.

    `connect` makes its link to the devices, from the model and the bytes of memory for what is prepared. `collect`
    gives the metrics of all processes.
    """

    fronts: int
    index: int
    connect: Callable[[LoadedModel, int, Deliver], Link]
    collect: Callable[[], Awaitable[bytes]]


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(
    settings: Settings,
    load: Callable[[Settings], LoadedModel] | None = None,
    on_failure: Callable[[], None] = _terminate,
    tracer: "Tracer | None" = None,
    compute_timeout: float = COMPUTE_TIMEOUT,
    share: Share | None = None,
) -> FastAPI:
    """The application. `load` loads another model; `on_failure` ends a server that cannot go on, such as one whose
    device takes `compute_timeout` seconds for a batch.

    `tracer` replaces the one that OpenTelemetry's variables ask for. With a `share` this is one of several front
    processes, and others compute.
    """
    if share is None and settings.workers > 1:
        _log.warning("WORKERS=%d: this is one process; `python -m app` starts several", settings.workers)
    speaks = share is None or share.index == 0  # for all of them
    tracer = tracer or _open_tracer(os.environ, logging.WARNING if speaks else logging.DEBUG)
    metrics = Metrics()
    service = Service(
        lambda stopping: load(settings) if load else load_named_model(settings, stopping),
        lambda model, on_broken: _serve(model, settings, metrics, on_broken, compute_timeout, share),
        on_failure,
        patience=settings.patience,
        compute_timeout=compute_timeout,
    )

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
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        telemetry=tracer.telemetry if tracer is not None else _NO_TELEMETRY,
    )
    app.state.settings = settings
    app.state.service = service
    app.state.metrics = metrics
    app.state.share = share
    for router in (routes.router, vectorize.router):
        app.include_router(router, responses=errors(400, 401, 408, 431, 500))  # which any request may get
    if settings.enable_page:
        app.include_router(page.router)
    if settings.enable_embeddings_api:
        app.include_router(embeddings.router)
    answer_http_errors(app, settings.enable_embeddings_api)
    token = settings.api_token.get_secret_value() if settings.api_token else None
    app.add_middleware(Entry, vectorize=vectorize.vectorize, token=token, count=metrics.count_answer, tracer=tracer)
    return app


def _serve(
    model: LoadedModel,
    settings: Settings,
    metrics: Metrics,
    on_broken: Callable[[str], None],
    compute_timeout: float,
    share: Share | None,
) -> Running:
    """Serve a loaded model; `on_broken` is called when its device cannot go on. Called on the event loop."""
    threads = settings.threads or usable_cpus()
    fronts = share.fronts if share else 1
    towers = {"texts": model.text, "images": model.image}
    shared = 0
    if share:
        towers = {kind: _share_of(tower, fronts) for kind, tower in towers.items()}
        ahead = sum(
            BATCHES_AHEAD * each.limits.items * max(each.item_bytes, 4 * model.width) for each in towers.values()
        )
        shared = max(_MIN_SHARED, ahead)
    each = resident_memory() + _HEADROOM + shared
    whole = (settings.max_memory or usable_memory()) - model.device_bytes - settings.vector_cache_bytes
    limits = limits_for(settings, whole // fronts - each, model.width, threads)
    budget = Budget(limits, settings.patience, lambda cause: metrics.refused.labels(cause).inc())
    keep_decoded_memory(limits.kept_bytes)
    pictures = PictureProcessor(
        model.image.processor,
        max_pixels=max_pixels_for(settings, budget.pictures.most),
        seconds=settings.decode_timeout,
        legacy=settings.legacy_images,
        fast=settings.fast_images,
        memory=budget.preparing,
    )

    def connect(deliver: Deliver, on_broken: OnBroken) -> Link:
        if share:
            return share.connect(model, shared, deliver)
        overlap = settings.enable_cuda
        return LocalLink(towers, model.width, deliver, on_broken, metrics, overlap=overlap, timeout=compute_timeout)

    preparing = Preparing(
        towers=towers,
        preparers={"texts": TextPreparer(model.text.processor), "images": pictures},
        width=model.width,
        threads=-(-threads // fronts) + 1,
        connect=connect,
        cache=VectorCache(settings.vector_cache_bytes // (fronts + 1 if share else 1)),
        client_timeout=settings.client_timeout,
        metrics=metrics,
        on_broken=on_broken,
    )
    metrics.waiting_bytes.set_function(lambda: budget.used()["requests"])
    serves = {
        "model": model.name,
        "family": model.family,
        "engine": model.engine,
        "precision": model.precision,
        "version": VERSION,
    }
    metrics.model.info(serves)
    seconds = seconds_since_start(os.getppid() if share else "self")
    metrics.ready_seconds.set(seconds)
    fields = {
        **serves,
        "width": model.width,
        "folder": model.folder,
        "threads": threads,
        "batch_texts": model.text.limits.items,
        "batch_tokens": model.text.limits.tokens,
        "batch_images": model.image.limits.items,
        "workers": fronts if share else "",
        "budget": f"{limits}, in each worker" if share else str(limits),
        "seconds_to_ready": round(seconds, 2),
    }
    if share is None or share.index == 0:
        line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items() if value != "")
        _log.info("ready: %s", line, extra={"fields": fields})
    return Running(model, preparing, budget, _json(model.meta), serves, pictures.close)


def _share_of(tower: Tower, fronts: int) -> Tower:
    """A tower as one of several front processes sees it: together they prepare what the device needs."""
    items = max(-(-tower.limits.items // fronts), min(tower.limits.items, _MIN_AHEAD))
    return replace(tower, limits=BatchLimits(items, tower.limits.tokens, tower.limits.same_length))


def _json(meta: dict[str, Any]) -> bytes:
    """JSON of a model's own configuration: integers of any size stay, NaN and infinity become null."""
    return json.dumps(json.loads(json.dumps(meta), parse_constant=lambda _: None)).encode()


def _open_tracer(environment: Mapping[str, str], level: int) -> "Tracer | None":
    """The tracer that OpenTelemetry's variables ask for; if it cannot be made, the log says why, at `level`."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if is_off or not (exporter or any(map(environment.get, endpoints))):
        return None
    try:
        from app.api.tracing import open_tracer

        return open_tracer(environment)
    except ImportError as error:
        way_out = "pip install -r requirements/tracing.txt, or build the image with TRACING=1"
        cause = f"{error.name} is not installed; {way_out}"
    except Exception as error:  # a library dislikes the value of one of its variables
        cause = first_line(error)
    _log.log(level, "no traces, though OpenTelemetry's variables ask for them: %s", cause)
    return None

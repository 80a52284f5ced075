"""create_app(settings): wires the rooms."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api import embeddings, page
from app.api.entry import OPEN, Entry
from app.api.openapi import ask_for_token
from app.api.routes import router
from app.api.status import add_error_handlers
from app.models.load import load_model
from app.serving.service import Service
from app.settings import Settings
from app.towers import LoadedModel
from app.version import VERSION


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(
    settings: Settings,
    load: Callable[[Settings], LoadedModel] | None = None,
    on_failure: Callable[[], None] = _terminate,
) -> FastAPI:
    """The application. `load` gives another model; `on_failure` ends a server that cannot answer any more."""
    stopping = threading.Event()
    service = Service(settings, load or functools.partial(load_model, stop=stopping), on_failure, stopping)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        service.stop()

    app = FastAPI(title="multi2vec-clip", version=VERSION, lifespan=lifespan, redirect_slashes=False)
    app.state.service = service
    app.include_router(router)
    if settings.enable_page:
        app.include_router(page.router)
    if settings.enable_embeddings_api:
        app.include_router(embeddings.router)
    add_error_handlers(app)
    token = settings.api_token.get_secret_value().strip() if settings.api_token else None
    if token:
        ask_for_token(app, OPEN)
    app.add_middleware(Entry, token=token, count=service.metrics.count_answer)
    return app

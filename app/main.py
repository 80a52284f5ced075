"""create_app(settings): wires the rooms, owns start and stop."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.batching import Batcher
from app.contract import ServiceError, Unavailable
from app.models import Model, load_model
from app.routes import add_error_handlers, router
from app.settings import Settings

_log = logging.getLogger("uvicorn.error")


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Lifecycle:
    """Loading, ready, or failed: the one owner of that state."""

    def __init__(self, settings: Settings, on_failure: Callable[[], None]) -> None:
        self.settings = settings
        self.failure: str | None = None
        self.model: Model | None = None
        self._batcher: Batcher | None = None
        self._on_failure = on_failure

    def require(self) -> Batcher:
        """The batcher; raises Unavailable while loading and after a failure."""
        if self._batcher is None:
            raise Unavailable(self.failure or "the model is being loaded; try again in a moment")
        return self._batcher

    async def start(self) -> None:
        """Load the model off the event loop; a failure is logged in one line and ends the server."""
        try:
            self.model = await asyncio.to_thread(self._load)
            self._batcher = Batcher(self.model, self.settings)
            _log.info("ready: vectors of width %d", self.model.width)
        except ServiceError as error:
            self.failure = str(error)
            _log.critical("%s", error)
            self._on_failure()
        except Exception as error:
            self.failure = f"cannot load the model: {error}"
            _log.critical("cannot load the model", exc_info=error)
            self._on_failure()

    def _load(self) -> Model:
        model = load_model(self.settings)
        model.warm_up()
        return model

    def stop(self) -> None:
        if self._batcher is not None:
            self._batcher.close()


def create_app(settings: Settings, on_failure: Callable[[], None] = _terminate) -> FastAPI:
    """The application. `on_failure` is called when the model cannot be loaded."""
    lifecycle = Lifecycle(settings, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(lifecycle.start())
        yield
        await loading
        await asyncio.to_thread(lifecycle.stop)

    app = FastAPI(title="multi2vec-clip", lifespan=lifespan, redirect_slashes=False)
    app.state.lifecycle = lifecycle
    app.include_router(router)
    add_error_handlers(app)
    return app

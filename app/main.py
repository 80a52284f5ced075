"""create_app(settings): wires the rooms, owns start and stop."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI
from PIL import Image

from app.batching import Batcher, BatchLimits, measure_batch
from app.contract import BodyTooLarge, Overloaded, ServiceError, Unavailable
from app.cpus import usable_cpus
from app.engines import Inputs
from app.images import decode_image
from app.metrics import Metrics
from app.models import Model
from app.models.loading import load_model
from app.routes import add_error_handlers, router
from app.settings import Settings

_log = logging.getLogger("uvicorn.error")

# A batch that takes longer than this keeps a waiting query for too long; a larger one gains little.
_BATCH_SECONDS = 0.1
_SAMPLE_TEXT = "a photo of a dog that sleeps beside a bicycle"
_SAMPLE_IMAGE_SIZE = (320, 240)
_MOST_ITEMS = {"cpu": 32, "cuda": 256}


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Admission:
    """One request's share of the memory for bodies."""

    def __init__(self, lifecycle: "Lifecycle") -> None:
        self._lifecycle = lifecycle
        self.size = 0

    def grow(self, size: int) -> None:
        """Account for `size` more bytes; raises BodyTooLarge or Overloaded."""
        settings = self._lifecycle.settings
        if self.size + size > settings.max_body_bytes:
            raise BodyTooLarge(
                f"the body has more than the {settings.max_body_bytes} bytes allowed; send less at once"
            )
        if self._lifecycle.body_bytes + size > settings.max_waiting_bytes:
            raise Overloaded("too many large requests wait; try again in a moment")
        self.size += size
        self._lifecycle.body_bytes += size


class Lifecycle:
    """Loading, ready, draining or failed: the one owner of that state. Used on the event loop."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Model], on_failure: Callable[[], None]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: str | None = None
        self.draining = False
        self.in_flight = 0
        self.body_bytes = 0
        self._load = load
        self._on_failure = on_failure
        self._model: Model | None = None
        self._batcher: Batcher | None = None

    def require(self) -> tuple[Model, Batcher]:
        """Model and batcher; raises Unavailable while loading, while draining and after a failure."""
        if self.failure is not None:
            raise Unavailable(self.failure)
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self._model is None or self._batcher is None:
            raise Unavailable("the model is being loaded; try again in a moment")
        return self._model, self._batcher

    @contextmanager
    def admit(self) -> Iterator[Admission]:
        """A request that will be answered before the server stops."""
        admission = Admission(self)
        self.in_flight += 1
        try:
            yield admission
        finally:
            self.in_flight -= 1
            self.body_bytes -= admission.size

    async def run(self) -> None:
        """Load the model off the event loop, then watch the device until cancelled."""
        loop = asyncio.get_running_loop()

        def on_broken(message: str) -> None:
            loop.call_soon_threadsafe(self.fail, message)

        try:
            self._model, batcher = await asyncio.to_thread(self._start, on_broken)
            self._batcher = batcher
        except ServiceError as error:
            self.fail(str(error))
            return
        except Exception as error:
            _log.error("cannot load the model", exc_info=error)
            self.fail(f"cannot load the model: {error}")
            return
        limit = self.settings.compute_timeout
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            if batcher.longest_running() > limit:
                batcher.give_up(f"a batch has been computing for more than {limit:g} s; the device hangs")
                return

    def fail(self, message: str) -> None:
        """Say it once, turn ready to 503 and end the server."""
        if self.failure is None:
            self.failure = message
            _log.critical("%s", message)
            self._on_failure()

    def stop(self) -> None:
        if self._batcher is not None:
            self._batcher.stop()

    def _start(self, on_broken: Callable[[str], None]) -> tuple[Model, Batcher]:
        settings = self.settings
        model = self._load(settings)
        device = "cuda" if settings.enable_cuda else "cpu"
        batcher = Batcher(
            width=model.width,
            max_waiting=settings.max_waiting_items,
            preparing_threads=settings.threads or usable_cpus(),
            device_threads=2 if settings.enable_cuda else 1,
            metrics=self.metrics,
            on_broken=on_broken,
        )
        texts = settings.text_batch or measure_batch(model.text, _SAMPLE_TEXT, _BATCH_SECONDS, _MOST_ITEMS[device])
        images = settings.image_batch or measure_batch(
            model.image, Image.new("RGB", _SAMPLE_IMAGE_SIZE), _BATCH_SECONDS, _MOST_ITEMS[device]
        )
        sample_tokens = len(model.text.prepare(_SAMPLE_TEXT).get("input_ids", _SAMPLE_TEXT))
        tokens = settings.text_batch_tokens or texts * sample_tokens

        def prepare_image(text: str) -> Inputs:
            return model.image.prepare(decode_image(text, settings.max_pixels, settings.legacy_images))

        batcher.add_queue("texts", model.text, model.text.prepare, BatchLimits(texts, tokens))
        batcher.add_queue("images", model.image, prepare_image, BatchLimits(images, images))
        batcher.start()
        _log.info(
            "ready: %s in %s, vectors of width %d, batches of %d texts (%d tokens) and %d images",
            model.engine,
            settings.precision,
            model.width,
            texts,
            tokens,
            images,
        )
        return model, batcher


def create_app(
    settings: Settings,
    load: Callable[[Settings], Model] = load_model,
    on_failure: Callable[[], None] = _terminate,
) -> FastAPI:
    """The application. `load` gives the model; `on_failure` ends a server that cannot answer any more."""
    lifecycle = Lifecycle(settings, load, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(lifecycle.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        lifecycle.stop()

    app = FastAPI(title="multi2vec-clip", lifespan=lifespan, redirect_slashes=False)
    app.state.lifecycle = lifecycle
    app.include_router(router)
    add_error_handlers(app)
    return app

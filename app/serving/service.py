"""Loading, ready, draining or failed: the one owner of that state."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.cgroup import usable_cpus
from app.errors import ServiceError, Unavailable
from app.processors.decode import decode_image
from app.serving.batcher import Batcher
from app.serving.budget import Admission, Budget
from app.serving.metrics import Metrics
from app.settings import Settings
from app.towers import Inputs, LoadedModel

_log = logging.getLogger(__name__)

# Bytes of UTF-8; more than any model reads of a text, and few enough to be decoded at once.
_LONGEST_TEXT = 8 * 2**20


class Service:
    """Loading, ready, draining or failed: the one owner of that state. Used on the event loop."""

    def __init__(
        self, settings: Settings, load: Callable[[Settings], LoadedModel], on_failure: Callable[[], None]
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: str | None = None
        self.draining = False
        self.in_flight = 0
        self.budget = Budget(settings)
        self._load = load
        self._on_failure = on_failure
        self._model: LoadedModel | None = None
        self._batcher: Batcher | None = None

    def require(self) -> tuple[LoadedModel, Batcher]:
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
        admission = Admission(self.budget)
        self.in_flight += 1
        try:
            yield admission
        finally:
            self.in_flight -= 1
            admission.release()

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

    def _start(self, on_broken: Callable[[str], None]) -> tuple[LoadedModel, Batcher]:
        settings = self.settings
        model = self._load(settings)
        batcher = Batcher(
            width=model.width,
            max_waiting=settings.max_waiting_items,
            preparing_threads=settings.threads or usable_cpus(),
            device_threads=2 if settings.enable_cuda else 1,
            metrics=self.metrics,
            on_broken=on_broken,
        )

        def prepare_text(text: bytes) -> Inputs:
            return model.text.processor(text[:_LONGEST_TEXT].decode(errors="ignore"))

        def prepare_image(base64: bytes) -> Inputs:
            text = base64.decode("latin-1")  # as many characters as bytes, whatever it is
            return model.image.processor(decode_image(text, settings.max_pixels, settings.legacy_images))

        batcher.add_queue("texts", model.text, prepare_text)
        batcher.add_queue("images", model.image, prepare_image)
        batcher.start()
        _log.info(
            "ready: %s in %s, vectors of width %d, batches of %d texts (%d tokens) and %d images",
            model.engine,
            settings.precision,
            model.width,
            model.text.limits.items,
            model.text.limits.tokens,
            model.image.limits.items,
        )
        return model, batcher

"""Loading, ready, draining or failed: the one owner of that state."""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.cgroup import resident_memory, usable_cpus, usable_memory
from app.errors import ServiceError, Unavailable
from app.processors.picture import PictureProcessor, keep_decoded_memory
from app.processors.text import count_tokens, prepare_text, prepare_texts
from app.serving.about import about
from app.serving.batcher import Batcher
from app.serving.budget import Budget, limits_for, max_pixels_for
from app.serving.metrics import Metrics, seconds_since_start
from app.serving.vector_cache import VectorCache
from app.settings import Settings
from app.towers import Inputs, LoadedModel

_log = logging.getLogger(__name__)

# What the interpreter and the libraries take beside the model and the budget, while they work.
_HEADROOM = 64 * 2**20
# For what loads to end its processes and remove what is half made.
_STOP_SECONDS = 1.0


@dataclass(frozen=True)
class Running:
    """A loaded model and what serves it.

    `meta` is what GET /meta reports, as JSON; `about` names the model and what computes it, in words; `close` ends
    what it started.
    """

    model: LoadedModel
    batcher: Batcher
    budget: Budget
    meta: bytes
    about: dict[str, str]
    close: Callable[[], None]

    def count_tokens(self, texts: list[bytes]) -> int:
        """The tokens that the model reads of these texts; tokenizes them, so not for the event loop."""
        times = Counter(texts)
        return sum(number * count_tokens(self.model.text.processor, text) for text, number in times.items())


class Service:
    """Loading, ready, draining or failed: the one owner of that state. Used on the event loop."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[Settings], LoadedModel],
        on_failure: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: str | None = None
        self.draining = False
        self._load = load
        self._on_failure = on_failure
        self._stopping = stopping
        self._loading: threading.Thread | None = None
        self.current: Running | None = None
        self._settled = asyncio.Event()

    def check_ready(self) -> None:
        """Raises Unavailable while loading, while draining and after a failure."""
        if self.failure is not None:
            raise Unavailable(self.failure)
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self.current is None:
            raise Unavailable("the model is being loaded; try again in a moment")

    async def running(self) -> Running:
        """What serves a request, also while the server drains; waits for a model that is being loaded.

        Raises Unavailable with the cause if that fails or takes longer than `loading_timeout`.
        """
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.loading_timeout):
                    await self._settled.wait()
        if self.failure is not None:
            raise Unavailable(self.failure)
        if self.current is None:
            raise Unavailable("the model is still being loaded; try again later")
        return self.current

    async def run(self) -> None:
        """Load the model off the event loop, then watch the device until cancelled."""
        loop = asyncio.get_running_loop()

        def on_broken(message: str) -> None:
            loop.call_soon_threadsafe(self.fail, message)

        try:
            self.current = running = await self._load_on_a_thread(on_broken)
            self._settled.set()
        except ServiceError as error:
            self.fail(str(error))
            return
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a native library's panic is no Exception
            _log.error("cannot load the model", exc_info=error)
            self.fail(f"cannot load the model: {error}")
            return
        batcher = running.batcher
        limit = self.settings.compute_timeout
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            batcher.watch(limit)

    def fail(self, message: str) -> None:
        """Say it once, turn ready to 503 and end the server."""
        if self.failure is None:
            self.failure = message
            self._settled.set()
            _log.critical("%s", message)
            self._on_failure()

    def stop(self) -> None:
        """End the threads, and what loads; what still waits fails."""
        self._stopping.set()
        if self._loading is not None:
            self._loading.join(_STOP_SECONDS)
        if self.current is not None:
            self.current.batcher.stop()
            self.current.close()

    def _load_on_a_thread(self, on_broken: Callable[[str], None]) -> asyncio.Future[Running]:
        """The outcome of `_start`, on a thread that does not keep the process from ending, as an executor's would."""
        future: concurrent.futures.Future[Running] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = self._start(on_broken)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._loading = threading.Thread(target=run, name="load", daemon=True)
        self._loading.start()
        return asyncio.wrap_future(future)

    def _start(self, on_broken: Callable[[str], None]) -> Running:
        settings = self.settings
        threads = settings.threads or usable_cpus()
        model = self._load(settings)
        batcher = Batcher(
            width=model.width,
            preparing_threads=threads + 1,
            device_threads=2 if settings.enable_cuda else 1,
            cache=VectorCache(settings.vector_cache_bytes),
            metrics=self.metrics,
            on_broken=on_broken,
        )

        free = usable_memory() - resident_memory() - settings.vector_cache_bytes - _HEADROOM
        limits = limits_for(settings, free, model.width, threads)
        budget = Budget(limits, settings.room_timeout, lambda cause: self.metrics.refused.labels(cause).inc())
        pictures = PictureProcessor(
            model.image.processor,
            max_pixels=max_pixels_for(settings, budget.most_picture),
            seconds=settings.decode_timeout,
            legacy=settings.legacy_images,
            fast=settings.fast_images,
        )

        def prepare_image(base64: bytes) -> Inputs:
            with pictures.open(base64) as picture, budget.preparing(picture.decoded_bytes):
                return picture.prepare()

        keep_decoded_memory(limits.kept_bytes)
        text_processor = model.text.processor
        batcher.add_queue(
            "texts",
            model.text,
            lambda text: prepare_text(text_processor, text),
            lambda texts: prepare_texts(text_processor, texts),
        )
        # One thread is always left for texts: pictures may take long, whatever prepares them.
        batcher.add_queue("images", model.image, prepare_image, most_preparing=threads)
        batcher.start()
        self.metrics.waiting_bytes.set_function(lambda: budget.used()["bodies"])
        serves = about(model)
        self.metrics.model.info(serves)
        self.metrics.ready_seconds.set(seconds_since_start())
        fields = {
            **serves,
            "width": model.width,
            "folder": model.folder,
            "threads": threads,
            "batch_texts": model.text.limits.items,
            "batch_tokens": model.text.limits.tokens,
            "batch_images": model.image.limits.items,
            "budget": str(limits),
            "seconds_to_ready": round(seconds_since_start(), 2),
        }
        line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items() if value != "")
        _log.info("ready: %s", line, extra={"fields": fields})
        return Running(model, batcher, budget, _json(model.meta), serves, pictures.close)


def _json(meta: dict[str, Any]) -> bytes:
    """JSON of a model's own configuration, whatever it holds: integers of any size, no number that JSON lacks."""
    try:
        return json.dumps(meta, allow_nan=False).encode()
    except ValueError:
        finite = json.loads(json.dumps(meta), parse_constant=lambda _: None)
        return json.dumps(finite).encode()

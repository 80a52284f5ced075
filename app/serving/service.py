"""Loading, ready, draining or failed: the owner of that state."""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import ServiceError, Stopped, Unavailable
from app.processors.text import TextPreparer
from app.serving.budget import Budget
from app.serving.preparing import Preparing
from app.towers import LoadedModel

_log = logging.getLogger(__name__)

# For the loading thread to end its processes and remove what is half made.
_STOP_SECONDS = 1.0


@dataclass(frozen=True)
class Running:
    """A loaded model and what serves it.

    `meta` is the JSON of GET /meta; `about` names the model and what computes it, in words; `close` ends what the
    model started.
    """

    model: LoadedModel
    preparing: Preparing
    budget: Budget
    meta: bytes
    about: dict[str, str]
    close: Callable[[], None]

    def count_tokens(self, texts: list[bytes]) -> int:
        """The number of tokens that the model reads of these texts. It tokenizes them: not for the event loop."""
        preparer = TextPreparer(self.model.text.processor)
        return sum(number * preparer.count_tokens(text) for text, number in Counter(texts).items())


class Service:
    """Loading, ready, draining or failed. Used on the event loop."""

    def __init__(
        self,
        load: Callable[[threading.Event], LoadedModel],
        start: Callable[[LoadedModel, Callable[[str], None]], Running],
        on_failure: Callable[[], None],
        *,
        patience: float,
        compute_timeout: float,
    ) -> None:
        """`load` returns the model, and ends soon after its event is set. `start` serves it, and gets a function to
        call with what failed.

        A request waits `patience` seconds for the model. An item that takes `compute_timeout` seconds is a failure.
        """
        self.failure: str | None = None
        self.draining = False
        self.current: Running | None = None
        self._load = load
        self._start = start
        self._on_failure = on_failure
        self._patience = patience
        self._compute_timeout = compute_timeout
        self._stopping = threading.Event()
        self._loading: threading.Thread | None = None
        self._settled = asyncio.Event()

    @property
    def is_loading(self) -> bool:
        return self.current is None and self.failure is None

    def check_ready(self) -> None:
        """Raises Unavailable while loading, while draining and after a failure."""
        if self.failure is not None:
            raise Unavailable(self.failure)
        if self.draining:
            raise Unavailable("the server is shutting down")
        if self.current is None:
            raise Unavailable("the model is still loading; try again in a moment")

    async def running(self) -> Running:
        """What serves a request, also while the server drains. Waits for the model if it is loading.

        Raises Unavailable with the cause if loading fails or takes too long.
        """
        if self.is_loading:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), self._patience)
        if self.failure is not None:
            raise Unavailable(self.failure)
        if self.current is None:
            raise Unavailable("the model is still loading; try again later")
        return self.current

    async def run(self) -> None:
        """Load the model off the event loop, then watch the device until cancelled."""
        try:
            model = await self._load_on_a_thread()
            self.current = self._start(model, self.fail)
            self._settled.set()
        except Stopped:
            return
        except ServiceError as error:
            self.fail(str(error))
            return
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a native library's panic is no Exception
            _log.error("cannot load the model", exc_info=error)
            self.fail(f"cannot load the model: {error}")
            return
        while True:
            await asyncio.sleep(min(1.0, self._compute_timeout / 4))
            self.current.preparing.watch(self._compute_timeout)

    def drain(self) -> None:
        """Turn ready to 503, and go on answering."""
        self.draining = True

    def fail(self, message: str, *, told: bool = False) -> None:
        """Log it once, turn ready to 503 and end the server; if another process `told` of it, that does the rest."""
        if self.failure is None:
            self.failure = message
            self._settled.set()
            if not told:
                _log.critical("%s", message)
                self._on_failure()

    def stop(self) -> None:
        """End loading and all threads; what still waits fails."""
        self._stopping.set()
        if self._loading is not None:
            self._loading.join(_STOP_SECONDS)
        if self.current is not None:
            self.current.preparing.stop()
            self.current.close()

    def _load_on_a_thread(self) -> asyncio.Future[LoadedModel]:
        """Load on a daemon thread: one of an executor would keep the process from ending."""
        future: concurrent.futures.Future[LoadedModel] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = self._load(self._stopping)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._loading = threading.Thread(target=run, name="load", daemon=True)
        self._loading.start()
        return asyncio.wrap_future(future)

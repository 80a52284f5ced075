"""python -m app: serve until SIGTERM."""

import ctypes
import signal
import sys
import time
from types import FrameType

import uvicorn

from app.errors import ConfigurationError
from app.main import create_app
from app.serving.service import Service
from app.settings import load_settings

# Weaviate's client reuses idle connections for 90 s.
KEEP_ALIVE_SECONDS = 120


_LOGGING = {
    **uvicorn.config.LOGGING_CONFIG,
    "loggers": {
        **uvicorn.config.LOGGING_CONFIG["loggers"],
        "app": {"handlers": ["default"], "level": "INFO", "propagate": False},
    },
}

# glibc's mallopt(3): the number of heaps that threads share.
M_ARENA_MAX = -8


def use_one_heap() -> None:
    """A heap a thread would keep what its thread freed, and memory would grow for hours before it is flat."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has one heap anyway
        mallopt(M_ARENA_MAX, 1)


class DrainingServer(uvicorn.Server):
    """On SIGTERM it goes on listening, so that ready says 503, until accepted requests are answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            super().handle_exit(sig, frame)  # asked a second time
            return
        self._captured_signals.append(sig)
        self._service.draining = True
        self._deadline = time.monotonic() + self._service.settings.grace_period

    async def on_tick(self, counter: int) -> bool:
        service = self._service
        over = not self.server_state.tasks or time.monotonic() > self._deadline
        if service.draining and over:
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when the server could not start or go on."""
    # uvicorn raises the signal again once it has shut down; a clean stop must still be status 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    use_one_heap()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
        access_log=False,
        log_config=_LOGGING,
        server_header=False,
    )
    status = 0
    try:
        DrainingServer(config, app.state.service).run()
    except SystemExit as stop:
        status = int(stop.code or 0)
    return 1 if app.state.service.failure else status


if __name__ == "__main__":
    sys.exit(main())

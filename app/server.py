"""The server around the app: signals, draining, and when connections close."""

import asyncio
import logging
import os
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.api.protocol import protocol_for
from app.main import create_app
from app.serving.service import Service
from app.settings import Settings
from app.system import collect_garbage_less_often

_log = logging.getLogger(__name__)

# Weaviate's client reuses idle connections for 90 s.
KEEP_ALIVE_SECONDS = 120
# A cluster takes about so long to send new connections elsewhere.
DRAIN_SECONDS_IN_A_CLUSTER = 5.0
_CLOSE = (b"connection", b"close")
_TICK = 0.05


def drain_delay(settings: Settings) -> float:
    """Seconds after SIGTERM for which the port stays open."""
    if settings.drain_delay is not None:
        return settings.drain_delay
    return DRAIN_SECONDS_IN_A_CLUSTER if os.environ.get("KUBERNETES_SERVICE_HOST") else 0.0


class Server(uvicorn.Server):
    """Answers all that has begun to arrive before it ends.

    After SIGTERM every answer carries `Connection: close`, ready says 503, and for the drain delay everything else
    goes on, so that clients move on by themselves. Then the server closes the port and, without sending a byte, the
    connections on which nothing has begun: a client may then repeat its request elsewhere, which it may not after a
    503. SIGINT and a failure skip the delay. A second signal, or one before the model is loaded, ends the server at
    once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, settings: Settings) -> None:
        super().__init__(config)
        self._service = service
        self._settings = settings
        self._asked_at: float | None = None
        self._asked_by: int | None = None
        self._at_once = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal. uvicorn's own handler would raise it again at the end and so change the exit status."""
        if self._asked_at is not None:
            self._at_once = True
            return
        self._asked_at, self._asked_by = time.monotonic(), sig

    async def on_tick(self, counter: int) -> bool:
        if self._asked_at is not None and not self._service.draining:
            self._begin_to_drain()
        asked_otherwise = await super().on_tick(counter)
        if self._asked_at is None:
            return asked_otherwise
        return self._at_once or time.monotonic() >= self._asked_at + self._delay()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, then each connection once what has begun on it is answered."""
        # Closing the port resets connections that wait in its backlog: accept them first.
        await asyncio.sleep(_TICK)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        deadline = (self._asked_at or time.monotonic()) + self._settings.grace_period
        while self.server_state.connections and not self._at_once and time.monotonic() < deadline:
            for connection in self._connections():
                connection.shutdown()  # closes it, if nothing has begun to arrive
            await asyncio.sleep(_TICK)
        if left := self._connections():
            cause = "GRACE_PERIOD is over"
            if self._at_once:
                cause = "the model is not loaded" if self._service.is_loading else "a second signal came"
            _log.warning("connections closed without an answer: %d (%s)", len(left), cause)
        for connection in left:
            connection.transport.abort()
        await self.lifespan.shutdown()

    def _begin_to_drain(self) -> None:
        self._service.drain()
        # Without a model there is no answer, and loading may take minutes.
        self._at_once = self._at_once or self._service.is_loading
        self.config.encoded_headers.append(_CLOSE)
        for connection in self._connections():
            connection.make_last()
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        cause = "the failure" if self._service.failure else signal.Signals(self._asked_by or signal.SIGTERM).name
        _log.info("shutting down on %s", cause)

    def _delay(self) -> float:
        if self._asked_by == signal.SIGINT or self._service.failure is not None:
            return 0.0
        return drain_delay(self._settings)

    def _connections(self) -> list[Any]:
        return list(self.server_state.connections)


def make_server(app: FastAPI) -> Server:
    return Server(make_config(app), app.state.service, app.state.settings)


def make_config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_for(app.state.settings),
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,
        proxy_headers=False,  # nobody asks for the client's address
        log_config=None,
        server_header=False,
    )


def serve(settings: Settings, sockets: list[socket.socket]) -> int:
    """Serve on `sockets`, which already listen. Returns the exit status: 0 after a clean stop, 1 after a failure."""
    collect_garbage_less_often()
    app = create_app(settings)
    make_server(app).run(sockets)
    return 1 if app.state.service.failure else 0

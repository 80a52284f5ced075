"""A front process: HTTP, bodies, preparing, answers. What computes is elsewhere (see remote.py).

The supervisor tells it, over a channel:

                                                  ->  "up": connections are welcome
    <-  "model" pickled                           ->  "connected": it can answer with any device
    <-  "device" descriptor of a socket
    <-  "connection" descriptor                   ->  "taken", and "closed": a connection has ended
    <-  "drain" signal, "port closed"             ->  "broken" message
    <-  "failed" message
    <-  "metrics"                                 ->  "metrics" snapshot
    <-  "collected" snapshots                     ->  "collect"
"""

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import uvicorn

from app.api.protocol import HttpProtocol
from app.errors import Stopped
from app.main import Share, create_app
from app.processes.channel import Channel
from app.processes.remote import RemoteLink
from app.server import Server, make_config
from app.serving.link import Deliver, Link
from app.serving.metrics import Metrics, merge
from app.serving.service import Service
from app.settings import Settings
from app.towers import LoadedModel

_COLLECT_SECONDS = 1.0


class Front:
    """One front process's server, at the supervisor's command."""

    def __init__(self, settings: Settings, channel: Channel, index: int, fronts: int) -> None:
        self._channel = channel
        self._model: SimpleQueue[bytes | None] = SimpleQueue()
        self._link: RemoteLink
        self._collecting: list[asyncio.Future[list[bytes]]] = []
        app = create_app(
            settings,
            load=self._wait_for_model,
            on_failure=self._tell_failure,
            share=Share(fronts, index, self._connect, self._collect),
        )
        self._service: Service = app.state.service
        self._metrics: Metrics = app.state.metrics
        self._server = FrontServer(make_config(app), self._service, settings, self._started)

    def run(self) -> None:
        """Serve until the supervisor says that the port is closed and all is answered."""
        logging.getLogger("app.server").setLevel(logging.WARNING)  # why it ends, the supervisor says
        self._server.run([])

    def _started(self) -> None:
        """The event loop runs, and the server takes connections."""
        asyncio.get_running_loop().add_reader(self._channel.sock, self._receive)
        self._send("up")

    def _wait_for_model(self, _: Settings) -> LoadedModel:
        pickled = self._model.get()
        if pickled is None:
            raise Stopped("the server is shutting down")
        model: LoadedModel = pickle.loads(pickled)
        return model

    def _connect(self, model: LoadedModel, capacity: int, deliver: Deliver) -> Link:
        self._link = RemoteLink(capacity, model.width, deliver)
        self._send("connected")
        return self._link

    def _tell_failure(self) -> None:
        self._send("broken", self._service.failure)

    async def _collect(self) -> bytes:
        """The metrics of all processes, as one."""
        future = asyncio.get_running_loop().create_future()
        self._collecting.append(future)
        self._send("collect")
        try:
            return merge(await asyncio.wait_for(future, _COLLECT_SECONDS))
        except TimeoutError:
            return self._metrics.dump()

    def _send(self, *values: Any) -> None:
        self._channel.tell(*values)
        if self._channel.is_blocked:
            asyncio.get_running_loop().add_writer(self._channel.sock, self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.is_blocked:
            asyncio.get_running_loop().remove_writer(self._channel.sock)

    def _receive(self) -> None:
        try:
            for kind, *values in self._channel.told():
                self._handle(kind, values)
        except EOFError:  # the supervisor has ended, and so does this process
            signal.raise_signal(signal.SIGKILL)

    def _handle(self, kind: str, values: list[Any]) -> None:
        if kind == "connection":
            self._send("taken")  # before anything of it is read
            if values:
                self._server.take(socket.socket(fileno=values[0]), lambda: self._send("closed"))
            else:  # this process may open no more files
                self._send("closed")
        elif kind == "model":
            self._model.put(values[0])
        elif kind == "device":
            self._link.add_device(socket.socket(fileno=values[0]))
        elif kind == "drain":
            if self._service.is_loading:
                self._model.put(None)
            self._server.handle_exit(values[0], None)
        elif kind == "port closed":
            self._server.port_closed = True
        elif kind == "failed":
            self._service.fail(values[0], told=True)
            if self._service.current is not None:
                self._service.current.preparing.give_up(values[0])
        elif kind == "metrics":
            self._send("metrics", self._metrics.snapshot())
        elif kind == "collected":
            for future in self._collecting:
                if not future.done():
                    future.set_result(values[0])
            self._collecting.clear()


class FrontServer(Server):
    """A Server whose connections come one by one, and whose port the supervisor closes."""

    def __init__(
        self, config: uvicorn.Config, service: Service, settings: Settings, started: Callable[[], None]
    ) -> None:
        super().__init__(config, service, settings)
        self.port_closed = False
        self._on_started = started
        self._connecting: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the supervisor."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        await super().on_tick(counter)
        return self._at_once or self.port_closed

    def take(self, sock: socket.socket, on_closed: Callable[[], None]) -> None:
        """Serve a connection that was accepted; `on_closed` is called at its end."""

        def make() -> asyncio.Protocol:
            kind: Any = self.config.http_protocol_class
            protocol: HttpProtocol = kind(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            protocol.on_lost = on_closed
            return protocol

        async def connect() -> None:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(make, sock)
            except OSError:
                sock.close()
                on_closed()

        task = asyncio.ensure_future(connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

"""HTTP/1.1 on one connection: uvicorn's protocol, with limits, deadlines and errors in JSON.

Whoever is slow, silent or wrong loses the own connection and nothing else: a head has a deadline and a size, an
answer that nobody reads ends the connection, and what follows a valid request costs it no answer.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools
import orjson
from uvicorn import Config
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.head_limits import HeadLimits, Refused, refusal
from app.logs import Throttle
from app.settings import Settings

_log = logging.getLogger(__name__)
_log.addFilter(Throttle())

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# After the end of what a client sends, it is asked at these times, in seconds, whether it still listens.
_PROBES = (0.05, 1.0)
# Seconds in which the rest of a refused request is read and thrown away: a reset would cost its sender the answer.
_LINGER = 5.0


class HttpProtocol(HttpToolsProtocol):
    """One connection. `header_timeout`: seconds in which a request's head must arrive. `write_timeout`: seconds in
    which a client must take each part of an answer."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        header_timeout: float,
        write_timeout: float,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._header_timeout = header_timeout
        self._write_timeout = write_timeout
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running: RequestResponseCycle | None = None
        self._holds_back = False
        self._held_back: list[bytes] = []
        self._in_head = False
        self._head_limits = HeadLimits()
        self._last = False
        self._deaf = False
        self._lingers = False
        self.idle_since: float | None = None

    # The connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop(name)
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep the connection, for an answer that the client may still wait for."""
        if self._deaf or self._is_idle() or self.cycle.more_body or self.scope["http_version"] != "1.1":
            return False
        # A client that has left and one that has closed its writing half look the same, until one writes to it.
        self._last = True
        self.cycle.keep_alive = False
        self._probe(*_PROBES)
        return True

    def _probe(self, *delays: float) -> None:
        """Write what every client ignores: to a client that has left it ends the connection."""
        if self.pipeline or self.cycle.response_started or self.is_closing():
            return
        self.transport.write(_CONTINUE)
        if delays:
            self._start("probe", delays[0], self._probe, *delays[1:])

    def shutdown(self) -> None:
        """End the connection once what has begun to arrive is answered."""
        if self._in_head:
            self._last = True
        else:
            super().shutdown()

    def is_closing(self) -> bool:
        return self._lingers or self.transport.is_closing()

    def close(self) -> None:
        """End the connection when what was written is sent, and can be read by a client that still sends."""
        if self.is_closing():
            return
        self._send()
        if self._deaf or (self.cycle is not None and self.cycle.more_body):
            self._deaf = self._lingers = True
            self.flow.resume_reading()
            self.transport.write_eof()
            self._start("close", _LINGER, self.transport.abort)
        else:
            self.transport.close()
            self._start("close", self._write_timeout, self.transport.abort)

    def write(self, data: bytes) -> None:
        self._held_back.append(data)
        if not self._holds_back:
            self._send()

    def _send(self) -> None:
        """What was held back goes out, in one call of the system."""
        parts, self._held_back, self._holds_back = self._held_back, [], False
        if parts and not self.is_closing():
            self.transport.writelines(parts)

    def pause_writing(self) -> None:
        self._start("write", self._write_timeout, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stop("write")
        super().resume_writing()

    # What arrives -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parts: list[bytes | memoryview] = [data]
        try:
            while parts and not self._deaf:
                part = parts.pop()
                self._head_limits.arrived(len(part))
                try:
                    self.parser.feed_data(part)
                except httptools.HttpParserUpgrade as offer:
                    parts = [memoryview(part)[offer.args[0] :], self._head_without_offer()]
            self._head_limits.check_untold()
        except httptools.HttpParserError as error:
            self._refuse(refusal(error, data))
        except Refused as refused:
            self._refuse(refused)

    def _head_without_offer(self) -> bytes:
        """The head to parse again, without the other protocol that it offers, such as HTTP/2: the body follows."""
        version = self.parser.get_http_version()
        lines = [b"%b %b HTTP/%b" % (self.scope["method"].encode(), self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self.idle_since = None
        self._in_head = True
        self._head_limits.begin()
        late = Refused(408, "the head of the request did not arrive in time")
        self._start("head", self._header_timeout, self._refuse, late)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_limits.url(self.url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_limits.header(name, value)
        if self._in_head:  # what comes after the body says nothing that is read here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_limits.told()
        self._stop("head")
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            return
        self.scope["method"] = self.parser.get_method().decode("ascii")
        if self.scope["method"] == "CONNECT":
            raise Refused(405, "CONNECT is not allowed: this is no proxy")

    def on_body(self, body: bytes) -> None:
        self._head_limits.told()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_limits.told()
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    # What is answered -------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def run(
            scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[ASGISendEvent], Awaitable[None]]
        ) -> None:
            async def send_with_close(message: ASGISendEvent) -> None:
                is_head = message["type"] == "http.response.start"
                if is_head and (cycle.more_body or self._last):
                    cycle.keep_alive = False
                self._holds_back = is_head  # it goes out with the beginning of the body
                await send(message)
                if not is_head:
                    self._send()

            try:
                await app(scope, receive, send_with_close)
            except asyncio.CancelledError:  # the server stops; a closed connection says so best
                cycle.disconnected = True
                self.transport.close()

        self._running = cycle
        cycle.transport = cast(asyncio.Transport, self)
        super()._start_asgi_task(cycle, run)

    def on_response_complete(self) -> None:
        if self.is_closing():
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self._is_idle():
            self.idle_since = time.monotonic()

    def _refuse(self, refused: Refused) -> None:
        """Nothing more of this connection is read; requests that came whole before are answered."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = self._last = True
        _log.info("a connection is refused: %d, %s", refused.status, refused)
        if not self._is_idle():
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        content = orjson.dumps({"error": str(refused)})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
            *([(b"allow", b"GET, HEAD, POST")] if refused.status == 405 else []),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[refused.status], *lines, b"\r\n", content]))
        self.close()

    # Timers -----------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_request(self) -> None:
        self.idle_since = time.monotonic()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start(self, name: str, seconds: float, call: Callable[..., object], *args: Any) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, call, *args)

    def _stop(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()


def protocol_for(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn makes a connection's protocol with."""
    return cast(
        type[asyncio.Protocol],
        functools.partial(HttpProtocol, header_timeout=settings.header_timeout, write_timeout=settings.write_timeout),
    )

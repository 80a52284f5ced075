"""HTTP/1.1 on one connection: uvicorn's protocol, with limits, deadlines and errors in JSON.

A client that is slow, silent or wrong loses only its own connection. A request has a deadline and its head a maximum
size, and an answer that nobody reads ends the connection. A valid request is answered whatever follows it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.refusal import MAX_HEAD_BYTES, Refused, refusal, too_large
from app.logs import Throttle
from app.settings import Settings

_log = logging.getLogger(__name__)
_log.addFilter(Throttle())

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Seconds after a client has closed its writing half, at which to probe whether it still listens.
_PROBES = (0.05, 1.0)
# Seconds for which the rest of a refused request is read and discarded.
_LINGER = 5.0
# A write of so many bytes at most waits for the next one, for one turn of the event loop.
_MAX_HELD_BACK = 1024


class _Connection:
    """The transport of a connection. If the client still sends, `close` goes on reading for a while.

    Python's http.client and Go's net/http send a whole body before they read an answer. If the connection closed
    meanwhile, they would report a reset instead of our 413.

    The head of an answer waits for its body, so that both go out in one system call.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_timeout: float) -> None:
        self._transport = transport
        self._loop = loop
        self._write_timeout = write_timeout
        self._last_resort: asyncio.TimerHandle | None = None
        self._held_back: list[bytes] = []
        self.receives = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self.is_closing():
            return
        self._held_back.append(data)
        if len(data) > _MAX_HELD_BACK:
            self._flush()
        elif len(self._held_back) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        parts, self._held_back = self._held_back, []
        if parts and not self._transport.is_closing():
            self._transport.writelines(parts)

    def is_closing(self) -> bool:
        return self._last_resort is not None or self._transport.is_closing()

    def close(self) -> None:
        """End the connection once everything written is sent."""
        if self.is_closing():
            return
        self._flush()
        self._last_resort = self._loop.call_later(
            _LINGER if self.receives else self._write_timeout, self._transport.abort
        )
        if self.receives:
            self._transport.resume_reading()
            self._transport.write_eof()
        else:
            self._transport.close()

    def lost(self) -> None:
        """Clean up after the connection is lost."""
        if self._last_resort is not None:
            self._last_resort.cancel()


class HttpProtocol(HttpToolsProtocol):
    """One connection. A request must arrive, and each part of an answer be taken, within `stall_timeout` seconds."""

    stall_timeout: float
    transport: _Connection  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._in_head = False
        self.url = b""
        # Bytes since the parser last told of a whole head or of a part of a body.
        self._unread_bytes = 0
        self._keeps_alive = True
        self._last = False
        self._deaf = False
        self.on_lost: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = _Connection(cast(asyncio.Transport, transport), self.loop, self.stall_timeout)
        super().connection_made(cast(asyncio.Transport, connection))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop(name)
        self._unset_keepalive_if_required()
        self.transport.lost()
        super().connection_lost(exc)
        self.on_lost()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep the connection: `nc -N` and socat close their writing half and wait for the answer."""
        if self._deaf or self._is_idle() or self.cycle.more_body or self.scope["http_version"] != "1.1":
            return False
        # A client that has left, as Weaviate's does after its time-out, looks the same until something is written to
        # it.
        self.make_last()
        self._probe(*_PROBES)
        return True

    def _probe(self, *delays: float) -> None:
        """Write what every client ignores; if the client has left, this ends the connection."""
        if self.pipeline or self.cycle.response_started or self.transport.is_closing():
            return
        self.transport.write(_CONTINUE)
        if delays:
            self._start("probe", delays[0], self._probe, *delays[1:])

    def shutdown(self) -> None:
        """End the connection once what has begun to arrive is answered."""
        if self._in_head or not self._is_idle():
            self.make_last()
        else:
            self.transport.close()

    def make_last(self) -> None:
        """Make the request that has begun to arrive the last one of this connection."""
        if self._in_head or not self._is_idle():
            self._last = True
        if not self._is_idle():
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        self._start("write", self.stall_timeout, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stop("write")
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        parts: list[bytes | memoryview] = [data]
        try:
            while parts and not self._deaf and not self.transport.is_closing():
                part = parts.pop()
                self._unread_bytes += len(part)
                try:
                    self.parser.feed_data(part)
                except httptools.HttpParserUpgrade as offer:
                    parts = [memoryview(part)[offer.args[0] :], self._head_without_offer()]
            if self._unread_bytes > MAX_HEAD_BYTES:  # of a head, of trailers, or of what stands beside a chunk's size
                raise too_large()
        except httptools.HttpParserError as error:
            self._refuse(refusal(error, data))
        except Refused as refused:
            self._refuse(refused)
        if not self.transport.receives:
            self._stop("stall")
        elif "stall" not in self._timers:
            self._start("stall", self.stall_timeout, self._stalled)

    def _stalled(self) -> None:
        del self._timers["stall"]
        if self.flow.read_paused:  # the client waits for us
            self._start("stall", self.stall_timeout, self._stalled)
        else:
            self._refuse(Refused(408, f"the request did not arrive within {self.stall_timeout:g} s"))

    def _head_without_offer(self) -> bytes:
        """The head without the other protocol that it offers, to be parsed again: the parser took its body for that.

        Java's HttpClient offers HTTP/2 with each request, and so does curl --http2.
        """
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
        self._in_head = self.transport.receives = True

    def on_headers_complete(self) -> None:
        self._in_head, self._unread_bytes = False, 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise too_large()
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            if self.scope["method"] == "CONNECT":
                raise Refused(400, "this is no proxy, and takes no CONNECT")
            return
        super().on_headers_complete()
        self.headers = []  # what comes after the body says nothing that is read here
        # An answer that begins before the body has ended also ends the connection.
        self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if self.parser.should_upgrade():
            return
        self.transport.receives = False
        if not self.cycle.response_started and not self._last:
            self.cycle.keep_alive = self._keeps_alive
        super().on_message_complete()

    def _refuse(self, refused: Refused) -> None:
        """Read nothing more from this connection; requests that arrived whole before are answered."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        _log.info("a connection is refused: %d, %s", refused.status, refused)
        if not self._is_idle():
            self.make_last()
            if not self.cycle.more_body:
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        content = orjson.dumps({"error": str(refused)})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
        self.transport.write(STATUS_LINE[refused.status] + head + content)
        self.transport.receives = True  # more may arrive, whatever the parser made of it
        self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start(self, name: str, seconds: float, call: Any, *args: Any) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, call, *args)

    def _stop(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()


def protocol_for(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol of the connections of one server."""
    return type("HttpProtocol", (HttpProtocol,), {"stall_timeout": settings.stall_timeout})

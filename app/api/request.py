"""The way of a request for vectors: its body is read within the budget and parsed, and its client may leave."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.errors import ClientGone, InvalidRequest, TooLarge, UnsupportedEncoding
from app.serving.budget import Admission
from app.serving.item import Caller
from app.serving.metrics import Metrics
from app.serving.service import Running, Service

Parsed = TypeVar("Parsed", bound="Items")

TIMELINE = "timeline"
"""The key in the scope that holds the Timeline of a traced request; None for others."""

# How many bytes are decoded before the event loop has a turn.
_PIECE = 128 * 1024
# Bodies of more bytes are parsed off the event loop, unless they are a few pictures: waking a thread takes longer.
_PARSED_AT_ONCE = 64 * 1024
_MAX_PICTURES_BYTES, _MAX_PICTURES_QUOTES = 512 * 1024, 100


@dataclass
class Items:
    """The items of a request, as UTF-8."""

    texts: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


class _Answer(Response):
    """JSON in parts, each sent once the client has taken most of the one before. `end` is called after the last."""

    def __init__(self, parts: list[bytes], end: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        length = b"%d" % sum(map(len, parts))
        self.raw_headers = [(b"content-length", length), (b"content-type", b"application/json")]
        self._parts = parts
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for part in self._parts[:-1]:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": self._parts[-1]})
        finally:
            self._end()


async def answer(
    request: Request,
    parse: Callable[[bytearray, int], Parsed],
    compute: Callable[[Parsed, Running, Caller], Awaitable[list[bytes]]],
) -> Response:
    """The answer to a request for vectors. `compute` gives the parts of its JSON; `parse` is called with the body and
    the most items, off the event loop if the body is large.

    Raises what these raise, and BodyTooLarge, TooLarge, Overloaded, UnsupportedEncoding, InvalidRequest, ClientGone.
    """
    metrics = metrics_of(request)

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    client = Caller(left, request.scope[TIMELINE])
    is_gzip = _is_gzip(request)
    running = await service_of(request).running()
    admission = running.budget.admit(client, None if is_gzip else _announced_bytes(request))
    try:
        body = await _read_body(request, client, admission, is_gzip)
        metrics.bytes_in.inc(len(body))
        few_pictures = len(body) <= _MAX_PICTURES_BYTES and body.count(b'"') <= _MAX_PICTURES_QUOTES
        try:
            if len(body) <= _PARSED_AT_ONCE or few_pictures:
                items = parse(body, admission.max_items)
            else:
                items = await asyncio.to_thread(parse, body, admission.max_items)
        except TooLarge as error:
            metrics.refused.labels(error.cause).inc()
            raise
        del body
        await admission.take_items(len(items.texts) + len(items.images))
        return _Answer(await compute(items, running, client), admission.release)
    except BaseException:
        admission.release()
        raise


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def metrics_of(request: Request) -> Metrics:
    return cast(Metrics, request.app.state.metrics)


async def _read_body(request: Request, client: Caller, admission: Admission, is_gzip: bool) -> bytearray:
    """The whole body, gzip decoded. The connection ends a request that does not arrive in time."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS) if is_gzip else None
    body = bytearray()
    while not client.has_sent:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left in the middle of its body")
        client.has_sent = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        for piece in (chunk,) if stream is None else _decoded(stream, chunk):
            await admission.take_body(len(piece))
            body += piece
            if len(piece) == _PIECE:  # it may be the first of thousands
                await asyncio.sleep(0)
    if stream is not None and (not stream.eof or stream.unused_data):
        raise InvalidRequest("the gzip body ends too early, or something follows it")
    admission.end_body()
    return body


def _announced_bytes(request: Request) -> int | None:
    """The size of the body, if the head says so."""
    length = _header(request, b"content-length")
    return int(length) if length.isdigit() else None


def _is_gzip(request: Request) -> bool:
    encoding = _header(request, b"content-encoding").decode("latin-1").strip().lower().removeprefix("x-")
    if encoding not in ("", "identity", "gzip"):
        raise UnsupportedEncoding(f"the body is encoded as {encoding[:40]!r}; send it plain, or as gzip")
    return encoding == "gzip"


def _header(request: Request, name: bytes) -> bytes:
    return b", ".join([value for each, value in request.scope["headers"] if each == name])


def _decoded(stream: "zlib._Decompress", chunk: bytes) -> Iterator[bytes]:
    """What a part of a gzip body decodes to, in pieces of at most _PIECE bytes."""
    piece = b""
    while chunk or len(piece) == _PIECE:
        try:
            piece = stream.decompress(chunk, _PIECE)
        except zlib.error as error:
            raise InvalidRequest("the body is not valid gzip") from error
        yield piece
        chunk = stream.unconsumed_tail

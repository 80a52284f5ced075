"""A body as it arrives, decoded, within the budget."""

import asyncio
import zlib
from collections.abc import Iterator

from fastapi import Request

from app.api.request import Client
from app.errors import ClientGone, InvalidRequest, UnsupportedEncoding
from app.serving.budget import Admission

# Bytes that are decoded before anybody else has a turn.
_PIECE = 128 * 1024


def announced_bytes(request: Request) -> int | None:
    """The bytes of the decoded body, if the head says so."""
    length = _header(request, b"content-length")
    return int(length) if length.isdigit() and not _encoding(request) else None


async def read_body(request: Request, client: Client, admission: Admission) -> bytes | bytearray:
    """The whole body, gzip and deflate decoded; raises as soon as it is known to be too much.

    Raises BodyTooLarge, Overloaded, UnsupportedEncoding, InvalidRequest or ClientGone. The connection sees to it that
    a body arrives in time.
    """
    encoding = _encoding(request)
    decoder = _Decoder(encoding) if encoding else None
    body: bytes | bytearray = b""
    while not client.has_sent:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left in the middle of its body")
        client.has_sent = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        if decoder is None:
            await admission.take_body(len(chunk))
            if client.has_sent and not body:
                return chunk
            body = _grown(body, chunk)
            continue
        admission.check_body(decoder.taken + len(chunk))  # what decodes to nothing must end, too
        for piece in decoder.decode(chunk):
            await admission.take_body(len(piece))
            body = _grown(body, piece)
            await asyncio.sleep(0)
    if decoder is not None:
        decoder.end()
    return body


def _grown(body: bytes | bytearray, chunk: bytes) -> bytearray:
    grown = body if isinstance(body, bytearray) else bytearray(body)
    grown += chunk
    return grown


def _encoding(request: Request) -> str:
    """gzip, deflate or nothing; raises UnsupportedEncoding that names any other."""
    encoding = _header(request, b"content-encoding").decode("latin-1").strip().lower().removeprefix("x-")
    if encoding in ("", "identity"):
        return ""
    if encoding not in ("gzip", "deflate"):
        raise UnsupportedEncoding(
            f"the body is encoded as {encoding[:40]!r}, which is not read here; send it plain, or as gzip or deflate"
        )
    return encoding


def _header(request: Request, name: bytes) -> bytes:
    return b", ".join([value for each, value in request.scope["headers"] if each == name])


class _Decoder:
    """Decodes in pieces of at most _PIECE bytes. Raises InvalidRequest."""

    def __init__(self, encoding: str) -> None:
        self.taken = 0
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        self.taken += len(chunk)
        piece = b""
        while chunk or len(piece) == _PIECE:
            if self._stream is None:
                self._stream = zlib.decompressobj(self._window(chunk))
            try:
                piece = self._stream.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise InvalidRequest(f"the body is not valid {self._encoding}") from error
            yield piece
            chunk = self._stream.unconsumed_tail
            if self._stream.eof:
                piece, chunk, self._stream = b"", self._stream.unused_data, None

    def end(self) -> None:
        """Raises InvalidRequest if the body is cut off."""
        if self._stream is not None or not self.taken:
            raise InvalidRequest(f"the {self._encoding} body ends too early")

    def _window(self, start: bytes) -> int:
        if self._encoding == "gzip":
            return 16 + zlib.MAX_WBITS
        # Clients disagree on whether deflate has zlib's header.
        return zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS

"""Request and response of POST /vectorize: JSON in, JSON out."""

import msgspec
import orjson

from app.errors import InvalidRequest
from app.towers import Vectors

ROWS_AT_ONCE = 64


class VectorizeRequest(msgspec.Struct):
    """Body of POST /vectorize. Images are base64."""

    texts: list[str] | None = None
    images: list[str] | None = None


_decoder = msgspec.json.Decoder(VectorizeRequest)


def parse_request(body: bytes | bytearray) -> VectorizeRequest:
    """Parse a request body; raises InvalidRequest that names the item."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error).replace("$.", "").replace(" - at `$`", "")
        raise InvalidRequest(f"the request does not fit: {message}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


def dump_response(texts: Vectors, images: Vectors) -> bytes:
    """The response body, straight from two float32 arrays of shape (items, width)."""
    return b"".join((b'{"textVectors":', _dump_rows(texts), b',"imageVectors":', _dump_rows(images), b"}"))


def _dump_rows(rows: Vectors) -> bytes:
    # A few rows a call: orjson holds the interpreter's lock, and other threads need it meanwhile.
    parts = (
        orjson.dumps(rows[start : start + ROWS_AT_ONCE], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for start in range(0, len(rows), ROWS_AT_ONCE)
    )
    return b"[" + b",".join(parts) + b"]"

"""Request and response types of the HTTP contract, and the tree of errors."""

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

Vectors = npt.NDArray[np.float32]

ROWS_AT_ONCE = 64


class ServiceError(Exception):
    """Root of the errors that a caller may read. `status` is the HTTP status that it maps to."""

    status = 500


class ConfigurationError(ServiceError):
    """The server cannot start as it is set up."""


class InvalidRequest(ServiceError):
    """The request is at fault."""

    status = 422


class ClientGone(ServiceError):
    """The client closed the connection before its answer was there; nobody reads this."""

    status = 499


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    status = 408


class BodyTooLarge(InvalidRequest):
    status = 413


class Unavailable(ServiceError):
    """The server cannot answer now; the same request may succeed later."""

    status = 503


class Overloaded(Unavailable):
    """More waits than the server is set to hold."""


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

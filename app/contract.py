"""Request and response types of the HTTP contract, and the tree of errors."""

import math

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

Vectors = npt.NDArray[np.float32]


class ServiceError(Exception):
    """Root of the errors that a caller may read. `status` is the HTTP status that it maps to."""

    status = 500


class ConfigurationError(ServiceError):
    """The server cannot start as it is set up."""


class InvalidRequest(ServiceError):
    """The request is at fault."""

    status = 422


class BodyTooLarge(InvalidRequest):
    status = 413


class Unavailable(ServiceError):
    """The server cannot answer now."""

    status = 503


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
    for vectors in (texts, images):
        if not math.isfinite(float(vectors.sum())):
            raise ServiceError("the model gave a vector with a value that is not finite")
    return orjson.dumps({"textVectors": texts, "imageVectors": images}, option=orjson.OPT_SERIALIZE_NUMPY)

"""The response of POST /vectorize: JSON straight from the arrays."""

import orjson

from app.towers import Vectors

ROWS_AT_ONCE = 64


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

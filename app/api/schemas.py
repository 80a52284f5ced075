"""OpenAPI's description of the routes, and the JSON of POST /vectorize, straight from the arrays."""

from collections.abc import Iterator
from typing import Any

import orjson
from fastapi import FastAPI

from app.towers import Vectors

ROWS_AT_ONCE = 64

_SCHEMES = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
_STRINGS = {"type": ["array", "null"], "items": {"type": "string"}}
_VECTORS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_MEANING = {
    400: "Not HTTP",
    401: "The token is missing or wrong",
    408: "The request did not arrive in time",
    413: "More than the server can ever take at once",
    415: "The body's Content-Encoding is not supported",
    422: "An item, or the body, cannot be read; the error names it",
    431: "The head is too large",
    500: "The server failed",
    503: "Not now: the server is loading, full or broken",
}

OPEN = {"security": list[Any]()}
"""The `openapi_extra` of a route that takes no token."""

Responses = dict[int | str, dict[str, Any]]


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI of a JSON body."""
    return {"content": {"application/json": {"schema": schema}}}


def errors(*statuses: int) -> Responses:
    """OpenAPI of errors."""
    return {status: {"description": _MEANING[status], **json_content(_ERROR)} for status in statuses}


VECTORIZE_REQUEST = {
    "requestBody": {
        "required": True,
        **json_content({"type": "object", "properties": {"texts": _STRINGS, "images": _STRINGS}}),
    }
}
VECTORIZE_RESPONSES: Responses = {
    200: {
        "description": "A vector for each item, in order",
        **json_content(
            {
                "type": "object",
                "properties": {"textVectors": _VECTORS, "imageVectors": _VECTORS},
                "required": ["textVectors", "imageVectors"],
            }
        ),
    },
    **errors(413, 415, 422, 503),
}


def describe_token(app: FastAPI) -> None:
    """Document that every route but the OPEN ones needs the token."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        token = {"components": {"securitySchemes": _SCHEMES}, "security": [{name: []} for name in _SCHEMES]}
        return {**describe(), **token}

    app.openapi = described  # type: ignore[method-assign]


def dump_response(texts: Vectors, images: Vectors) -> list[bytes]:
    """The parts of the response body, straight from two float32 arrays of shape (items, width)."""
    return [b'{"textVectors":', *_dump_rows(texts), b',"imageVectors":', *_dump_rows(images), b"}"]


def _dump_rows(rows: Vectors) -> Iterator[bytes]:
    # A few rows a call: orjson holds the interpreter's lock, which other threads need.
    separator = b"["
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = orjson.dumps(rows[start : start + ROWS_AT_ONCE], option=orjson.OPT_SERIALIZE_NUMPY)
        yield separator + some[1:-1]
        separator = b","
    yield b"]" if len(rows) else b"[]"

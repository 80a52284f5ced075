"""OpenAPI's description of the routes."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_SCHEMES = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
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


class _Items(BaseModel):
    texts: list[str] | None = None
    images: list[str] | None = None


class _Vectors(BaseModel):
    textVectors: list[list[float]]
    imageVectors: list[list[float]]


class _Error(BaseModel):
    error: str


def errors(*statuses: int) -> Responses:
    """OpenAPI of errors."""
    return {status: {"description": _MEANING[status], "model": _Error} for status in statuses}


VECTORIZE_REQUEST = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _Items.model_json_schema()}}}
}
VECTORIZE_RESPONSES: Responses = {
    200: {"description": "A vector for each item, in order", "model": _Vectors},
    **errors(413, 415, 422, 503),
}


def describe_token(app: FastAPI) -> None:
    """Document that every route but the OPEN ones needs the token."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        document = describe()
        document["components"]["securitySchemes"] = _SCHEMES
        document["security"] = [{name: []} for name in _SCHEMES]
        return document

    app.openapi = described  # type: ignore[method-assign]

"""The one map from error to HTTP status, headers and body."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.errors import (
    ClientGone,
    InvalidRequest,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedEncoding,
)
from app.logs import Throttle

_log = logging.getLogger(__name__)
_log.addFilter(Throttle())

# Status and headers; the first kind that fits counts.
_ANSWERS: tuple[tuple[type[ServiceError], int, dict[str, str]], ...] = (
    (Unauthorized, 401, {"WWW-Authenticate": "Bearer"}),
    (TooLarge, 413, {}),
    (UnsupportedEncoding, 415, {"Accept-Encoding": "gzip"}),
    (InvalidRequest, 422, {}),
    (ClientGone, 499, {}),
    (Unavailable, 503, {"Retry-After": "1"}),
    (ServiceError, 500, {}),
)
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
# OpenAI's codes; most errors have none.
_CODES = {401: "invalid_api_key", 404: "not_found"}
_PATHS = frozenset({"/", "/vectorize", "/meta", "/metrics", "/about", "/health", "/v1/embeddings", "/v1/models"})
# Asked once a second by whatever watches the container: their answers stay out of the log.
_PROBES = frozenset({"/.well-known/live", "/.well-known/ready", "/health"})
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

# Paths that clients of OpenAI's API, or of one like it, call.
_OPENAI_PATHS = re.compile(r"(?!.*vectorize).*(/v\d/|embed).*")


class _Error(BaseModel):
    error: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of errors."""
    return {status: {"description": _MEANING[status], "model": _Error} for status in statuses}


def response_to(error: ServiceError, method: str, path: str) -> Response:
    """The answer to an error, in OpenAI's form on its paths; also logs a line."""
    status, headers = next((status, headers) for kind, status, headers in _ANSWERS if isinstance(error, kind))
    level = logging.DEBUG if isinstance(error, ClientGone) else logging.WARNING if status >= 500 else logging.INFO
    if path not in _PROBES:
        _log_refusal(method, path, status, error, level)
    return _json(str(error), status, headers, path, error.parameter)


def answer_http_errors(app: FastAPI, embeddings_api: bool) -> None:
    """Answer starlette's errors, such as 404. `embeddings_api` tells whether there is POST /v1/embeddings."""

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        path, cause, headers = request.scope["path"], error.detail, error.headers
        if error.status_code == 405:
            allowed = _allowed(request)
            headers, cause = {"Allow": allowed}, f"this path takes {allowed}"
        elif error.status_code == 404 and "endpoint" not in request.scope:
            cause = _right_path(path, embeddings_api)
        _log_refusal(request.method, path, error.status_code, cause)
        return _json(f"{request.method} {path}: {cause}", error.status_code, headers, path)


def _log_refusal(method: str, path: str, status: int, cause: object, level: int = logging.INFO) -> None:
    """Log one line about a refused request, at most so many a second.

    It leaves out a path that is not ours, for its sender may write anything there.
    """
    _log.log(level, "%s %s: %d, %s", method, path if path in _PATHS else "another path", status, cause)


def _allowed(request: Request) -> str:
    """The methods of the path; starlette names only those of the first route."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    return ", ".join(
        method for method in _METHODS if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)
    )


def _right_path(path: str, embeddings_api: bool) -> str:
    """What to call instead of a path that is not there."""
    if "vector" in path:
        return 'there is no such path; send {"texts": […], "images": […]} to POST /vectorize'
    if _OPENAI_PATHS.fullmatch(path):
        if not embeddings_api:
            return "OpenAI's API is off; start the server with ENABLE_EMBEDDINGS_API=1, or use POST /vectorize"
        return "there is no such path; use POST /v1/embeddings or GET /v1/models"
    return "there is no such path; GET /openapi.json describes those that exist"


def _json(
    message: str, status: int, headers: Mapping[str, str] | None, path: str, parameter: str | None = None
) -> Response:
    content: dict[str, Any] = {"error": message}
    if _OPENAI_PATHS.fullmatch(path):
        status = 400 if status == 422 else status
        error = {
            "message": message,
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "param": parameter,
            "code": _CODES.get(status),
        }
        content = {"error": error, "detail": message}  # where clients of Jina's API look
    return Response(orjson.dumps(content), status, dict(headers or {}), media_type="application/json")

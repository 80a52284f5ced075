"""The one map from error to HTTP status, headers and body."""

import logging
from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.errors import (
    BodyTimeout,
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

# The first that fits counts.
_STATUS: tuple[tuple[type[ServiceError], int], ...] = (
    (Unauthorized, 401),
    (BodyTimeout, 408),
    (TooLarge, 413),
    (UnsupportedEncoding, 415),
    (InvalidRequest, 422),
    (ClientGone, 499),
    (Unavailable, 503),
    (ServiceError, 500),
)
_HEADERS: tuple[tuple[type[ServiceError], dict[str, str]], ...] = (
    (Unauthorized, {"WWW-Authenticate": "Bearer"}),
    (UnsupportedEncoding, {"Accept-Encoding": "gzip, deflate"}),
    (Unavailable, {"Retry-After": "1"}),
)
# What OpenAI's API calls them; most errors have no code there.
_CODES = {401: "invalid_api_key", 404: "not_found"}
_PATHS = frozenset({"/", "/vectorize", "/meta", "/metrics", "/about", "/v1/embeddings", "/v1/models"})


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def headers_of(error: ServiceError) -> dict[str, str]:
    """The headers that an error's response carries."""
    return next((headers for kind, headers in _HEADERS if isinstance(error, kind)), {})


def response_to(error: ServiceError, method: str, path: str) -> Response:
    """JSON with a string `error`, and a line in the log.

    For the routes of OpenAI's API in the form in which its clients expect it.
    """
    if not path.startswith("/.well-known/"):
        _log_refusal(method, path, status_of(error), error, _level(error))
    return _json(str(error), status_of(error), headers_of(error), path, error.parameter)


def _log_refusal(method: str, path: str, status: int, cause: object, level: int = logging.INFO) -> None:
    """One line about a request that did not get what it asked for, at most so many a second.

    Of a path that is none of ours nothing is logged: it is whatever its sender likes.
    """
    _log.log(level, "%s %s: %d, %s", method, path if path in _PATHS else "another path", status, cause)


def add_error_handlers(app: FastAPI) -> None:
    """Map every foreseen error to JSON with a string `error`."""

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return response_to(error, request.method, request.scope["path"])

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        _log_refusal(request.method, path, error.status_code, error.detail)
        return _json(f"{request.method} {path}: {error.detail}", error.status_code, headers, path)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _level(error: ServiceError) -> int:
    if isinstance(error, ClientGone):
        return logging.DEBUG
    return logging.WARNING if status_of(error) >= 500 else logging.INFO


def _allowed(request: Request) -> str:
    """The methods of all routes of the path: starlette names those of the first."""
    scope = {**request.scope, "method": ""}
    routes = [route for route in request.app.routes if route.matches(scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", None) or ()}))


def _json(
    message: str, status: int, headers: Mapping[str, str] | None, path: str, parameter: str | None = None
) -> Response:
    error: str | dict[str, str | None] = message
    if path.startswith(("/v1/embeddings", "/v1/models")):
        status = 400 if status == 422 else status
        error = _openai_error(message, status, parameter)
    content = orjson.dumps({"error": error})
    return Response(content, status, dict(headers or {}), media_type="application/json")


def _openai_error(message: str, status: int, parameter: str | None) -> dict[str, str | None]:
    return {
        "message": message,
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "param": parameter,
        "code": _CODES.get(status),
    }

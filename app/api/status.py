"""The one map from error to HTTP status and headers."""

import logging
from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

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


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def headers_of(error: ServiceError) -> dict[str, str]:
    """The headers that an error's response carries."""
    return next((headers for kind, headers in _HEADERS if isinstance(error, kind)), {})


def response_to(error: ServiceError) -> Response:
    """JSON with a string `error`."""
    return _json(str(error), status_of(error), headers_of(error))


def add_error_handlers(app: FastAPI) -> None:
    """Map every foreseen error to JSON with a string `error`."""

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        path, status = request.scope["path"], status_of(error)
        if not path.startswith("/.well-known/"):
            level = (
                logging.DEBUG if isinstance(error, ClientGone) else logging.WARNING if status >= 500 else logging.INFO
            )
            _log.log(level, "%s %s: %d, %s", request.method, path, status, error)
        return response_to(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json(f"{request.method} {request.scope['path']}: {error.detail}", error.status_code, error.headers)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _json(message: str, status: int, headers: Mapping[str, str] | None) -> Response:
    content = orjson.dumps({"error": message})
    return Response(content, status, dict(headers or {}), media_type="application/json")

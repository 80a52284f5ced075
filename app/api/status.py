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
    Unavailable,
)
from app.serving.service import Service

_log = logging.getLogger(__name__)

# The first that fits counts.
_STATUS: tuple[tuple[type[ServiceError], int], ...] = (
    (BodyTimeout, 408),
    (TooLarge, 413),
    (InvalidRequest, 422),
    (ClientGone, 499),
    (Unavailable, 503),
    (ServiceError, 500),
)


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def headers_of(error: ServiceError) -> dict[str, str]:
    """The headers that an error's response carries."""
    return {"Retry-After": "1"} if isinstance(error, Unavailable) else {}


def add_error_handlers(app: FastAPI) -> None:
    """Map every error to JSON with a string `error`."""

    def error_response(
        request: Request, message: str, status: int, headers: Mapping[str, str] | None = None
    ) -> Response:
        if request.url.path.startswith("/vectorize"):
            service: Service = request.app.state.service
            service.metrics.responses.labels(status).inc()
        content = orjson.dumps({"error": message})
        return Response(content, status, dict(headers or {}), media_type="application/json")

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return error_response(request, str(error), status_of(error), headers_of(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return error_response(request, message, error.status_code, error.headers)

    async def on_unforeseen(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(request, "the server failed on this request; its log says why", 500)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_unforeseen)

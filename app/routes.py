"""HTTP in, HTTP out."""

import logging
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from app.contract import BodyTooLarge, ServiceError, Unavailable, dump_response, parse_request

router = APIRouter()
_log = logging.getLogger("uvicorn.error")


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


@router.post("/vectorize")
@router.post("/vectorize/", include_in_schema=False)
async def vectorize(request: Request) -> Response:
    state = request.app.state.lifecycle
    batcher = state.require()
    payload = parse_request(await read_body(request, state.settings.max_body_bytes))
    return _json(dump_response(*await batcher.vectorize(payload)))


@router.get("/meta")
async def meta(request: Request) -> Response:
    lifecycle = request.app.state.lifecycle
    lifecycle.require()
    return _json(orjson.dumps(lifecycle.model.meta))


@router.api_route("/.well-known/live", methods=["GET", "HEAD"], status_code=204)
async def live() -> Response:
    return Response(status_code=204)


@router.api_route("/.well-known/ready", methods=["GET", "HEAD"], status_code=204)
async def ready(request: Request) -> Response:
    request.app.state.lifecycle.require()
    return Response(status_code=204)


async def read_body(request: Request, limit: int) -> bytearray:
    """The whole body; raises BodyTooLarge as soon as more than `limit` bytes are announced or seen."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(f"the body has {announced} bytes, more than the {limit} allowed")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than the {limit} bytes allowed")
    return body


def add_error_handlers(app: FastAPI) -> None:
    """Map every error to JSON with a string `error`."""

    def error_response(message: str, status: int, headers: Any = None) -> Response:
        response = _json(orjson.dumps({"error": message}), status)
        response.headers.update(headers or {})
        return response

    async def on_service_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        headers = {"Retry-After": "1"} if isinstance(error, Unavailable) else {}
        return error_response(str(error), error.status, headers)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return error_response(message, error.status_code, error.headers)

    async def on_unforeseen(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response("the server failed on this request; its log says why", 500)

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_unforeseen)

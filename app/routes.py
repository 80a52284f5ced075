"""HTTP in, HTTP out."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from app.batching import Batcher
from app.contract import (
    ROWS_AT_ONCE,
    BodyTimeout,
    ClientGone,
    ServiceError,
    Unavailable,
    VectorizeRequest,
    Vectors,
    dump_response,
    parse_request,
)

if TYPE_CHECKING:
    from app.main import Admission, Lifecycle

router = APIRouter()
_STRINGS = {"type": ["array", "null"], "items": {"type": "string"}}
_VECTORS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


def _json_object(**properties: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}


_log = logging.getLogger("uvicorn.error")


@router.post(
    "/vectorize",
    openapi_extra={
        "requestBody": _json_object(texts=_STRINGS, images=_STRINGS),
        "responses": {"200": _json_object(textVectors=_VECTORS, imageVectors=_VECTORS)},
    },
)
@router.post("/vectorize/", include_in_schema=False)
async def vectorize(request: Request) -> Response:
    lifecycle = _lifecycle(request)
    _, batcher = lifecycle.require()
    with lifecycle.admit() as admission:
        body = await read_body(request, admission, lifecycle.settings.body_timeout)
        payload = parse_request(body)
        del body
        texts, images = await compute(request, batcher, payload)
        if len(texts) + len(images) > ROWS_AT_ONCE:
            content = await asyncio.to_thread(dump_response, texts, images)
        else:
            content = dump_response(texts, images)
    lifecycle.metrics.responses.labels(200).inc()
    return _json(content)


@router.get("/meta")
async def meta(request: Request) -> Response:
    model, _ = _lifecycle(request).require()
    return _json(orjson.dumps(model.meta))


@router.api_route("/.well-known/live", methods=["GET", "HEAD"], status_code=204)
async def live() -> Response:
    return Response(status_code=204)


@router.api_route("/.well-known/ready", methods=["GET", "HEAD"], status_code=204)
async def ready(request: Request) -> Response:
    _lifecycle(request).require()
    return Response(status_code=204)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    return Response(_lifecycle(request).metrics.dump(), media_type="text/plain; version=0.0.4")


async def read_body(request: Request, admission: "Admission", seconds: float) -> bytearray:
    """The whole body; raises as soon as more is announced or seen than is admitted, or time is up."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit():
        admission.grow(int(announced))
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > admission.size:
                    admission.grow(len(body) - admission.size)
    except TimeoutError as error:
        raise BodyTimeout(f"the body did not arrive within {seconds:g} s") from error
    return body


async def compute(request: Request, batcher: Batcher, payload: VectorizeRequest) -> tuple[Vectors, Vectors]:
    """The vectors; raises ClientGone, and drops what was not yet computed, if the client leaves."""
    work = asyncio.ensure_future(batcher.vectorize(payload))
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone("the client closed the connection")
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _lifecycle(request: Request) -> "Lifecycle":
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Map every error to JSON with a string `error`."""

    def error_response(request: Request, message: str, status: int, headers: Any = None) -> Response:
        if request.url.path.startswith("/vectorize"):
            _lifecycle(request).metrics.responses.labels(status).inc()
        response = _json(orjson.dumps({"error": message}), status)
        response.headers.update(headers or {})
        return response

    async def on_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        headers = {"Retry-After": "1"} if isinstance(error, Unavailable) else {}
        return error_response(request, str(error), error.status, headers)

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

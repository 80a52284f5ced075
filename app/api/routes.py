"""The routes."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.api.body import announced_bytes, read_body
from app.api.parse import parse_request
from app.api.request import Client
from app.api.schemas import (
    ROWS_AT_ONCE,
    VECTORIZE_REQUEST,
    VECTORIZE_RESPONSES,
    dump_response,
    errors,
    json_content,
)
from app.errors import TooLarge
from app.serving.budget import Admission
from app.serving.metrics import Metrics
from app.serving.service import Service

T = TypeVar("T")


class _PlainRoute(APIRoute):
    """Calls the endpoint with the request and sends what it returns. FastAPI would look for parameters, a body model
    and dependencies each time; there are none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(route_class=_PlainRoute)
# Bodies of more bytes are parsed off the event loop, unless they are a few pictures: waking a thread takes longer.
_PARSED_AT_ONCE = 64 * 1024
_MAX_PICTURES_BYTES, _MAX_PICTURES_QUOTES = 512 * 1024, 100


class Answer(Response):
    """JSON in parts, each sent once the client has taken most of the one before. `end` is called after the last."""

    def __init__(self, parts: list[bytes], end: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        length = b"%d" % sum(map(len, parts))
        self.raw_headers = [(b"content-length", length), (b"content-type", b"application/json")]
        self._parts = parts
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for part in self._parts[:-1]:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": self._parts[-1]})
        finally:
            self._end()


@router.post("/vectorize", responses=VECTORIZE_RESPONSES, openapi_extra=VECTORIZE_REQUEST)
async def vectorize(request: Request) -> Response:
    with contextlib.ExitStack() as share:
        share.enter_context(metrics_of(request).request_seconds.time())
        client = Client(request)
        running = await service_of(request).running(client)
        admission = running.budget.admit(client, announced_bytes(request))
        share.callback(admission.release)
        payload = await receive(request, client, admission, parse_request)
        await admission.take_items(len(payload.texts) + len(payload.images))
        texts, images = await running.preparing.vectorize(payload.texts, payload.images, client)
        del payload
        if len(texts) + len(images) > ROWS_AT_ONCE:
            parts = await asyncio.to_thread(dump_response, texts, images)
        else:
            parts = [b"".join(dump_response(texts, images))]
        return Answer(parts, share.pop_all().close)


@router.get(
    "/meta",
    responses={200: {"description": "The models' own configs", **json_content({"type": "object"})}, **errors(503)},
)
async def meta(request: Request) -> Response:
    return Response((await service_of(request).running()).meta, media_type="application/json")


@router.get("/.well-known/live", status_code=204, responses=errors())
@router.head("/.well-known/live", status_code=204, responses=errors())
async def live(_: Request) -> Response:
    return Response(status_code=204)


@router.get("/.well-known/ready", status_code=204, responses=errors(503))
@router.head("/.well-known/ready", status_code=204, responses=errors(503))
async def ready(request: Request) -> Response:
    service_of(request).check_ready()
    return Response(status_code=204)


@router.get("/health", responses={200: {"description": "Ready", **json_content({"type": "object"})}, **errors(503)})
@router.head("/health", responses=errors(503))
async def health(request: Request) -> Response:
    """The same as /.well-known/ready, for platforms that accept only 200."""
    service_of(request).check_ready()
    return Response(b'{"status":"ready"}', media_type="application/json")


@router.get(
    "/metrics",
    responses={200: {"description": "Counts, for Prometheus", "content": {"text/plain": {}}}, **errors()},
)
async def metrics(request: Request) -> Response:
    collected = await request.app.state.collect(metrics_of(request))
    return Response(collected, media_type="text/plain; version=0.0.4")


async def receive(
    request: Request, client: Client, admission: Admission, parse: Callable[[bytes | bytearray, int], T]
) -> T:
    """The body, read within the budget and parsed. Raises what `read_body` and `parse` raise."""
    metrics = metrics_of(request)
    body = await read_body(request, client, admission)
    metrics.bytes_in.inc(len(body))
    try:
        if _is_quick(body):
            return parse(body, admission.max_items)
        return await asyncio.to_thread(parse, body, admission.max_items)
    except TooLarge as error:
        metrics.refused.labels(error.cause).inc()
        raise


def _is_quick(body: bytes | bytearray) -> bool:
    if len(body) <= _PARSED_AT_ONCE:
        return True
    return len(body) <= _MAX_PICTURES_BYTES and body.count(b'"') <= _MAX_PICTURES_QUOTES


def service_of(request: Request) -> Service:
    """The service of the app."""
    service: Service = request.app.state.service
    return service


def metrics_of(request: Request) -> Metrics:
    """The metrics of the app."""
    metrics: Metrics = request.app.state.metrics
    return metrics

"""The routes: what is called, thin."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.api.body import announced_bytes, read_body
from app.api.entry import TIMELINE
from app.api.parse import VectorizeRequest, parse_request
from app.api.schemas import (
    ROWS_AT_ONCE,
    VECTORIZE_REQUEST,
    VECTORIZE_RESPONSES,
    dump_response,
    errors,
    json_content,
)
from app.errors import ClientGone, TooLarge
from app.serving.budget import Admission
from app.serving.service import Running, Service
from app.towers import Vectors

T = TypeVar("T")


class _PlainRoute(APIRoute):
    """Gives the endpoint the request, and sends what it returns: FastAPI looks for parameters, a model of the body
    and dependencies each time, which takes longer than all that is done here for one text."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(route_class=_PlainRoute)
# A body of more bytes is parsed off the event loop.
_PARSED_AT_ONCE = 64 * 1024


class Answer(Response):
    """JSON in parts, each sent when the client has taken most of the one before; `end` is called after the last."""

    def __init__(self, parts: list[bytes], end: Callable[[], None]) -> None:
        super().__init__(headers={"Content-Length": str(sum(map(len, parts)))}, media_type="application/json")
        self._parts = parts
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for part in self._parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._end()


@router.post("/vectorize", responses=VECTORIZE_RESPONSES, openapi_extra=VECTORIZE_REQUEST)
async def vectorize(request: Request) -> Response:
    service = service_of(request)
    with contextlib.ExitStack() as share:
        share.enter_context(service.metrics.request_seconds.time())
        running = await service.running()
        admission = share.enter_context(running.budget.admit(announced_bytes(request)))
        payload = await receive(request, running, admission, parse_request)
        texts, images = await while_connected(request, compute(request, running, admission, payload))
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
    """The same as /.well-known/ready, for platforms that take nothing but 200."""
    service_of(request).check_ready()
    return Response(b'{"status":"ready"}', media_type="application/json")


@router.get(
    "/metrics",
    responses={200: {"description": "Counts, for Prometheus", "content": {"text/plain": {}}}, **errors()},
)
async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.dump(), media_type="text/plain; version=0.0.4")


async def receive(
    request: Request, running: Running, admission: Admission, parse: Callable[[bytearray, int], T]
) -> T:
    """The body, read within the budget and parsed; raises what `read_body` and `parse` raise."""
    service = service_of(request)
    body = await read_body(request, admission, service.settings.body_timeout)
    service.metrics.bytes_in.inc(len(body))
    most_items = running.budget.most_items
    try:
        if len(body) > _PARSED_AT_ONCE:
            return await asyncio.to_thread(parse, body, most_items)
        return parse(body, most_items)
    except TooLarge as error:
        service.metrics.refused.labels(error.cause).inc()
        raise


async def compute(
    request: Request, running: Running, admission: Admission, payload: VectorizeRequest
) -> tuple[Vectors, Vectors]:
    """The vectors, within the budget; raises what the budget and the batcher raise."""
    await admission.take_items(len(payload.texts) + len(payload.images))
    timeline = request.scope.get(TIMELINE)
    return await running.batcher.vectorize(payload.texts, payload.images, admission.arrived, timeline)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; if the client leaves it is cancelled, and ClientGone raised once that is done.

    Call it after the body.
    """
    here = asyncio.current_task()
    assert here is not None
    gone = False

    async def leave_with_the_client() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        here.cancel()

    watching = asyncio.ensure_future(leave_with_the_client())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and here.uncancel() == 0:  # nobody else has cancelled it
            raise ClientGone("the client closed the connection") from None
        raise
    finally:
        watching.cancel()


def service_of(request: Request) -> Service:
    """The service that create_app made."""
    service: Service = request.app.state.service
    return service

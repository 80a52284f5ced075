"""The routes: what is called, thin."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.body import read_body
from app.api.parse import VectorizeRequest, parse_request
from app.api.schemas import ROWS_AT_ONCE, dump_response
from app.errors import ClientGone
from app.serving.batcher import Batcher
from app.serving.service import Service
from app.towers import Vectors

router = APIRouter()
# A body of more bytes is parsed off the event loop.
_PARSED_AT_ONCE = 64 * 1024
_STRINGS = {"type": ["array", "null"], "items": {"type": "string"}}
_VECTORS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


def _json_object(**properties: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}


@router.post(
    "/vectorize",
    openapi_extra={
        "requestBody": _json_object(texts=_STRINGS, images=_STRINGS),
        "responses": {"200": _json_object(textVectors=_VECTORS, imageVectors=_VECTORS)},
    },
)
@router.post("/vectorize/", include_in_schema=False)
async def vectorize(request: Request) -> Response:
    service = _service(request)
    running = await service.running()
    announced = request.headers.get("content-length", "")
    with running.budget.admit(int(announced) if announced.isdigit() else None) as admission:
        body = await read_body(request, admission, service.settings.body_timeout)
        most_items = running.budget.most_items
        if len(body) > _PARSED_AT_ONCE:
            payload = await asyncio.to_thread(parse_request, body, most_items)
        else:
            payload = parse_request(body, most_items)
        del body
        await admission.take_items(len(payload.texts) + len(payload.images))
        texts, images = await compute(request, running.batcher, payload)
        if len(texts) + len(images) > ROWS_AT_ONCE:
            content = await asyncio.to_thread(dump_response, texts, images)
        else:
            content = dump_response(texts, images)
    service.metrics.responses.labels(200).inc()
    return _json(content)


@router.get("/meta")
async def meta(request: Request) -> Response:
    return _json((await _service(request).running()).meta)


@router.api_route("/.well-known/live", methods=["GET", "HEAD"], status_code=204)
async def live() -> Response:
    return Response(status_code=204)


@router.api_route("/.well-known/ready", methods=["GET", "HEAD"], status_code=204)
async def ready(request: Request) -> Response:
    _service(request).check_ready()
    return Response(status_code=204)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.dump(), media_type="text/plain; version=0.0.4")


async def compute(request: Request, batcher: Batcher, payload: VectorizeRequest) -> tuple[Vectors, Vectors]:
    """The vectors; raises ClientGone, and drops what was not yet computed, if the client leaves."""
    work = asyncio.ensure_future(batcher.vectorize(payload.texts, payload.images))
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


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, media_type="application/json")

"""The routes."""

import asyncio

from fastapi import APIRouter, Request, Response

from app.api.parse import VectorizeRequest, parse_request
from app.api.request import Client, answer, metrics_of, service_of
from app.api.schemas import (
    OPEN,
    ROWS_AT_ONCE,
    VECTORIZE_REQUEST,
    VECTORIZE_RESPONSES,
    dump_response,
    errors,
    json_content,
)
from app.serving.service import Running

router = APIRouter(responses=errors(400, 401, 408, 431, 500))


@router.post("/vectorize", responses=VECTORIZE_RESPONSES, openapi_extra=VECTORIZE_REQUEST)
async def vectorize(request: Request) -> Response:
    return await answer(request, parse_request, _vectors)


async def _vectors(items: VectorizeRequest, running: Running, client: Client) -> list[bytes]:
    texts, images = await running.preparing.vectorize(items.texts, items.images, client)
    if len(texts) + len(images) > ROWS_AT_ONCE:
        return await asyncio.to_thread(dump_response, texts, images)
    return [b"".join(dump_response(texts, images))]


@router.get(
    "/meta",
    responses={200: {"description": "The models' own configs", **json_content({"type": "object"})}, **errors(503)},
)
async def meta(request: Request) -> Response:
    return Response((await service_of(request).running()).meta, media_type="application/json")


@router.get("/.well-known/live", status_code=204, openapi_extra=OPEN)
@router.head("/.well-known/live", status_code=204, openapi_extra=OPEN)
async def live(_: Request) -> Response:
    return Response(status_code=204)


@router.get("/.well-known/ready", status_code=204, responses=errors(503), openapi_extra=OPEN)
@router.head("/.well-known/ready", status_code=204, responses=errors(503), openapi_extra=OPEN)
async def ready(request: Request) -> Response:
    service_of(request).check_ready()
    return Response(status_code=204)


@router.get(
    "/health",
    responses={200: {"description": "Ready", **json_content({"type": "object"})}, **errors(503)},
    openapi_extra=OPEN,
)
@router.head("/health", responses=errors(503), openapi_extra=OPEN)
async def health(request: Request) -> Response:
    """The same as /.well-known/ready, for platforms that accept only 200."""
    service_of(request).check_ready()
    return Response(b'{"status":"ready"}', media_type="application/json")


@router.get("/metrics", responses={200: {"description": "Counts, for Prometheus", "content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    metrics, share = metrics_of(request), request.app.state.share
    collected = await share.collect(metrics) if share else metrics.dump()
    return Response(collected, media_type="text/plain; version=0.0.4")

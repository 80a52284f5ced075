"""The routes that tell of the server."""

from fastapi import APIRouter, Request, Response

from app.api.request import metrics_of, service_of
from app.api.status import errors

router = APIRouter()


@router.get("/meta", responses={200: {"description": "The models' own configs"}, **errors(503)})
async def meta(request: Request) -> Response:
    return Response((await service_of(request).running()).meta, media_type="application/json")


@router.get("/.well-known/live", status_code=204)
@router.head("/.well-known/live", status_code=204)
async def live(_: Request) -> Response:
    return Response(status_code=204)


@router.get("/.well-known/ready", status_code=204, responses=errors(503))
@router.head("/.well-known/ready", status_code=204, responses=errors(503))
async def ready(request: Request) -> Response:
    service_of(request).check_ready()
    return Response(status_code=204)


@router.get("/health", responses={200: {"description": "Ready"}, **errors(503)})
@router.head("/health", responses=errors(503))
async def health(request: Request) -> Response:
    """The same as /.well-known/ready, for platforms that accept only 200."""
    service_of(request).check_ready()
    return Response(b'{"status":"ready"}', media_type="application/json")


@router.get("/metrics", responses={200: {"description": "Counts, for Prometheus", "content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    metrics, share = metrics_of(request), request.app.state.share
    collected = await share.collect() if share else metrics.dump()
    return Response(collected, media_type="text/plain; version=0.0.4")

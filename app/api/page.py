"""The page at /, on which people try the model: the files of app/page."""

from pathlib import Path

import orjson
from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from app.api.routes import service_of

router = APIRouter(include_in_schema=False)

_files = StaticFiles(directory=Path(__file__).parent.parent / "page")
_HEADERS = {
    # Nothing from elsewhere, nothing written into the page itself, and no markup made by scripts. blob: is what
    # a browser calls the pictures that were dropped.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again with its ETag each time: after an upgrade the files must fit each other.
    "Cache-Control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page. Its addresses are relative, so that it works below a path of a proxy too."""
    return await file(request, "index.html")


@router.get("/about")
async def about(request: Request) -> Response:
    """Model, family, engine, precision and version, as the page shows them."""
    running = await service_of(request).running()
    return Response(orjson.dumps(running.about), media_type="application/json")


@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def file(request: Request, path: str) -> Response:
    """One of the page's files; raises starlette's HTTPException 404 for all else."""
    response = await _files.get_response(path, request.scope)
    response.headers.update(_HEADERS)
    return response

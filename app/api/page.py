"""The page at / to try the model on: the files of app/page."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from app.api.request import service_of

router = APIRouter(include_in_schema=False)

_folder = Path(__file__).parent.parent / "page"
_files = StaticFiles(directory=_folder)


def _hash_of_inline_script() -> str:
    """The one inline script, as a Content-Security-Policy names it."""
    script = re.findall(rb"<script>(.*?)</script>", (_folder / "index.html").read_bytes(), re.DOTALL)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


_HEADERS = {
    # Nothing from elsewhere, and no markup made by scripts. The inline script runs where no other is found. Browsers
    # give dropped pictures blob: addresses.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self' {_hash_of_inline_script()}; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Revalidated by ETag each time: after an upgrade the files must fit each other.
    "Cache-Control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page. Its addresses are relative, so it also works below a proxy's path."""
    return await file(request, "index.html")


@router.get("/about")
async def about(request: Request) -> Response:
    """Model, family, engine, precision and version, as the page shows them."""
    running = await service_of(request).running()
    return JSONResponse(running.about)


@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def file(request: Request, path: str) -> Response:
    """One of the page's files. Raises starlette's HTTPException 404 for anything else."""
    response = await _files.get_response(path, request.scope)
    response.headers.update(_HEADERS)
    return response

"""POST /v1/embeddings and GET /v1/models, for OpenAI's clients."""

import asyncio
import base64
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.parse_embeddings import EmbeddingsRequest, parse_embeddings
from app.api.request import answer, service_of
from app.api.vectorize import ROWS_AT_ONCE
from app.errors import InvalidRequest, ServiceError
from app.serving.item import Caller
from app.serving.service import Running
from app.towers import Vectors

router = APIRouter()


@router.post("/v1/embeddings", include_in_schema=False)
async def embeddings(request: Request) -> Response:
    """The vectors that POST /vectorize gives, in the order of the input."""
    return await answer(request, parse_embeddings, _embeddings)


async def _embeddings(items: EmbeddingsRequest, running: Running, client: Caller) -> list[bytes]:
    width = running.model.width
    if items.dimensions not in (None, width):
        raise InvalidRequest(
            f"this model gives vectors of {width} numbers, which cannot be shortened to {items.dimensions}; "
            "leave it out",
            "dimensions",
        )
    try:
        texts, images = await running.preparing.vectorize(items.texts, items.images, client)
    except ServiceError as error:
        raise _at_input(error, items) from error
    tokens = await asyncio.to_thread(running.count_tokens, items.texts)
    name = running.about["model"]
    return await asyncio.to_thread(dump_embeddings, texts, images, items.kinds, items.as_base64, name, tokens)


@router.get("/v1/models", include_in_schema=False)
async def models(request: Request) -> Response:
    running = await service_of(request).running()
    return JSONResponse({"object": "list", "data": [_model(running.about["model"])]})


@router.get("/v1/models/{name:path}", include_in_schema=False)
async def model(request: Request, name: str) -> Response:
    running = await service_of(request).running()
    served = running.about["model"]
    if name != served:
        raise HTTPException(404, f"the model served here is {served}")
    return JSONResponse(_model(served))


def dump_embeddings(
    texts: Vectors, images: Vectors, kinds: list[str], as_base64: bool, model: str, tokens: int
) -> list[bytes]:
    """The parts of the response body: rows of `texts` and `images` in the order of `kinds`."""
    rest = {"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    rows = {"texts": iter(texts), "images": iter(images)}
    items = (_dump_item(index, next(rows[kind]), as_base64) for index, kind in enumerate(kinds))
    return [b'{"object":"list","data":[', *_joined(items), b"],", orjson.dumps(rest)[1:]]


def _dump_item(index: int, row: Vectors, as_base64: bool) -> bytes:
    if as_base64:
        vector = b'"%b"' % base64.b64encode(row.astype("<f4").tobytes())
    else:
        vector = orjson.dumps(np.ascontiguousarray(row), option=orjson.OPT_SERIALIZE_NUMPY)
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector)


def _joined(items: Iterator[bytes]) -> Iterator[bytes]:
    """The items with commas between, a few a part."""
    separator = b""
    while some := list(itertools.islice(items, ROWS_AT_ONCE)):
        yield separator + b",".join(some)
        separator = b","


def _at_input(error: ServiceError, items: EmbeddingsRequest) -> ServiceError:
    """The same error, with the item's place in the input instead of among the texts or the images."""
    if error.position is None:
        return error
    positions = [position for position, kind in enumerate(items.kinds) if kind == error.parameter]
    return error.again(*items.place(positions[error.position]))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "multi2vec-clip"}

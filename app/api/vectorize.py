"""POST /vectorize: its body, its answer, and the route between them."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.api.reader import name_of, read_object, shown
from app.api.request import Items, answer
from app.api.status import errors
from app.errors import InvalidRequest
from app.serving.item import Caller
from app.serving.service import Running
from app.towers import Vectors

router = APIRouter()

ROWS_AT_ONCE = 64
"""How many rows become JSON in one call of a library, which holds the interpreter's lock that other threads need."""

# A body of so many bytes at most is read by a library, for it cannot hold much.
_SMALL_BODY = 4096

_MISSPELT = {"text": "texts", "texts": "texts", "image": "images", "images": "images"}
_EXAMPLE = '{"texts": ["a red car"], "images": ["<base64>"]}'


class _Request(BaseModel):
    """For OpenAPI alone, as _Vectors."""

    texts: list[str] | None = None
    images: list[str] | None = None


class _Vectors(BaseModel):
    textVectors: list[list[float]]
    imageVectors: list[list[float]]


class _SmallBody(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[str] | None = None
    images: list[str] | None = None

    def items(self) -> Items:
        return Items([text.encode() for text in self.texts or ()], [image.encode() for image in self.images or ()])


_small_bodies = msgspec.json.Decoder(_SmallBody)

_BODY = {"required": True, "content": {"application/json": {"schema": _Request.model_json_schema()}}}


@router.post(
    "/vectorize", response_model=_Vectors, responses=errors(413, 415, 422, 503), openapi_extra={"requestBody": _BODY}
)
async def vectorize(request: Request) -> Response:
    return await answer(request, parse_request, _compute)


async def _compute(items: Items, running: Running, client: Caller) -> list[bytes]:
    texts, images = await running.preparing.vectorize(items.texts, items.images, client)
    if len(texts) + len(images) > ROWS_AT_ONCE:
        return await asyncio.to_thread(dump_response, texts, images)
    return [b"".join(dump_response(texts, images))]


def parse_request(body: bytes | bytearray, max_items: int) -> Items:
    """The items of a body. Raises InvalidRequest that names the item, and TooLarge for far more than `max_items`."""
    if len(body) <= _SMALL_BODY:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # the reader below says what is wrong
            if (small := _small_bodies.decode(body)).texts or small.images:
                return small.items()
    document = read_object(body, max_items, _EXAMPLE)
    items = Items(_strings(document, "texts"), _strings(document, "images"))
    if not items.texts and not items.images:
        _refuse_misspelt(document)
    return items


def _strings(document: dict[str, Any], key: str) -> list[bytes]:
    items = document.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise InvalidRequest(f"expected an array of strings, got {name_of(items)}", key)
    for position, item in enumerate(items):
        if not isinstance(item, bytes):
            raise InvalidRequest(f"expected a string, got {name_of(item)}", key, position)
    return items


def _refuse_misspelt(document: dict[str, Any]) -> None:
    for key in document:
        right = _MISSPELT.get(key.strip().lower())
        if right and right != key:
            raise InvalidRequest(f'there are no items: the key is "{right}", not {shown(key)}; send {_EXAMPLE}')


def dump_response(texts: Vectors, images: Vectors) -> list[bytes]:
    """The parts of the response body, straight from two float32 arrays of shape (items, width)."""
    return [b'{"textVectors":', *_dump_rows(texts), b',"imageVectors":', *_dump_rows(images), b"}"]


def _dump_rows(rows: Vectors) -> Iterator[bytes]:
    separator = b"["
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = orjson.dumps(rows[start : start + ROWS_AT_ONCE], option=orjson.OPT_SERIALIZE_NUMPY)
        yield separator + some[1:-1]
        separator = b","
    yield b"]" if len(rows) else b"[]"

"""The body of POST /v1/embeddings: from JSON to items.

Beside OpenAI's own form it takes those of similar servers: `modality` (infinity), `messages` (vLLM), `inputs` with
`content` (Voyage, Cohere), `embedding_type` (Jina). What claims to be a picture becomes one or an error: the vector
of its characters would be meaningless, and nobody would notice.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from app.api.reader import name_of, read_object, shown
from app.api.request import Items
from app.errors import InvalidRequest

_EXAMPLE = '{"model": "any", "input": ["a red car", {"image": "<base64>"}]}'
_SEND = 'send {"text": "…"} or {"image": "<base64>"}'

_BEFORE = rb"(?:[\s\"'`<(]|\xc2\xa0|\xe2\x80[\x8b\x98\x9c]|\xef\xbb\xbf)*+"
# Blanks, quotes and brackets around an address.
_AROUND = b" \t\n\v\f\r\"'`<>()\xc2\xa0\xe2\x80\x8b\x98\x99\x9c\x9d\xef\xbb\xbf"
_BASE64 = rb"[A-Za-z0-9+/_=-]"
_PARAMETERS = rb'(?:[^,"]|"[^"]*+")'
# A text that is a picture: a data URI, or the base64 of a JPEG, PNG, GIF, WebP or TIFF. One that begins with
# "data:image/png;base64," but goes on in words is a text.
_PICTURE = re.compile(
    _BEFORE + rb"(?:data:" + _PARAMETERS + rb"{0,4096}?;\s*base64\s*,(?=(?P<data>\s*\S{16}|\S*\s*\Z))"
    rb"|data:image/[\w.+-]+(?:;[^,\s]{0,4096})?,\S"
    rb"|(?-i:[/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK)" + _BASE64 + rb"{48})",
    re.IGNORECASE,
)
_PICTURE_WITHIN = re.compile(rb";base64[\s,;:]*+" + _BASE64 + rb"{64}", re.IGNORECASE)
# In the first bytes of a text a picture would be most of what the model reads; a document may hold one further on.
_SEARCHED = 512
_URL = re.compile(rb"\s*(https?|file|ftp|s3)://", re.IGNORECASE)

_KINDS = {"text": "text", "content": "text", "image": "image", "image_url": "image", "image_base64": "image"}
_OTHER_MEDIA = re.compile("(input_)?(audio|video|document|file)(_url|_base64)?")
# Where other servers look for items, but not this one.
_ELSEWHERE = ("text", "texts", "image", "images", "audio", "video")
_NOTHING: tuple[object, ...] = (None, b"", [])

# A "string" turns out to be a text or a picture by its looks, or by the rest of the body.
_Part = tuple[str, bytes]


@dataclass
class EmbeddingsRequest(Items):
    """Body of POST /v1/embeddings. `kinds` holds "texts" or "images" for each item of the input, in order;
    `parameter` is the key of the items."""

    kinds: list[str] = field(default_factory=list)
    parameter: str = "input"
    as_base64: bool = False
    dimensions: int | None = None

    def place(self, position: int) -> tuple[str, int | None]:
        """The parameter and position of an item, for an error about it."""
        return self.parameter, None if self.parameter == "messages" else position


def parse_embeddings(body: bytes | bytearray, max_items: int) -> EmbeddingsRequest:
    """Parse the body of POST /v1/embeddings. Raises InvalidRequest that names the item, and TooLarge for far more
    than `max_items`."""
    document = read_object(body, max_items, _EXAMPLE)
    for key in _ELSEWHERE:
        if document.get(key) not in _NOTHING:
            raise InvalidRequest(f'not known on this route; everything goes into "input": {_EXAMPLE}', key)
    _word(document, "model")
    forms = [_word(document, key, "float", "base64") for key in ("encoding_format", "embedding_type")]
    modality = _word(document, "modality", "text", "image")
    purpose = (_word(document, "input_type") or "").lower()  # otherwise it changes nothing here
    if "audio" in purpose or "video" in purpose:
        raise InvalidRequest(f"{shown(purpose)} is not embedded here; send texts or images", "input_type")
    request = EmbeddingsRequest(as_base64="base64" in forms, dimensions=_dimensions(document))
    keys = [key for key in ("input", "inputs", "messages") if document.get(key) is not None]
    if len(keys) > 1:
        raise InvalidRequest(f"send one of {', '.join(keys)}, not several", keys[1])
    for request.parameter in keys:
        items = _items(request.parameter, document[request.parameter])
        _sort(request, items, modality == "image" or "image" in purpose)
    if not request.kinds:
        raise InvalidRequest(f"nothing to embed; send {_EXAMPLE}", "input")
    return request


def _items(key: str, value: Any) -> list[Any]:
    if key != "messages":
        return value if isinstance(value, list) else [value]
    if not isinstance(value, list):
        raise InvalidRequest(f"expected an array of objects, got {name_of(value)}", key)
    return [{"content": value}]  # a conversation is one item


def _sort(request: EmbeddingsRequest, items: list[Any], are_pictures: bool) -> None:
    """Tell texts from pictures, in their order; raises InvalidRequest for what is neither."""
    for position, item in enumerate(items):
        try:
            kind, content = _part_of(item)
            picture = _picture(kind, content, are_pictures)
        except InvalidRequest as error:
            raise error.again(*request.place(position)) from error
        if picture is None:
            request.texts.append(content)
            request.kinds.append("texts")
        else:
            request.images.append(picture)
            request.kinds.append("images")


def _part_of(item: Any) -> _Part:
    """The one part of an item. An empty text beside a picture does not count: vLLM's clients send one."""
    if isinstance(item, bytes):
        return "string", item
    if isinstance(item, (list, float)):
        raise InvalidRequest(
            "token ids come from another tokenizer and mean nothing to this model; send the text "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    if not isinstance(item, dict):
        raise InvalidRequest(f"expected a string or an object, got {name_of(item)}")
    parts = list(_parts(item))
    if len(parts) > 1:
        parts = [part for part in parts if part[1]] or parts[:1]
    if len(parts) > 1:
        raise InvalidRequest(f"holds more than one text or image, and an item has one vector; {_SEND}")
    if not parts:
        raise InvalidRequest(f"holds neither a text nor an image; {_SEND}")
    return parts[0]


def _parts(item: dict[str, Any]) -> Iterator[_Part]:
    """The parts of {"text": …}, {"image": …}, {"image_url": {"url": …}} or {"content": [ … ]}."""
    for key, value in item.items():
        if key in ("image", "image_url") and isinstance(value, dict):
            value = value.get("url")
        if key in _KINDS and isinstance(value, bytes):
            yield _KINDS[key], value
        elif key in ("content", "images") and isinstance(value, list):
            for each in value:
                if isinstance(each, dict):
                    yield from _parts(each)
                elif isinstance(each, bytes):
                    yield ("image" if key == "images" else "string"), each
        elif _OTHER_MEDIA.fullmatch(key) and value not in _NOTHING:
            raise InvalidRequest(f"holds {shown(key)}, but this model takes only texts and images; {_SEND}")


def _picture(kind: str, content: bytes, are_pictures: bool) -> bytes | None:
    """The picture that a part is, in base64; None for a text."""
    found = _PICTURE.match(content)
    if found:
        content = content[max(0, found.start("data")) :].strip(_AROUND)
    elif kind == "text" or (kind == "string" and not are_pictures):
        if _PICTURE_WITHIN.search(content, 0, _SEARCHED):
            raise InvalidRequest(f"holds a picture within a text, and one vector cannot stand for both; {_SEND}")
        return None
    if _URL.match(content):
        raise InvalidRequest("addresses are not opened; send the picture itself as base64 or a data URI")
    return content


def _word(document: dict[str, Any], key: str, *allowed: str) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise InvalidRequest(f"expected a string, got {name_of(value)}", key)
    word = value.decode()
    if allowed and word not in allowed:
        raise InvalidRequest(f"{shown(word)} is not known; send {' or '.join(allowed)}", key)
    return word


def _dimensions(document: dict[str, Any]) -> int | None:
    number = document.get("dimensions")
    if number is None:
        return None
    if not isinstance(number, float) or not number.is_integer():
        got = f"{number:g}" if isinstance(number, float) else name_of(number)
        raise InvalidRequest(f"expected a whole number, got {got}", "dimensions")
    return int(number)

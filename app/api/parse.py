"""The body of POST /vectorize: from JSON to items."""

from dataclasses import dataclass, field
from typing import Any

from app.api.reader import name_of, read_object, shown
from app.errors import InvalidRequest

_MISSPELT = {"text": "texts", "texts": "texts", "image": "images", "images": "images"}
_EXAMPLE = '{"texts": ["a red car"], "images": ["<base64>"]}'


@dataclass
class VectorizeRequest:
    """The items of a request, as UTF-8."""

    texts: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


def parse_request(body: bytes | bytearray, max_items: int) -> VectorizeRequest:
    """Parse the body of POST /vectorize. Raises InvalidRequest that names the item, and TooLarge for far more than
    `max_items`."""
    document = read_object(body, max_items, _EXAMPLE)
    request = VectorizeRequest(_strings(document, "texts"), _strings(document, "images"))
    if not request.texts and not request.images:
        _refuse_misspelt(document)
    return request


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

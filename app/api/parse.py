"""The body of POST /vectorize: from JSON to items."""

from dataclasses import dataclass, field

from app.api.reader import Reader, name_of, shown
from app.errors import InvalidRequest

_MISSPELT = {"text": "texts", "texts": "texts", "image": "images", "images": "images"}
_MAX_KEY = 40
_EXAMPLE = '{"texts": ["a red car"], "images": ["<base64>"]}'


@dataclass
class VectorizeRequest:
    """The items of POST /vectorize, as UTF-8. Equal short items are one object."""

    texts: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


def parse_request(body: bytes | bytearray, max_items: int) -> VectorizeRequest:
    """Parse a request body of at most `max_items` items.

    Raises InvalidRequest that names the item, TooLarge.
    """
    reader = Reader(body, max_items, "texts and images")
    reader.enter_object(_EXAMPLE)
    request = VectorizeRequest()
    others: list[str] = []
    for key in reader.parameters():
        if key == "texts":
            request.texts = _strings(reader)
        elif key == "images":
            request.images = _strings(reader)
        else:
            others.append(key[:_MAX_KEY])
            reader.other()
    reader.end()
    if not request.texts and not request.images:
        _refuse_misspelt(others)
    return request


def _strings(reader: Reader) -> list[bytes]:
    first = reader.next()
    if first != ord("["):
        reader.other()
        if first == ord("n"):
            return []
        raise reader.invalid(f"expected an array of strings, got {name_of(first)}")
    items: list[bytes] = []
    for _ in reader.items():
        if (first := reader.next()) != ord('"'):
            reader.other()
            raise reader.invalid(f"expected a string, got {name_of(first)}")
        reader.count_item()
        items.append(reader.item())
    return items


def _refuse_misspelt(keys: list[str]) -> None:
    for key in keys:
        if right := _MISSPELT.get(key.strip().lower()):
            raise InvalidRequest(f'there are no items: the key is "{right}", not {shown(key)}; send {_EXAMPLE}')

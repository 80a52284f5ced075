"""The body of POST /vectorize: from JSON to items."""

from dataclasses import dataclass, field

from app.api.reader import Reader, name_of, shown
from app.errors import InvalidRequest

_MISSPELT = {"text": "texts", "texts": "texts", "image": "images", "images": "images"}
_LONGEST_KEY = 40
_EXAMPLE = '{"texts": ["a red car"], "images": ["<base64>"]}'


@dataclass
class VectorizeRequest:
    """Items of POST /vectorize, as UTF-8. Equal items are one object."""

    texts: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)


def parse_request(body: bytes | bytearray, most_items: int) -> VectorizeRequest:
    """Parse a request body of at most `most_items` items.

    Lets other threads run, however large the body is. Raises InvalidRequest that names the item, TooLarge.
    """
    reader = Reader(body, most_items, "texts and images")
    reader.enter_object(_EXAMPLE)
    request = VectorizeRequest()
    others: list[str] = []
    for key in reader.keys("the body"):
        if key == "texts":
            request.texts = _strings(reader, key)
        elif key == "images":
            request.images = _strings(reader, key)
        else:
            others.append(key[:_LONGEST_KEY])
            reader.other(f"the value of {shown(key)}", 1)
    reader.end()
    if not request.texts and not request.images:
        _refuse_misspelt(others)
    return request


def _strings(reader: Reader, key: str) -> list[bytes]:
    first = reader.next()
    if first != ord("["):
        reader.other(key, 1)
        if first == ord("n"):
            return []
        raise InvalidRequest(f"{key}: expected an array of strings, got {name_of(first)}")
    items: list[bytes] = []
    for _ in reader.elements():
        name = f"{key}[{len(items)}]"
        if (first := reader.next()) != ord('"'):
            reader.other(name, 2)
            raise InvalidRequest(f"{name}: expected a string, got {name_of(first)}")
        reader.count_item()
        items.append(reader.item(name))
    return items


def _refuse_misspelt(keys: list[str]) -> None:
    for key in keys:
        if right := _MISSPELT.get(key.strip().lower()):
            raise InvalidRequest(f'nothing is asked for: the key is "{right}", not {shown(key)}; send {_EXAMPLE}')

"""The body of POST /v1/embeddings: from JSON to items."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.api.parse import VectorizeRequest
from app.api.reader import BadString, Reader, name_of, shown
from app.errors import InvalidRequest

_EXAMPLE = '{"model": "any", "input": ["a red car", {"image": "<base64>"}]}'
_DATA_URI = re.compile(rb"data:[^,]{0,100};base64,", re.I)
_URL = re.compile(rb"\s*(https?|file|ftp|s3)://", re.I)


@dataclass
class EmbeddingsRequest:
    """Body of POST /v1/embeddings. `kinds` holds "texts" or "images" for each item of the input, in its order."""

    items: VectorizeRequest = field(default_factory=VectorizeRequest)
    kinds: list[str] = field(default_factory=list)
    as_base64: bool = False
    dimensions: int | None = None


def parse_embeddings(body: bytes | bytearray, most_items: int) -> EmbeddingsRequest:
    """Parse a request body of at most `most_items` items.

    Lets other threads run, however large the body is. Raises InvalidRequest that names the item, TooLarge.
    """
    reader = Reader(body, most_items, "what this route knows")
    reader.enter_object(_EXAMPLE)
    request = EmbeddingsRequest()
    for key in reader.keys("the body"):
        if key == "input":
            request.items, request.kinds = VectorizeRequest(), []
            _read_input(reader, request)
        elif key == "encoding_format":
            request.as_base64 = _word(reader, key, ("float", "base64")) == "base64"
        elif key == "dimensions":
            request.dimensions = _whole_number(reader, key)
        elif key == "model":
            _word(reader, key)
        else:
            reader.other(f"the value of {shown(key)}", 1)
    reader.end()
    if not request.kinds:
        raise InvalidRequest(f"input: nothing to embed; send {_EXAMPLE}")
    return request


def _read_input(reader: Reader, request: EmbeddingsRequest) -> None:
    first = reader.next()
    if first != ord("["):
        _read_item(reader, request, "input")
        return
    for _ in reader.elements():
        _read_item(reader, request, f"input[{len(request.kinds)}]")


def _read_item(reader: Reader, request: EmbeddingsRequest, name: str) -> None:
    first = reader.next()
    reader.count_item()
    if first == ord("{"):
        kind, item = _read_part(reader, name)
    elif first == ord('"'):
        item = reader.item(name)
        kind = "images" if _DATA_URI.match(item) else "texts"
    else:
        reader.other(name, 2)
        if first == ord("[") or name_of(first) == "a number":
            raise InvalidRequest(
                f"{name}: token ids are those of another tokenizer and mean nothing to this model; send the text "
                "(LangChain: check_embedding_ctx_length=False)"
            )
        raise InvalidRequest(f"{name}: expected a string or an object, got {name_of(first)}")
    if kind == "images" and _URL.match(item):
        raise InvalidRequest(f"{name}: no address is opened here; send the picture itself as base64 or a data URI")
    (request.items.images if kind == "images" else request.items.texts).append(item)
    request.kinds.append(kind)


def _read_part(reader: Reader, name: str) -> tuple[str, bytes]:
    """Kind and content of {"text": …}, {"image": …} or {"image_url": {"url": …}}."""
    send = 'send {"text": "…"} or {"image": "<base64>"}'
    found: tuple[str, bytes] | None = None
    for key, at in _strings_within(reader, name):
        if found:
            raise InvalidRequest(f"{name}: holds more than one text or image, for which there is no vector; {send}")
        found = ("texts" if key == "text" else "images", reader.item(at))
    if not found:
        raise InvalidRequest(f"{name}: holds neither a text nor an image; {send}")
    return found


def _strings_within(reader: Reader, name: str) -> Iterator[tuple[str, str]]:
    """Stops before each string that is an item, with its key and its name; passes all else."""
    for key in reader.keys(name):
        first = reader.next()
        if key in ("text", "image", "image_url") and first == ord('"'):
            yield key, f"{name}.{key}"
        elif key == "image_url" and first == ord("{"):
            for inner in reader.keys(f"{name}.{key}"):
                if inner == "url" and reader.next() == ord('"'):
                    yield key, f"{name}.{key}.url"
                else:
                    reader.other(f"{name}.{key}", 4)
        else:
            reader.other(f"{name}.{shown(key)}", 3)


def _word(reader: Reader, key: str, allowed: tuple[str, ...] = ()) -> str | None:
    first = reader.next()
    if first == ord("n"):
        reader.scalar()
        return None
    if first != ord('"'):
        reader.other(key, 1)
        raise InvalidRequest(f"{key}: expected a string, got {name_of(first)}")
    try:
        word = reader.string().decode()
    except BadString as error:
        raise InvalidRequest(f"{key}: {error}") from error
    if allowed and word not in allowed:
        raise InvalidRequest(f"{key}: {shown(word)} is not known; send {' or '.join(allowed)}")
    return word


def _whole_number(reader: Reader, key: str) -> int | None:
    first = reader.next()
    if name_of(first) not in ("a number", "null"):
        reader.other(key, 1)
        raise InvalidRequest(f"{key}: expected a whole number, got {name_of(first)}")
    scalar = reader.scalar()
    if scalar == b"null":
        return None
    if not re.fullmatch(rb"\d{1,9}", scalar):
        raise InvalidRequest(f"{key}: expected a whole number, got {scalar[:20].decode()}")
    return int(scalar)

"""The body of POST /v1/embeddings: from JSON to items."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.api.parse import VectorizeRequest
from app.api.reader import Reader, name_of, shown
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


def parse_embeddings(body: bytes | bytearray, max_items: int) -> EmbeddingsRequest:
    """Parse a request body of at most `max_items` items.

    Raises InvalidRequest that names the item, TooLarge.
    """
    reader = Reader(body, max_items, "what this route knows")
    reader.enter_object(_EXAMPLE)
    request = EmbeddingsRequest()
    for key in reader.parameters():
        if key == "input":
            request.items, request.kinds = VectorizeRequest(), []
            _read_input(reader, request)
        elif key == "encoding_format":
            request.as_base64 = _word(reader, ("float", "base64")) == "base64"
        elif key == "dimensions":
            request.dimensions = _whole_number(reader)
        elif key == "model":
            _word(reader)
        else:
            reader.other()
    reader.end()
    if not request.kinds:
        raise InvalidRequest(f"nothing to embed; send {_EXAMPLE}", "input")
    return request


def _read_input(reader: Reader, request: EmbeddingsRequest) -> None:
    first = reader.next()
    if first != ord("["):
        _read_item(reader, request)
        return
    for _ in reader.items():
        _read_item(reader, request)


def _read_item(reader: Reader, request: EmbeddingsRequest) -> None:
    first = reader.next()
    reader.count_item()
    if first == ord("{"):
        kind, item = _read_part(reader)
    elif first == ord('"'):
        item = reader.item()
        kind = "images" if _DATA_URI.match(item) else "texts"
    else:
        reader.other()
        if first == ord("[") or name_of(first) == "a number":
            raise reader.invalid(
                "token ids are those of another tokenizer and mean nothing to this model; send the text "
                "(LangChain: check_embedding_ctx_length=False)"
            )
        raise reader.invalid(f"expected a string or an object, got {name_of(first)}")
    if kind == "images" and _URL.match(item):
        raise reader.invalid("no address is opened here; send the picture itself as base64 or a data URI")
    (request.items.images if kind == "images" else request.items.texts).append(item)
    request.kinds.append(kind)


def _read_part(reader: Reader) -> tuple[str, bytes]:
    """Kind and content of {"text": …}, {"image": …} or {"image_url": {"url": …}}."""
    send = 'send {"text": "…"} or {"image": "<base64>"}'
    found: tuple[str, bytes] | None = None
    for key in _strings_within(reader):
        if found:
            raise reader.invalid(f"holds more than one text or image, for which there is no vector; {send}")
        found = ("texts" if key == "text" else "images", reader.item())
    if not found:
        raise reader.invalid(f"holds neither a text nor an image; {send}")
    return found


def _strings_within(reader: Reader) -> Iterator[str]:
    """Stops before each string that is an item, with its key; passes all else."""
    for key in reader.fields():
        first = reader.next()
        if key in ("text", "image", "image_url") and first == ord('"'):
            yield key
        elif key == "image_url" and first == ord("{"):
            for inner in reader.fields():
                if inner == "url" and reader.next() == ord('"'):
                    yield key
                else:
                    reader.other()
        else:
            reader.other()


def _word(reader: Reader, allowed: tuple[str, ...] = ()) -> str | None:
    first = reader.next()
    if first == ord("n"):
        reader.scalar()
        return None
    if first != ord('"'):
        reader.other()
        raise reader.invalid(f"expected a string, got {name_of(first)}")
    word = reader.string().decode()
    if allowed and word not in allowed:
        raise reader.invalid(f"{shown(word)} is not known; send {' or '.join(allowed)}")
    return word


def _whole_number(reader: Reader) -> int | None:
    first = reader.next()
    if name_of(first) not in ("a number", "null"):
        reader.other()
        raise reader.invalid(f"expected a whole number, got {name_of(first)}")
    scalar = reader.scalar()
    if scalar == b"null":
        return None
    if not re.fullmatch(rb"\d{1,9}", scalar):
        raise reader.invalid(f"expected a whole number, got {scalar[:20].decode()}")
    return int(scalar)

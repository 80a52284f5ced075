"""The body of POST /v1/embeddings: from JSON to items.

Beside OpenAI's own form it takes those of similar servers: `modality` (infinity), `messages` (vLLM), `inputs` with
`content` (Voyage, Cohere), `embedding_type` (Jina). What claims to be a picture becomes one or an error: the vector
of its characters would be meaningless, and nobody would notice.
"""

import re
from dataclasses import dataclass, field

from app.api.parse import VectorizeRequest
from app.api.reader import Reader, name_of, shown
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

_PARTS = {"text": "text", "content": "text", "image": "image", "image_url": "image", "image_base64": "image"}
_ADDRESS = {"url": "image"}
_OTHER_MEDIA = re.compile("(input_)?(audio|video|document|file)(_url|_base64)?")
# Where other servers look for items, but not this one.
_ELSEWHERE = ("text", "texts", "image", "images", "audio", "video")

# A "string" turns out to be a text or a picture by its looks, or by the rest of the body.
_Part = tuple[str, bytes]


@dataclass
class EmbeddingsRequest:
    """Body of POST /v1/embeddings. `kinds` holds "texts" or "images" for each item of the input, in order;
    `parameter` is the key of the items."""

    items: VectorizeRequest = field(default_factory=VectorizeRequest)
    kinds: list[str] = field(default_factory=list)
    parameter: str = "input"
    as_base64: bool = False
    dimensions: int | None = None

    def place(self, position: int) -> tuple[str, int | None]:
        """The parameter and position of an item, for an error about it."""
        return self.parameter, None if self.parameter == "messages" else position


def parse_embeddings(body: bytes | bytearray, max_items: int) -> EmbeddingsRequest:
    """Parse a request body of at most `max_items` items. Raises InvalidRequest that names the item, TooLarge."""
    reader = Reader(body, max_items, "what this route knows")
    reader.enter_object(_EXAMPLE)
    request = EmbeddingsRequest()
    found: dict[str, list[_Part]] = {}
    are_pictures = False
    for key in reader.parameters():
        if key in ("input", "inputs", "messages"):
            found.pop(key, None)
            if reader.next() == ord("n"):
                reader.scalar()
            else:
                found[key] = _read_messages(reader) if key == "messages" else _read_items(reader)
        elif key in ("encoding_format", "embedding_type"):
            request.as_base64 = _read_word(reader, ("float", "base64")) == "base64"
        elif key == "dimensions":
            request.dimensions = _read_whole_number(reader)
        elif key == "model":
            _read_word(reader)
        elif key == "modality":
            are_pictures |= _read_word(reader, ("text", "image")) == "image"
        elif key == "input_type":  # otherwise the purpose of the vector, which changes nothing here
            word = (_read_word(reader) or "").lower()
            if "audio" in word or "video" in word:
                raise reader.invalid(f"{shown(word)} is not embedded here; send texts or images")
            are_pictures |= "image" in word
        elif key in _ELSEWHERE:
            if _read_whether_given(reader):
                raise reader.invalid(f'not known on this route; everything goes into "input": {_EXAMPLE}')
        else:
            reader.other()
    reader.end()
    if len(found) > 1:
        raise InvalidRequest(f"send one of {', '.join(found)}, not several", [*found][1])
    for request.parameter, parts in found.items():
        _sort(request, parts, are_pictures)
    if not request.kinds:
        raise InvalidRequest(f"nothing to embed; send {_EXAMPLE}", "input")
    return request


def _sort(request: EmbeddingsRequest, parts: list[_Part], are_pictures: bool) -> None:
    """Tell texts from pictures, in their order; raises InvalidRequest for what is neither."""
    for position, (kind, content) in enumerate(parts):
        found = _PICTURE.match(content)
        if found or kind == "image" or (kind == "string" and are_pictures):
            if found:
                content = content[max(0, found.start("data")) :].strip(_AROUND)
            if _URL.match(content):
                raise InvalidRequest(
                    "addresses are not opened; send the picture itself as base64 or a data URI",
                    *request.place(position),
                )
            request.items.images.append(content)
            request.kinds.append("images")
        elif _PICTURE_WITHIN.search(content, 0, _SEARCHED):
            raise InvalidRequest(
                f"holds a picture within a text, and one vector cannot stand for both; {_SEND}",
                *request.place(position),
            )
        else:
            request.items.texts.append(content)
            request.kinds.append("texts")


def _read_items(reader: Reader) -> list[_Part]:
    if reader.next() != ord("["):
        return [_read_item(reader)]
    return [_read_item(reader) for _ in reader.items()]


def _read_item(reader: Reader) -> _Part:
    first = reader.next()
    if first == ord("{"):
        parts: list[_Part] = []
        _read_object(reader, parts)
        return _only_one(reader, parts)
    if first == ord('"'):
        reader.count_item()
        return "string", reader.item()
    reader.other()
    if first == ord("[") or name_of(first) == "a number":
        raise reader.invalid(
            "token ids come from another tokenizer and mean nothing to this model; send the text "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    raise reader.invalid(f"expected a string or an object, got {name_of(first)}")


def _read_messages(reader: Reader) -> list[_Part]:
    """The one text or picture of a conversation."""
    parts: list[_Part] = []
    _read_parts(reader, parts)
    return [_only_one(reader, parts)]


def _read_parts(reader: Reader, parts: list[_Part], strings_are: str = "string") -> None:
    """Add the parts of an array of objects and strings."""
    if (first := reader.next()) != ord("["):
        reader.other()
        raise reader.invalid(f"expected an array of objects, got {name_of(first)}")
    for _ in reader.elements():
        first = reader.next()
        if first == ord("{"):
            _read_object(reader, parts)
        elif first == ord('"'):
            reader.count_item()
            parts.append((strings_are, reader.item()))
        else:
            reader.other()


def _read_object(reader: Reader, parts: list[_Part], known: dict[str, str] = _PARTS) -> None:
    """Add the parts of {"text": …}, {"image": …}, {"image_url": {"url": …}} or {"content": [ … ]}."""
    for key in reader.fields():
        first = reader.next()
        if key in known and first == ord('"'):
            reader.count_item()
            parts.append((known[key], reader.item()))
        elif key in ("image", "image_url") and first == ord("{"):
            _read_object(reader, parts, _ADDRESS)
        elif key == "images" and first == ord("["):
            _read_parts(reader, parts, "image")
        elif key == "content" and first == ord("["):
            _read_parts(reader, parts)
        elif _OTHER_MEDIA.fullmatch(key):
            if _read_whether_given(reader):
                raise reader.invalid(f"holds {shown(key)}, but this model takes only texts and images; {_SEND}")
        else:
            reader.other()


def _only_one(reader: Reader, parts: list[_Part]) -> _Part:
    """The one part. An empty text beside a picture does not count: vLLM's clients send one. Raises InvalidRequest."""
    if len(parts) > 1:
        parts = [part for part in parts if part[1]] or parts[:1]
    if len(parts) > 1:
        raise reader.invalid(f"holds more than one text or image, and an item has one vector; {_SEND}")
    if not parts:
        raise reader.invalid(f"holds neither a text nor an image; {_SEND}")
    return parts[0]


def _read_whether_given(reader: Reader) -> bool:
    """Whether a value is more than null, an empty string or an empty array."""
    first = reader.next()
    if first == ord('"'):
        return reader.string() != b""
    if first != ord("["):
        reader.other()
        return first != ord("n")
    given = False
    for _ in reader.elements():
        given = True
        reader.other()
    return given


def _read_word(reader: Reader, allowed: tuple[str, ...] = ()) -> str | None:
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


def _read_whole_number(reader: Reader) -> int | None:
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

"""Base64 text to bytes."""

import re

import pybase64

from app.errors import NotBase64
from app.processors.formats import looks_like

_DATA_URI = re.compile(rb"\s*data:[^,]{0,1000},", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
_BREAKS = b"\t\n\v\f\r"
_ENDING = _BREAKS + b" ="
# So much of a text is read at a time: the interpreter's lock is free in between.
_PIECE = 2**18


def decode_base64(text: bytes) -> bytes:
    """Bytes of a base64 text, with or without data URI, line breaks, URL-safe alphabet or padding.

    Raises InvalidRequest that says what the text is instead.
    """
    start = prefix.end() if (prefix := _DATA_URI.match(text)) else 0
    try:
        return pybase64.b64decode(memoryview(text)[start:], validate=True)
    except ValueError:
        pass
    try:
        return _decode_unusual(text, start)
    except ValueError as error:
        hint = looks_like(text[:100])
        hint = f"it looks like {hint}" if hint else "send the bytes of the file, base64-encoded"
        raise NotBase64(f"is not base64; {hint}") from error


def _decode_unusual(text: bytes, start: int) -> bytes:
    """In other alphabets, with breaks or without padding; raises ValueError for what is no base64."""
    end = len(text)
    while end > start and text[end - 1] in _ENDING:
        end -= 1
    while text[start : start + 1].isspace():
        start += 1
    decoded: list[bytes] = []
    rest = b""
    for position in range(start, end, _PIECE):
        rest += text[position : min(position + _PIECE, end)].translate(_TO_STANDARD, _BREAKS)
        if b"=" in rest:
            raise ValueError("padding in the middle")
        whole = len(rest) // 4 * 4
        decoded.append(pybase64.b64decode(rest[:whole], validate=True))
        rest = rest[whole:]
    decoded.append(pybase64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
    return b"".join(decoded)

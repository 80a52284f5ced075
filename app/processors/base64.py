"""Base64 text to bytes."""

import re

import pybase64

from app.errors import NotBase64
from app.processors.formats import looks_like

_DATA_URI = re.compile(rb"\s*data:[^,]{0,1000},", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
_BREAKS = b"\t\n\v\f\r"


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
        return _decode_unusual(text[start:])
    except ValueError as error:
        hint = looks_like(text[:100])
        hint = f"it looks like {hint}" if hint else "send the bytes of the file, base64-encoded"
        raise NotBase64(f"is not base64; {hint}") from error


def _decode_unusual(text: bytes) -> bytes:
    """In other alphabets, with breaks or without padding; raises ValueError for what is no base64."""
    text = text.lstrip().rstrip(_BREAKS + b" =").translate(_TO_STANDARD, _BREAKS)
    if b"=" in text:
        raise ValueError("padding in the middle")
    return pybase64.b64decode(text + b"=" * (-len(text) % 4), validate=True)

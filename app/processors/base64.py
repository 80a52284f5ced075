"""Base64 text to bytes."""

import re

import numpy as np
import numpy.typing as npt
import pybase64

from app.errors import NotBase64
from app.processors.formats import looks_like

_DATA_URI = re.compile(rb"\s*data:[^,]{0,200},", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
_BREAKS = b"\t\n\v\f\r"  # one after the other
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
    """In another alphabet, with breaks or without padding; raises ValueError for what is no base64."""
    while text[start : start + 1].isspace():
        start += 1
    end = len(text)
    while end > start and (text[end - 1 : end].isspace() or text[end - 1 : end] == b"="):
        end -= 1
    breaks = _count_breaks(np.frombuffer(text, np.uint8)[start:end])
    size = end - start - breaks
    if size % 4 == 1:
        raise ValueError("a character too few or too many")
    blanks, others = b" " in text, b"-" in text or b"_" in text
    if blanks + others + (b"+" in text) + (others and b"/" in text) > 1:
        return _decode_in_pieces(text, start, end)
    stand_in = b"-_" if others else b" /" if blanks else None
    # Without `validate` every character of no meaning is passed over, which the length tells.
    padding = b"=" * (-size % 4)
    if text[end : end + len(padding)] == padding:
        decoded, rest = pybase64.b64decode(memoryview(text)[start : end + len(padding)], stand_in, not breaks), b""
    else:
        whole, last = end, b""
        while len(last) < size % 4:
            whole -= 1
            last = text[whole : whole + 1].translate(None, _BREAKS) + last
        decoded = pybase64.b64decode(memoryview(text)[start:whole], stand_in, not breaks)
        rest = pybase64.b64decode(last + padding, stand_in, validate=True)
    if len(decoded) + len(rest) != size * 3 // 4:
        raise ValueError("characters of no meaning")
    return decoded + rest if rest else decoded


def _count_breaks(text: npt.NDArray[np.uint8]) -> int:
    parts = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return sum(int(np.count_nonzero(part - _BREAKS[0] < len(_BREAKS))) for part in parts)


def _decode_in_pieces(text: bytes, start: int, end: int) -> bytes:
    """Of several alphabets at once; lets other threads run."""
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

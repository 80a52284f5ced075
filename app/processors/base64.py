"""Base64 text to bytes."""

import binascii
import contextlib
import re

from app.errors import InvalidRequest

_DATA_URI = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)
_FROM_URL_SAFE = str.maketrans("-_ ", "+/+")
_LOOKS_LIKE = (
    (b"%pdf", "a PDF"),
    (b"<svg", "an SVG"),
    (b"<?xml", "XML or an SVG"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"http://", "a URL; send the picture itself"),
    (b"https://", "a URL; send the picture itself"),
    (b"%!ps", "PostScript"),
    # Base64 of the first bytes of PNG, JPEG, GIF, WebP, and of a data URI.
    (b"ivborw0", "base64 that was encoded twice"),
    (b"/9j/", "base64 that was encoded twice"),
    (b"r0lgod", "base64 that was encoded twice"),
    (b"uklgr", "base64 that was encoded twice"),
    (b"data:image", "a data URI that was encoded twice"),
)


def decode_base64(text: str) -> bytes:
    """Bytes of a base64 text, with or without data URI, line breaks, URL-safe alphabet or padding."""
    if prefix := _DATA_URI.match(text):
        text = text[prefix.end() :]
    with contextlib.suppress(ValueError):
        return _strict_base64(text)
    cleaned = re.sub(r"[\r\n\t]+|^ +| +$", "", text).translate(_FROM_URL_SAFE).rstrip("=")
    try:
        return _strict_base64(cleaned + "=" * (-len(cleaned) % 4))
    except ValueError as error:
        hint = looks_like(text[:100].encode(errors="replace")) or "send the bytes of the file, base64-encoded"
        raise InvalidRequest(f"is not base64; {hint}") from error


def _strict_base64(text: str) -> bytes:
    """Raises ValueError, of which binascii.Error is a kind."""
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def looks_like(data: bytes) -> str:
    """What the first bytes of a file, or of a text, look like, in words; empty if that is not known."""
    head = data[:512].lstrip().lower()
    return next((f"it looks like {name}" for start, name in _LOOKS_LIKE if head.startswith(start)), "")

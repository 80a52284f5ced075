"""Reads the headers of pictures in common formats before anything is decoded: metadata, and what decoding costs.

Pillow gets JPEG and PNG without their metadata. It would keep, unpack and interpret all of it, but what surrounds the
pixels must cost nothing, whatever its size and content. Only what may hold the rotation is passed on.
"""

import contextlib
import io
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from PIL.PngImagePlugin import PngStream

# Seconds that one pixel takes, generously: of JPEG for each of its scans.
_SECONDS_A_PIXEL = {"BMP": 1e-8, "GIF": 4e-8, "JPEG": 2e-8, "PNG": 1e-7, "WEBP": 6e-8}
# JPEG and PNG with more parts and GIF with more bytes than anybody makes go to the process apart.
_MAX_PARTS = 2**16
_MAX_GIF_BYTES = 2**21

_MAX_METADATA = 2**20

# A marker, with any fill before it, and the length of its segment.
_JPEG_SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
_PNG_TEXTS = (b"iTXt", b"zTXt", b"tEXt")
_PNG_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


@dataclass(frozen=True)
class Common:
    """A picture of a common format as its own bytes describe it.

    `data` is the picture without its metadata; `info` has the metadata that may hold the rotation, by Pillow's names.
    `scans` is above 1 for a JPEG that is sent in several passes.
    """

    format: str
    data: bytes
    info: dict[Any, Any] = field(default_factory=dict)
    scans: int = 1

    def seconds(self, pixels: int) -> float:
        """A generous upper bound of the time that decoding so many pixels takes."""
        return _SECONDS_A_PIXEL[self.format] * pixels * self.scans


def common_format(data: bytes) -> Common | None:
    """What an ordinary picture of a common format says of itself; None for everything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"GIF8") and len(data) <= _MAX_GIF_BYTES and b"!\xfe" not in data:
        return Common("GIF", data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Common("WEBP", data)
    # Of the ways to pack a BMP, none and bit fields are decoded in C, the others in Python.
    if data.startswith(b"BM") and len(data) > 34 and (data[14] < 40 or data[30:34] in (bytes(4), b"\3\0\0\0")):
        return Common("BMP", data)
    return None


def _jpeg(data: bytes) -> Common | None:
    """Without APP1 to APP13, APP15 and comments: APP0 and APP14 say how the colours are stored."""
    kept: list[bytes | memoryview] = [data[:2]]
    info: dict[Any, Any] = {}
    whole_frame = b""  # how many components a first scan holds if no other is read after it
    start = 2
    view = memoryview(data)
    for _ in range(_MAX_PARTS):
        segment = _JPEG_SEGMENT.match(data, start)
        if segment is None:
            return None
        marker, content = segment[1][0], segment.end()
        if marker == 0xDA:
            break
        end = content - 2 + int.from_bytes(segment[2], "big")
        if marker in (0xC0, 0xC1):  # sequential frames
            whole_frame = data[content + 5 : content + 6]
        if (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            if marker == 0xE1:
                info.setdefault("exif" if data.startswith(b"Exif\0\0", content) else "xmp", data[content:end])
        else:
            kept.append(view[start:end])
        start = end
    else:
        return None
    scans = 1 if whole_frame == data[content : content + 1] else data.count(b"\xff\xda", start)
    if sum(map(len, kept)) < start:
        data = b"".join([*kept, view[start:]])
    return Common("JPEG", data, info, scans)


def _png(data: bytes) -> Common | None:
    """With the critical chunks and tRNS alone."""
    kept: list[memoryview] = []
    info: dict[Any, Any] = {}
    position = start = 8
    view = memoryview(data)
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        content, end = position + 8, position + 12 + length
        if kind[0] & 32 and kind != b"tRNS":
            kept.append(view[start:position])
            start = min(end, len(data))
            if kind == b"eXIf" or (kind in _PNG_TEXTS and data.startswith(_PNG_KEYWORDS, content)):
                info.update(_png_info(kind, data[content : content + min(length, _MAX_METADATA)]))
        position = end
        if kind == b"IEND":
            break
    else:
        return None
    if kept:
        data = b"".join([view[:8], *kept, view[start:]])
    return Common("PNG", data, info)


def _png_info(kind: bytes, content: bytes) -> dict[Any, Any]:
    """What Pillow reads from a chunk; empty if it is broken."""
    stream = PngStream(io.BytesIO(content))
    with contextlib.suppress(Exception):
        stream.call(kind, 0, len(content))
    return stream.im_info

"""What the first bytes of a picture say: its format, its metadata, and what decoding it costs.

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

# Decoded in this process: decoders in C whose time follows from the number of pixels.
COMMON = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Decoded in a process apart, which can be ended. No format that is a program or that only hands on another one.
RARE = ("AVIF", "DIB", "HEIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")

_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF8",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "ICO": (b"\0\0\1\0",),
    "QOI": (b"qoif",),
}
# In lower case.
_FOREIGN_STARTS = {
    "a PDF": (b"%pdf",),
    "an SVG": (b"<svg",),
    "XML or an SVG": (b"<?xml",),
    "an HTML page": (b"<!doctype", b"<html"),
    "a URL; send the picture itself": (b"http://", b"https://"),
    "PostScript": (b"%!ps", b"\xc5\xd0\xd3\xc6"),
    "a Photoshop file": (b"8bps",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
    "a Matroska or WebM video": (b"\x1ae\xdf\xa3",),
    "a Windows metafile": (b"\xd7\xcd\xc6\x9a", b"\1\0\0\0"),
    "a raw photo": (b"fujifilmccd-raw", b"iiro", b"iiu\0", b"fovb"),
    "a ZIP file": (b"pk\3\4",),
    "gzip": (b"\x1f\x8b",),
    # Base64 of the first bytes of PNG, JPEG, GIF, WebP, and of a data URI.
    "base64 that was encoded twice": (b"ivborw0", b"/9j/", b"r0lgod", b"uklgr", b"data:image"),
}
# What follows "ftyp" in files that are no HEIF or AVIF.
_RAW_PHOTO = b"crx "
_VIDEOS = (b"iso", b"mp4", b"M4", b"qt", b"3g", b"avc1", b"dash", b"f4", b"MSNV", b"XAVC")
# Seconds that one pixel takes, generously: of JPEG for each of its scans.
_SECONDS_A_PIXEL = {"BMP": 1e-8, "GIF": 4e-8, "JPEG": 2e-8, "PNG": 1e-7, "WEBP": 6e-8}
# JPEG and PNG with more parts and GIF with more bytes than anybody makes go to the process apart.
_MAX_PARTS = 2**16
_MAX_GIF_BYTES = 2**21

_MAX_METADATA = 2**20

# A marker, with any fill before it, and the length of its segment.
_JPEG_SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
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
            if kind == b"eXIf" or (kind in (b"iTXt", b"zTXt", b"tEXt") and data.startswith(_PNG_KEYWORDS, content)):
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


def format_of(data: bytes) -> str:
    """The name of the format that the first bytes belong to; empty if that is none that is decoded here."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        if data.startswith((_RAW_PHOTO, *_VIDEOS), 8):
            return ""
        return "AVIF" if b"avif" in data[8:64] or b"avis" in data[8:64] else "HEIF"
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "BMP"
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "PPM"
    return _name_in(_STARTS, data)


def looks_like(data: bytes, unknown: str) -> str:
    """In words, what bytes, or the beginning of a text, are instead of a picture; `unknown` if that is not known."""
    if data[4:8] == b"ftyp":
        name = "a raw photo (CR3)" if data.startswith(_RAW_PHOTO, 8) else "a video (MP4)"
    else:
        name = _name_in(_FOREIGN_STARTS, data[:512].lstrip(b" \r\n\t\xef\xbb\xbf").lower())
    return f"it looks like {name}" if name else unknown


def _name_in(starts: dict[str, tuple[bytes, ...]], data: bytes) -> str:
    return next((name for name, beginnings in starts.items() if data.startswith(beginnings)), "")


def is_cut_off(data: bytes) -> bool:
    """Whether the end of a JPEG, PNG, GIF or WebP is missing."""
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}.get(format_of(data))
    return end is not None and end not in data[-4096:]

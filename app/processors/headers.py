"""Reads the headers of pictures in common formats before anything is decoded: metadata, and what decoding costs.

Pillow gets JPEG and PNG without their metadata. It would keep, unpack and interpret all of it, but what surrounds the
pixels must cost nothing, whatever its size and content. Only what may hold the rotation is passed on.
"""

import zlib
from dataclasses import dataclass, field

# Seconds that one pixel takes, generously: of JPEG for each of its scans.
_SECONDS_A_PIXEL = {"BMP": 1e-8, "GIF": 4e-8, "JPEG": 2e-8, "PNG": 1e-7, "WEBP": 6e-8}
# JPEG with more scans, PNG with more chunks and GIF with more bytes than anybody makes go to the process apart.
_MAX_SCANS = 30
_MAX_PARTS = 2**16
_MAX_GIF_BYTES = 2**21

_MAX_TEXT = 2**20

# The markers of a JPEG's frame, of which 0xC0 and 0xC1 are sequential, with Huffman codes.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Common:
    """A picture of a common format as its own bytes describe it.

    `data` is the picture without its metadata; `info` has the metadata that may hold the rotation, by Pillow's names.
    `scans` is above 1 for a JPEG that is sent in several passes.
    """

    format: str
    data: bytes
    info: dict[str, bytes | str] = field(default_factory=dict)
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
    info: dict[str, bytes | str] = {}
    whole_frame = b""  # how many components a first scan holds if no other is read after it
    position = 2
    view = memoryview(data)
    for _ in range(_MAX_PARTS):
        start = position
        while data[position : position + 1] == b"\xff":
            position += 1
            if position - start > 64:
                return None
        if position == start or position + 3 > len(data):
            return None
        marker = data[position]
        if marker == 0xDA:
            break
        end = position + 1 + int.from_bytes(data[position + 1 : position + 3], "big")
        if marker in _FRAMES:
            sequential = marker in (0xC0, 0xC1)
            whole_frame = data[position + 8 : position + 9] if sequential else b""
        metadata = (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE
        if not metadata:
            kept.append(view[start:end])
        elif marker == 0xE1:
            is_exif = data.startswith(b"Exif\0\0", position + 3)
            info.setdefault("exif" if is_exif else "xmp", data[position + 3 : end])
        position = end
    else:
        return None
    scans = 1 if whole_frame == data[position + 3 : position + 4] else data.count(b"\xff\xda", start)
    if scans > _MAX_SCANS:
        return None
    if sum(map(len, kept)) < start:
        data = b"".join([*kept, view[start:]])
    return Common("JPEG", data, info, scans)


def _png(data: bytes) -> Common | None:
    """With the critical chunks and tRNS alone."""
    kept: list[memoryview] = []
    info: dict[str, bytes | str] = {}
    position = start = 8
    view = memoryview(data)
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):
            break
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if kind[0] & 32 and kind != b"tRNS":
            kept.append(view[start:position])
            start = min(end, len(data))
            content = view[position + 8 : position + 8 + length]
            if kind == b"eXIf":
                info["exif"] = bytes(content[: 2**16])
            elif kind in (b"iTXt", b"zTXt", b"tEXt"):
                info.update(_png_text(kind, content))
        position = end
        if kind == b"IEND":
            break
    else:
        return None
    if kept:
        data = b"".join([view[:8], *kept, view[start:]])
    return Common("PNG", data, info)


def _png_text(kind: bytes, content: memoryview) -> dict[str, bytes | str]:
    """XMP, or EXIF in hexadecimal digits, from a text chunk; empty for any other text."""
    keyword, _, rest = bytes(content[:_MAX_TEXT]).partition(b"\0")
    if keyword == b"XML:com.adobe.xmp":
        return {"xmp": _inflate(rest[2:].split(b"\0", 2)[-1]) if kind == b"iTXt" and rest[:1] == b"\1" else rest}
    if keyword == b"Raw profile type exif":
        text = _inflate(rest[1:]) if kind == b"zTXt" else rest
        return {keyword.decode(): text.decode("ascii", errors="replace")}
    return {}


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
    except zlib.error:
        return b""

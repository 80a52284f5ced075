"""Pictures to send: drawn, encoded in every format, and what the service makes of them."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

from app.processors.picture import PictureProcessor
from app.serving.budget import MAX_PIXELS
from app.towers import Inputs

# How an upright picture is stored that bears a rotation tag.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """Two ramps, so that every corner has a colour of its own."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Large shapes, fine texture and grain, as a camera gives them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.normal(0, 8, (height, width, 1)) + 12 * np.sin(np.arange(width) / 2.3)[None, :, None]
    return Image.fromarray((shapes + grain).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_pixels(image: Image.Image) -> Inputs:
    return {"pixels": np.asarray(image)}


def pictures(**options: object) -> PictureProcessor:
    """The way of a picture up to its upright RGB pixels."""
    settings: dict[str, object] = {"max_pixels": MAX_PIXELS, "seconds": 10.0, **options}
    return PictureProcessor(as_pixels, **settings)  # type: ignore[arg-type]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """A white RGB PNG with more chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\xff" * 3 * size[0]) * min(size[1], 64))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def as_base64(data: bytes) -> bytes:
    return base64.b64encode(data)

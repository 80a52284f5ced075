"""Base64 text to an upright RGB picture, or an error that says what is wrong with it."""

import binascii
import contextlib
import io
import re
import warnings

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from app.contract import InvalidRequest

pillow_heif.register_heif_opener()
Image.init()
# Pillow hands EPS to an interpreter of its own, as a program: never on pictures of strangers.
_FORMATS = sorted(Image.OPEN.keys() - {"EPS"})
# The pixel cap below refuses where Pillow would only warn.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

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
        hint = _looks_like(text[:100].encode(errors="replace")) or "send the bytes of the file, base64-encoded"
        raise InvalidRequest(f"is not base64; {hint}") from error


def _strict_base64(text: str) -> bytes:
    """Raises ValueError, of which binascii.Error is a kind."""
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def decode_image(text: str, max_pixels: int, legacy: bool = False) -> Image.Image:
    """An upright RGB picture from base64 text; of an animation, its first frame.

    Transparency is laid on white; 16-bit and float greys keep their tones. With `legacy` the picture is
    only converted to RGB. `max_pixels` is checked before decoding. Raises InvalidRequest.
    """
    data = decode_base64(text)
    if not data:
        raise InvalidRequest("is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidRequest(
                    f"has {width}x{height} pixels, more than the {max_pixels} allowed; make it smaller"
                )
            image.load()
            return image.convert("RGB") if legacy else to_rgb(image)
    except UnidentifiedImageError as error:
        hint = _looks_like(data) or "send JPEG, PNG, WebP or another common format"
        raise InvalidRequest(f"is no picture that can be read; {hint}") from error
    except Image.DecompressionBombError as error:
        raise InvalidRequest("has far too many pixels; make it smaller") from error
    except InvalidRequest:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly any exception on broken data.
        raise InvalidRequest(f"is a broken picture ({type(error).__name__}); it may be cut off") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, opaque, 8-bit RGB."""
    with contextlib.suppress(Exception):  # a broken EXIF block must not cost the picture
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _grey_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bit: 16-bit values over 257, floats from 0 to 1 times 255, larger ones by the highest."""
    tones = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=255.0, neginf=0.0)
    highest = float(tones.max(initial=0.0))
    if image.mode == "F" and highest <= 1.0:
        tones *= 255.0
    elif image.mode.startswith("I;16") or 255.0 < highest <= 65535.0:
        tones /= 257.0
    elif highest > 65535.0:
        tones *= 255.0 / highest
    return Image.fromarray(tones.clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    return next((f"it looks like {name}" for start, name in _LOOKS_LIKE if head.startswith(start)), "")

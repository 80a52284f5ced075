"""Base64 text to an upright RGB picture, or an error that says what is wrong with it."""

import binascii
import io
import re
import warnings

import numpy as np
import pillow_heif
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from app.contract import InvalidRequest

pillow_heif.register_heif_opener()

_DATA_URI = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)
_FROM_URL_SAFE = str.maketrans("-_ ", "+/+")


def decode_base64(text: str) -> bytes:
    """Bytes of a base64 text, with or without data URI, line breaks, URL-safe alphabet or padding."""
    if prefix := _DATA_URI.match(text):
        text = text[prefix.end() :]
    try:
        return _strict_base64(text)
    except (binascii.Error, ValueError):
        pass
    text = re.sub(r"[\r\n\t]+|^ +| +$", "", text).translate(_FROM_URL_SAFE).rstrip("=")
    try:
        return _strict_base64(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("is not base64; send the bytes of the picture file, base64-encoded") from error


def _strict_base64(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


def decode_image(text: str, max_pixels: int, legacy: bool = False) -> Image.Image:
    """An upright RGB picture from base64 text.

    Transparency is laid on white, 16-bit and float greys keep their tones. With `legacy`
    the picture is only converted to RGB. Raises InvalidRequest.
    """
    data = decode_base64(text)
    if not data:
        raise InvalidRequest("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidRequest(
                    f"has {width}x{height} pixels, more than the {max_pixels} allowed; make it smaller"
                )
            image.load()
            return image.convert("RGB") if legacy else to_rgb(image)
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"is no picture that can be read{_guess(data)}") from error
    except Image.DecompressionBombError as error:
        raise InvalidRequest(f"has more pixels than the {max_pixels} allowed; make it smaller") from error
    except InvalidRequest:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly any exception on broken data.
        raise InvalidRequest(f"is a broken picture ({type(error).__name__}); it may be cut off") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, opaque, 8-bit RGB."""
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _grey_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block must not cost the picture
        return image


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    tones = np.asarray(image).astype(np.float32)
    tones = np.nan_to_num(tones, posinf=255.0, neginf=0.0)
    highest = float(tones.max(initial=0.0))
    if image.mode == "F" and highest <= 1.0:
        tones *= 255.0
    elif highest > 255.0 or image.mode.startswith("I;16"):
        tones /= 257.0 if highest <= 65535.0 else highest / 255.0
    return Image.fromarray(tones.clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _guess(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    for start, name in (
        (b"%pdf", "PDF"),
        (b"<svg", "SVG"),
        (b"<!doctype", "HTML"),
        (b"<html", "HTML"),
        (b"<?xml", "XML or SVG"),
        (b"http", "a URL; send the picture itself"),
    ):
        if head.startswith(start):
            return f": it looks like {name}"
    return "; send JPEG, PNG, WebP or another common format"


assert not ImageFile.LOAD_TRUNCATED_IMAGES

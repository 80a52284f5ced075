"""Base64 text to an upright RGB picture, or an error that says what is wrong with it."""

import contextlib
import io
import warnings

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import InvalidRequest
from app.processors.base64 import decode_base64, looks_like

pillow_heif.register_heif_opener()
Image.init()
# Pillow hands EPS to an interpreter of its own, as a program: never on pictures of strangers.
_FORMATS = sorted(Image.OPEN.keys() - {"EPS"})
# The pixel cap below refuses where Pillow would only warn.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


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
        hint = looks_like(data) or "send JPEG, PNG, WebP or another common format"
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

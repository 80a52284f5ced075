"""Bytes to a picture, or an error that says what is wrong with it: the part that calls Pillow.

It runs in the server for common formats and in a process apart for the others (see worker.py).
"""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from app.errors import (
    BrokenPicture,
    InvalidRequest,
    NoPicture,
    PictureTooLarge,
    ServiceError,
    Unavailable,
    UnsupportedPicture,
)
from app.processors import layouts
from app.processors.formats import Common, format_of, is_cut_off, looks_like

# What a library remarks on a stranger's picture is no business of the log; sizes are checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
Image.MAX_IMAGE_PIXELS = None

BYTES_A_PIXEL = 4
"""What an ordinary picture takes while it is decoded: Pillow keeps RGB in four bytes."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture as it is stored is turned upright, by its rotation tag."""

_SAVE_AS = "save it again as JPEG or PNG"


@dataclass(frozen=True)
class Decoded:
    """Pixels as they are stored, opaque, of mode RGB or L, and the rotation tag that turns them upright.

    `size` is the width and height of the stored picture, of which `image` may be a version smaller by `scale`.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int = 1
    scale: int = 1

    def upright(self) -> Image.Image:
        """The upright RGB picture."""
        image = self.image if self.image.mode == "RGB" else self.image.convert("RGB")
        turn = TURNS.get(self.orientation)
        return image if turn is None else image.transpose(turn)


@contextmanager
def named_errors(data: bytes) -> Iterator[None]:
    """Turns whatever a decoder throws at the picture `data` into InvalidRequest, lack of memory into Unavailable."""
    try:
        yield
    except ServiceError:
        raise
    except MemoryError as error:
        raise Unavailable("memory ran out while it was decoded; try again in a moment") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.sub(r".*\((\d+) pixels\).*", r"\1", str(error), flags=re.DOTALL)
        raise PictureTooLarge(f"has {pixels} pixels, itself or in a picture inside it, more than allowed") from error
    except Exception as error:  # Pillow's decoders raise nearly any exception on broken data
        raise _refusal(data, error) from error


def _refusal(data: bytes, error: Exception) -> InvalidRequest:
    name, said = format_of(data), str(error).lower()
    unidentified = isinstance(error, UnidentifiedImageError)
    if unidentified and not name:
        hint = looks_like(data, "send JPEG, PNG, WebP or another common format")
        return NoPicture(f"is no picture that can be read; {hint}")
    broken = f"is a broken {name or 'or unusual'} picture"
    if is_cut_off(data) or "truncated" in said or isinstance(error, EOFError):
        return BrokenPicture(f"{broken}; it may be cut off")
    if unidentified or isinstance(error, NotImplementedError) or "unsupported" in said or "not available" in said:
        variant = f"is a {name or 'picture'} of a variant that is not supported, or its header is broken"
        return UnsupportedPicture(f"{variant}; {_SAVE_AS}")
    if name == "TIFF":
        broken += ", or of a variant that is not supported"
    return BrokenPicture(f"{broken}; {_SAVE_AS}")


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raises InvalidRequest for a picture of more than `max_pixels`, or of none."""
    width, height = size
    if width * height > max_pixels:
        raise PictureTooLarge(
            f"has {width} x {height} pixels, more than the {max_pixels} allowed; make it smaller or raise MAX_PIXELS"
        )
    if width < 1 or height < 1:
        raise BrokenPicture(f"has {width} x {height} pixels; send a picture")


class CommonPicture:
    """A picture of a common format, of which the header was read. Raises InvalidRequest or Unavailable.

    `size` is its width and height as stored; `decoded_bytes` is how much memory decoding takes at most.
    """

    def __init__(self, header: Common, max_pixels: int, legacy: bool) -> None:
        self._header = header
        self._max_pixels = max_pixels
        self._legacy = legacy
        with named_errors(header.data):
            self._image = Image.open(io.BytesIO(header.data), formats=[header.format])
        self._image.info.update(header.info)
        if header.format == "JPEG":
            self._image.decodermaxblock = len(header.data)  # in pieces of 64 kB it takes 1.1 times as long
        self.size: tuple[int, int] = self._image.size
        check_pixels(self.size, max_pixels)
        pixels = self.size[0] * self.size[1]
        self.decoded_bytes = pixels * _bytes_a_pixel(self._image, header)
        self.seconds = header.seconds(pixels)

    def decode(self, least: tuple[int, int] | None = None) -> Decoded:
        """The pixels; those of a JPEG at half, a quarter or an eighth of the size if that is at least `least`."""
        drafted = None if least is None else self._image.draft(None, least)
        decoded = decode_opened(self._image, self._header.data, self._max_pixels, self._legacy)
        if drafted is None:
            return decoded
        return replace(decoded, size=self.size, scale=round(self.size[0] / drafted[1][2]))


def _bytes_a_pixel(image: Image.Image, header: Common) -> int:
    if header.format == "JPEG":
        # A JPEG in several scans is kept as coefficients, 2 bytes for each sample, until the last one came.
        return BYTES_A_PIXEL if header.scans == 1 else 10
    if header.format == "WEBP":
        return 16
    return BYTES_A_PIXEL if image.mode in ("RGB", "L") and "transparency" not in image.info else 16


def decode_opened(image: Image.Image, data: bytes, max_pixels: int, legacy: bool) -> Decoded:
    """The picture in `data` that was opened as `image`; raises InvalidRequest or Unavailable.

    With `legacy` it is only converted to RGB.
    """
    with named_errors(data):
        if not legacy:
            if layout := layouts.unsupported_layout(image, data):
                raise UnsupportedPicture(f"is a {format_of(data)} with {layout}, which is not supported; {_SAVE_AS}")
            layouts.mend_transparency(image, data)
        image.load()
        check_pixels(image.size, max_pixels)
        if legacy:
            return Decoded(image.convert("RGB"), image.size)
        return Decoded(_flatten(image), image.size, _orientation(image))


def _orientation(image: Image.Image) -> int:
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block must not cost the picture
        return 1
    return int(tag) if tag in TURNS else 1


def _flatten(image: Image.Image) -> Image.Image:
    """Opaque and 8-bit, of mode RGB or L: transparency on white, deep greys with their tones."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _grey_to_8_bit(image)
        return ImageOps.invert(grey) if layouts.white_is_zero(image) else grey
    if image.has_transparency_data and not layouts.alpha_is_unused(image):
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bit: 16-bit values over 257, floats from 0 to 1 times 255, larger ones by the highest.

    A transparent value becomes white.
    """
    samples = np.asarray(image)
    if image.mode == "I" and samples.min(initial=0) < 0:
        raise UnsupportedPicture(f"has negative samples, which stand for no tone; {_SAVE_AS}")
    tones = np.nan_to_num(samples.astype(np.float32), posinf=255.0, neginf=0.0)
    highest = float(tones.max(initial=0.0))
    if image.mode == "F" and highest <= 1.0:
        tones *= 255.0
    elif image.mode.startswith("I;16") or image.format == "PPM" or 255.0 < highest <= 65535.0:
        tones /= 257.0
    elif highest > 65535.0:
        tones *= 255.0 / highest
    if "transparency" in image.info:
        tones[samples == image.info["transparency"]] = 255.0
    return Image.fromarray(tones.clip(0, 255).round().astype(np.uint8))

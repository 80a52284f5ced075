"""Layouts that Pillow misreads: they are refused or mended, and never give a wrong picture.

They were found by comparing Pillow with tifffile, OpenJPEG and the formats' specifications; see
tests/processors/test_layouts.py.
"""

from typing import Any

from PIL import Image
from PIL import TiffImagePlugin as tiff

# Icons have 256 x 256 pixels at most; what is much larger is no icon.
_ICON_PIXELS = 2**22
_INK_SET = 332
_WHITE_IS_ZERO, _INKS, _YCBCR = 0, 5, 6
_UNSIGNED, _SIGNED = 1, 2
# Of the "colr" box of JP2: CMYK, sRGB, grey, YCbCr.
_JP2_SPACES = (12, 16, 17, 18)


def unsupported_layout(image: Image.Image, data: bytes) -> str:
    """In words, what Pillow misreads in the layout of `data`, opened as `image`; empty if nothing."""
    width, height = image.size
    if image.format == "ICO" and width * height > _ICON_PIXELS:
        return f"a picture of {width} x {height} pixels"
    if image.format == "TIFF":
        return _misread_tiff(image)
    if image.format == "JPEG2000":
        return _misread_jpeg2000(data)
    if image.format == "PNG" and data[24] == 16 and image.mode == "RGB" and "transparency" in image.info:
        return "a transparent colour of 16 bits a sample"
    return ""


def white_is_zero(image: Image.Image) -> bool:
    """Whether it is a TIFF whose white is 0; Pillow inverts that only up to 8 bits."""
    colours = tiff.PHOTOMETRIC_INTERPRETATION
    return image.format == "TIFF" and _tags(image).get(colours, _WHITE_IS_ZERO) == _WHITE_IS_ZERO


def mend_transparency(image: Image.Image, data: bytes) -> None:
    """Scale the transparent grey of a PNG, whose `image` is not loaded yet, to the depth of its pixels.

    Pillow expands pixels of 2 and 4 bits to 8, but leaves that grey as it is in the file.
    """
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** data[24] - 1)


def alpha_is_unused(image: Image.Image) -> bool:
    """Whether it is a TGA, loaded, whose writer left the fourth sample at 0 throughout."""
    return image.format == "TGA" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _misread_tiff(image: Image.Image) -> str:
    tags = _tags(image)
    bits = max(tags.get(tiff.BITSPERSAMPLE, (1,)))
    kind = max(tags.get(tiff.SAMPLEFORMAT, (_UNSIGNED,)))
    colours = tags.get(tiff.PHOTOMETRIC_INTERPRETATION)
    compressed = image.info["compression"] != "raw"
    in_planes = tags.get(tiff.PLANAR_CONFIGURATION) == 2
    if kind == _SIGNED and bits < 32:
        return f"signed samples of {bits} bits"
    if bits == 12 or (bits == 32 and kind == _UNSIGNED):
        return f"samples of {bits} bits"
    if compressed and bits == 32 and tags.prefix == b"MM":
        return "compressed samples of 32 bits whose highest byte comes first"
    if in_planes and not compressed and bits > 8:
        return f"planes of {bits} bits that are not compressed"
    if in_planes and compressed and image.mode in ("LA", "La", "PA"):
        return "transparency in a compressed plane of its own"
    if colours == _INKS and tags.get(_INK_SET, 1) != 1:
        return "inks that are not those of CMYK"
    if colours == _YCBCR and not compressed and tags.get(tiff.YCBCRSUBSAMPLING, (2, 2)) != (1, 1):
        return "YCbCr colours at a part of its size that are not compressed"
    return ""


def _misread_jpeg2000(data: bytes) -> str:
    stream = data.find(b"\xff\x4f\xff\x51")
    components = data[stream + 42 : stream + 42 + 3 * data[stream + 41]]
    bits = [(depth & 0x7F) + 1 for depth in components[::3]]
    if min(bits) < 8:
        return f"samples of {min(bits)} bits"
    if max(bits) > 8 and len(bits) > 1:  # it rounds the brightest to 256, which is 0
        return f"{len(bits)} samples of {max(bits)} bits"
    space = data.find(b"colr", 0, stream)
    number = int.from_bytes(data[space + 7 : space + 11], "big")
    if space >= 0 and data[space + 4] == 1 and number not in _JP2_SPACES:
        return f"colour space {number}"
    return ""


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2")  # noqa: B009 - Pillow's stubs know it of TIFF images alone

"""A stored picture to an upright crop: exactly as Pillow resizes and crops the upright picture, or faster.

Pillow resizes along one axis, rounds to whole grey levels, and resizes along the other; the sizes decide which comes
first. For a picture that becomes clearly smaller, only what the crop needs is computed, in the same order, and turned
upright once it is small. Other pictures are resized as a whole.
"""

import math
from dataclasses import replace

from PIL import Image

from app.processors.decode import Decoded

_WIDEST_FILTER = 3.0  # Lanczos: source pixels on each side of the centre, at scale 1

# A resized picture above this many pixels is never made whole: only its crop is computed.
MAX_RESIZED_PIXELS = 16_000_000

Size = tuple[int, int]
Span = tuple[float, float]
"""Where a part of a picture begins and ends along one axis, in pixels."""


def upright_size(picture: Decoded) -> Size:
    """Width and height of the picture once it is upright."""
    width, height = picture.size
    return (height, width) if picture.orientation >= 5 else (width, height)


def resize_and_crop(
    picture: Decoded, resized: Size, corner: Size, size: Size, resample: int, fast: bool = False
) -> Image.Image:
    """The upright picture, RGB, resized to `resized` and cropped to `size` with its top left at `corner`.

    All are across and down, in pixels. With `fast` the pixels are within a few grey levels of Pillow's.
    """
    upright = upright_size(picture)
    if not fast and not _shrinks(upright, resized):
        return _whole(picture, resized, corner, size, resample)
    across_first = _across_first(upright, resized)
    across, down = (
        (start * length / whole, (start + part) * length / whole)
        for length, whole, start, part in zip(upright, resized, corner, size, strict=True)
    )
    if picture.orientation in (2, 3, 6, 7):
        across = upright[0] - across[1], upright[0] - across[0]
    if picture.orientation in (3, 4, 7, 8):
        down = upright[1] - down[1], upright[1] - down[0]
    image = picture.image
    if picture.orientation >= 5:
        across, down, size, across_first = down, across, size[::-1], not across_first
    columns, rows = _within(across, picture.scale, image.width), _within(down, picture.scale, image.height)
    if fast:
        image = _resize_fast(image, columns, rows, size, resample)
    elif across_first:
        image = _resize_across_first(image, columns, rows, size, resample)
    else:
        image = _resize_down_first(image, columns, rows, size, resample)
    return replace(picture, image=image).upright()


def _shrinks(size: Size, resized: Size) -> bool:
    """Whether it pays to leave pixels out, and the float32 edges of Pillow's boxes make no difference."""
    return all(before >= 1.6 * after for before, after in zip(size, resized, strict=True))


def _across_first(size: Size, resized: Size) -> bool:
    """Whether Pillow 13 resizes across before it resizes down."""
    columns, rows = size[0] - resized[0], size[1] - resized[1]  # that go away
    return rows <= max(0, 2 * columns)


def _whole(picture: Decoded, resized: Size, corner: Size, size: Size, resample: int) -> Image.Image:
    image, (width, height), (left, top) = picture.upright(), resized, corner
    if width * height > MAX_RESIZED_PIXELS:
        across, down = image.width / width, image.height / height
        right, bottom = min(image.width, (left + size[0]) * across), min(image.height, (top + size[1]) * down)
        return image.resize(size, resample, (left * across, top * down, right, bottom))
    return image.resize(resized, resample).crop((left, top, left + size[0], top + size[1]))


def _within(span: Span, scale: float, length: int) -> Span:
    """The span in an image that is smaller by `scale`, limited to the image."""
    return max(0.0, span[0] / scale), min(float(length), span[1] / scale)


def _resize_across_first(image: Image.Image, columns: Span, rows: Span, size: Size, resample: int) -> Image.Image:
    top, bottom = _needed(rows, size[1], image.height)
    image = image.resize((size[0], bottom - top), resample, (columns[0], top, columns[1], bottom))
    return image.resize(size, resample, (0, rows[0] - top, size[0], rows[1] - top))


def _resize_down_first(image: Image.Image, columns: Span, rows: Span, size: Size, resample: int) -> Image.Image:
    left, right = _needed(columns, size[0], image.width)
    if (left, right) != (0, image.width):
        image = image.crop((left, 0, right, image.height))
    image = image.resize((image.width, size[1]), resample, (0, rows[0], image.width, rows[1]))
    return image.resize(size, resample, (columns[0] - left, 0, columns[1] - left, size[1]))


def _needed(span: Span, size: int, length: int) -> Size:
    """The first and the last pixel, exclusive, that resizing `span` to `size` reads along an axis."""
    margin = math.ceil(_WIDEST_FILTER * max(1.0, (span[1] - span[0]) / size)) + 1
    return max(0, math.floor(span[0]) - margin), min(length, math.ceil(span[1]) + margin)


def _resize_fast(image: Image.Image, columns: Span, rows: Span, size: Size, resample: int) -> Image.Image:
    try:
        import cykooz_resizer as simd
    except ModuleNotFoundError:  # it has no wheel for Linux on arm64
        return _resize_across_first(image, columns, rows, size, resample)

    filters = {
        Image.Resampling.BILINEAR: simd.FilterType.bilinear,
        Image.Resampling.BICUBIC: simd.FilterType.catmull_rom,
        Image.Resampling.LANCZOS: simd.FilterType.lanczos3,
        Image.Resampling.BOX: simd.FilterType.box,
    }
    box = simd.CropBox(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    options = simd.ResizeOptions(simd.ResizeAlg.convolution(filters[Image.Resampling(resample)]), crop_box=box)
    small = Image.new(image.mode, size)
    simd.Resizer().resize_pil(image, small, options)
    return small

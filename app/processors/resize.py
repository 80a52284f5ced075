"""A part of a stored picture to a size, upright: exactly as Pillow would do it later, or faster.

Pillow resizes across before it resizes down, with whole grey levels in between. A picture that is turned
afterwards is resized down first, so that its pixels are those of the upright picture that was resized.
"""

import math

from PIL import Image

from app.processors.decode import TURNS, Decoded

# By rotation tag: are the axes swapped, is the upright picture mirrored across, is it mirrored down?
_AXES = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_WIDEST_FILTER = 3.0  # Lanczos: source pixels on each side of the centre, at scale 1

Span = tuple[float, float]
"""Where a part of a picture begins and ends along one axis, in pixels."""


def upright_size(picture: Decoded) -> tuple[int, int]:
    """Width and height of the picture once it is upright."""
    width, height = picture.size
    return (height, width) if _AXES[picture.orientation][0] else (width, height)


def resize_part(
    picture: Decoded, across: Span, down: Span, size: tuple[int, int], resample: int, fast: bool = False
) -> Image.Image:
    """The part (across, down) of the upright picture in `size` (width, height), upright RGB.

    With `fast` the pixels are within a few grey levels of Pillow's.
    """
    swapped, mirrored_across, mirrored_down = _AXES[picture.orientation]
    width, height = upright_size(picture)
    if mirrored_across:
        across = width - across[1], width - across[0]
    if mirrored_down:
        down = height - down[1], height - down[0]
    image = picture.image
    if swapped:
        across, down, size = down, across, size[::-1]
    columns, rows = _within(across, picture.scale, image.width), _within(down, picture.scale, image.height)
    if fast:
        image = _resize_fast(image, columns, rows, size, resample)
    elif swapped:
        image = _resize_down_first(image, columns, rows, size, resample)
    else:
        image = image.resize(size, resample, (columns[0], rows[0], columns[1], rows[1]))
    turn = TURNS.get(picture.orientation)
    if turn is not None:  # the first of them is 0
        image = image.transpose(turn)
    return image if image.mode == "RGB" else image.convert("RGB")


def _within(span: Span, scale: float, length: int) -> Span:
    """The span in an image that is smaller by `scale`, without what roundings put outside of it."""
    return max(0.0, span[0] / scale), min(float(length), span[1] / scale)


def _resize_down_first(
    image: Image.Image, columns: Span, rows: Span, size: tuple[int, int], resample: int
) -> Image.Image:
    # Only the columns that the result is made of: a picture of one row would become very large.
    margin = math.ceil(_WIDEST_FILTER * max(1.0, (columns[1] - columns[0]) / size[0])) + 1
    left = max(0, math.floor(columns[0]) - margin)
    right = min(image.width, math.ceil(columns[1]) + margin)
    if (left, right) != (0, image.width):
        image = image.crop((left, 0, right, image.height))
    image = image.resize((image.width, size[1]), resample, (0, rows[0], image.width, rows[1]))
    return image.resize(size, resample, (columns[0] - left, 0, columns[1] - left, size[1]))


def _resize_fast(image: Image.Image, columns: Span, rows: Span, size: tuple[int, int], resample: int) -> Image.Image:
    import cykooz_resizer as simd

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

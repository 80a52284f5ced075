"""The crop that is made from a stored picture beside the one that the libraries make from the upright one."""

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from app.processors.decode import TURNS, Decoded
from app.processors.image import ImageProcessor
from app.processors.resize import _across_first
from tests.support.samples import STORED, photo
from tests.support.search import times

HALF = (0.5, 0.5, 0.5)


def processor(side: int, edge: int | None, resample: int = Image.Resampling.BICUBIC) -> ImageProcessor:
    return ImageProcessor(side, side, edge, resample, 1 / 255, HALF, HALF)


def as_libraries_do(image: Image.Image, processor: ImageProcessor) -> np.ndarray:
    size = processor.resized_size(*image.size)
    left, top = (size[0] - processor.width) // 2, (size[1] - processor.height) // 2
    resized = image.resize(size, processor.resample)
    return np.asarray(resized.crop((left, top, left + processor.width, top + processor.height)))


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """A few values are rounded to the next grey level, for the edges of Pillow's boxes are float32."""
    difference = np.abs(got.astype(int) - want.astype(int))
    assert got.shape == want.shape
    assert difference.max() <= 1
    assert (difference > 0).mean() < 4e-3


def stored(image: Image.Image, tag: int) -> Decoded:
    turned = image.transpose(STORED[tag]) if tag in STORED else image
    assert (np.asarray(turned.transpose(TURNS[tag]) if tag in TURNS else turned) == np.asarray(image)).all()
    return Decoded(turned, turned.size, tag)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (801, 600), (40, 31), (333, 1000), (224, 224), (1, 7)])
def test_every_orientation_of_every_shape(size: tuple[int, int], tag: int) -> None:
    image = photo(*size)
    for each in (processor(64, 64), processor(64, 72), processor(64, None)):
        if size == (1, 7) and each.shortest_edge is None and tag > 4:
            continue
        assert_same(each.prepare(stored(image, tag))["pixels"], as_libraries_do(image, each))


@settings(max_examples=times(40))
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 8),
    st.sampled_from([16, 64, 224]),
    st.sampled_from([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS]),
)
def test_any_size(width: int, height: int, tag: int, side: int, resample: int) -> None:
    if max(width / height, height / width) > 40:
        return
    image, each = photo(width, height, seed=width * 1000 + height), processor(side, side, resample)
    assert_same(each.prepare(stored(image, tag))["pixels"], as_libraries_do(image, each))


def test_a_photo_of_12_megapixels() -> None:
    image, each = photo(4000, 3000), processor(224, 224)
    for tag in (1, 6):
        assert_same(each.prepare(stored(image, tag))["pixels"], as_libraries_do(image, each))


TALL_AND_WIDE = [(300, 2000), (2000, 300), (900, 1700), (900, 1900), (64, 900), (900, 64), (20, 60), (70, 20)]


@pytest.mark.parametrize("tag", [1, 6])
@pytest.mark.parametrize("size", TALL_AND_WIDE)
def test_tall_and_wide(size: tuple[int, int], tag: int) -> None:
    image = photo(*size)
    for each in (processor(64, 64), processor(64, None), processor(48, 64)):
        assert_same(each.prepare(stored(image, tag))["pixels"], as_libraries_do(image, each))


ONE_AXIS_AFTER_THE_OTHER = [
    *((size, (64, 64)) for size in [(200, 336), (200, 337), (800, 1536), (800, 1537), (40, 65), (50, 63), (3, 500)]),
    *((size, (224, 298)) for size in [(3000, 4000), (1000, 1900), (2000, 2667), (150, 200)]),
    *((size, (298, 224)) for size in [(4000, 3000), (640, 480), (120, 90)]),
]


@pytest.mark.parametrize("size, resized", ONE_AXIS_AFTER_THE_OTHER)
def test_pillow_resizes_along_the_axes_in_the_known_order(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = photo(*size)
    across, down = (resized[0], size[1]), (size[0], resized[1])
    first, other = (across, down) if _across_first(size, resized) else (down, across)
    whole, known, unknown = (
        np.asarray(each)
        for each in (
            image.resize(resized),
            image.resize(first).resize(resized),
            image.resize(other).resize(resized),
        )
    )
    assert (whole == known).all() and (whole != unknown).any(), (
        f"Pillow {PIL.__version__} does not resize {size} to {resized} as Pillow 13 does, whose order "
        "_across_first() in app/processors/resize.py states: state the new order there."
    )


def test_grey_pictures_are_resized_as_grey() -> None:
    grey, each = photo(500, 300).convert("L"), processor(64, 64)
    got = each.prepare(Decoded(grey, grey.size, 8))["pixels"]
    assert_same(got, as_libraries_do(ImageOps.grayscale(grey).transpose(TURNS[8]).convert("RGB"), each))


def test_extreme_shapes_take_no_memory() -> None:
    each = processor(224, 224)
    for size in ((1, 60_000), (60_000, 1)):
        for tag in (1, 6):
            assert each.prepare(Decoded(Image.new("RGB", size, "red"), size, tag))["pixels"].shape == (224, 224, 3)

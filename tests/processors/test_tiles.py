"""The tiles that are made of a picture beside those of transformers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from app.processors.image import TileProcessor
from tests.support.samples import photo
from tests.support.search import times

HALF = np.float32(0.5)


def assert_as_the_library(width: int, height: int, longest: int, side: int, is_cut: bool = True) -> None:
    library = Idefics3ImageProcessorPil(
        size={"longest_edge": longest},
        max_image_size={"longest_edge": side},
        do_image_splitting=is_cut,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = TileProcessor.from_processor(library.to_dict(), lambda rows, columns: [rows, columns])
    assert processor is not None
    image = photo(width, height)
    want = library(image, return_tensors="np", return_row_col_info=True)
    got = processor(image)
    values = (got["pixels"].astype(np.float32) / np.float32(255) - HALF) / HALF
    np.testing.assert_allclose(values.transpose(0, 3, 1, 2), want["pixel_values"][0], atol=1e-6)
    rows, columns = got["input_ids"].tolist()
    assert (rows, columns) == (want["rows"][0][0] or 1, want["cols"][0][0] or 1)
    assert want["pixel_attention_mask"].all() and got["attention_mask"].tolist() == [1, 1]


@settings(max_examples=times(150))
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from([(128, 64), (256, 64), (64, 64), (96, 32), (150, 50), (128, 64, False)]),
)
def test_any_size(width: int, height: int, how: tuple[int, int] | tuple[int, int, bool]) -> None:
    assert_as_the_library(width, height, *how)


@pytest.mark.parametrize(
    "size", [(1, 1), (1200, 900), (900, 1200), (3000, 40), (40, 3000), (2048, 1024), (2047, 513)]
)
def test_the_sizes_of_the_published_models(size: tuple[int, int]) -> None:
    assert_as_the_library(*size, 2048, 512)


@pytest.mark.parametrize(
    "other", [{"size": {"longest_edge": 100}}, {"size": {"height": 64, "width": 64}}, {"do_resize": False}]
)
def test_what_it_cannot_do_is_left_to_the_library(other: dict[str, object]) -> None:
    config = Idefics3ImageProcessorPil(max_image_size={"longest_edge": 64}, size={"longest_edge": 128}).to_dict()
    assert TileProcessor.from_processor(config, lambda rows, columns: []) is not None
    assert TileProcessor.from_processor({**config, **other}, lambda rows, columns: []) is None


def test_a_picture_of_one_tile_is_not_added_again() -> None:
    processor = TileProcessor(8, 8, True, Image.Resampling.LANCZOS, 1 / 255, (0.5,) * 3, (0.5,) * 3, {"1x1": [7]})
    assert processor(photo(20, 10))["pixels"].shape == (1, 8, 8, 3)

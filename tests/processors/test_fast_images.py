"""FAST_IMAGES: nearly the same pixels, whatever the picture."""

import numpy as np
import pytest
from PIL import Image

from app.processors.image import ImageProcessor
from app.processors.picture import PictureProcessor
from tests.support.samples import MAX_PIXELS, as_base64, encoded, photo

HALF = (0.5, 0.5, 0.5)
SIZES = [(1200, 900), (801, 1003), (640, 360), (300, 900), (224, 224), (50, 40), (1, 1), (3, 500)]


@pytest.mark.parametrize("side, edge", [(64, 64), (100, None), (64, 73)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("tag", [1, 6])
def test_nearly_the_same_pixels(side: int, edge: int | None, form: str, tag: int) -> None:
    processor = ImageProcessor(side, side, edge, Image.Resampling.BICUBIC, 1 / 255, HALF, HALF)
    exact, fast = (
        PictureProcessor(processor, max_pixels=MAX_PIXELS, seconds=10, fast=fast) for fast in (False, True)
    )
    exif = Image.Exif()
    exif[0x0112] = tag
    for size in SIZES:
        for image in (photo(*size), photo(*size).convert("L")):
            text = as_base64(encoded(image, form, exif=exif))
            a, b = (each(text)["pixels"].astype(np.float64) for each in (exact, fast))
            assert a.shape == b.shape == (side, side, 3)
            a, b = a - 128, b - 128
            assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.9985, size

"""Vectors of photos beside the reference library's, through a small real model: every size, shape, mode and tag."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer
from sklearn.datasets import load_sample_images

from app.models.load import load_model
from app.processors.picture import PictureProcessor
from app.settings import Settings
from app.towers import Tower
from tests.support.samples import MAX_PIXELS, STORED, as_base64, encoded, photo
from tests.support.vectors import assert_same, embed

DEMO = Path("demo/models")
CAMERA = [(4000, 3000), (3000, 4000)]
SIZES = [
    *((1600, 1200), (1200, 1600), (800, 600), (801, 603), (641, 427), (427, 641), (1001, 999)),
    *((2000, 300), (300, 2000), (1500, 97), (97, 1500), (3000, 64), (64, 3000), (65, 64), (64, 65)),
    *((64, 64), (63, 63), (129, 128), (50, 40), (40, 50), (16, 9), (7, 3), (3, 7), (2, 1), (1, 2), (1, 1)),
    *((1, 40), (40, 1), (100, 2), (2, 100), (191, 64), (193, 65), (256, 256), (257, 511)),
]
JPEG_MODES = ("RGB", "L", "CMYK")
Upright = Callable[[Image.Image], Image.Image]


def photos() -> list[Image.Image]:
    """Two that were taken with a camera, one that was drawn."""
    return [*map(Image.fromarray, load_sample_images().images), photo(900, 700)]


PHOTOS = photos()


def of_size(size: tuple[int, int], number: int = 0) -> Image.Image:
    """One of the photos, stretched or shrunk, with a camera's grain where it is large."""
    image = PHOTOS[number % len(PHOTOS)].resize(size, Image.Resampling.LANCZOS)
    grain = np.random.default_rng(number).normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def tower() -> Iterator[Tower]:
    model = load_model(Settings(models_dir=DEMO))
    pictures = PictureProcessor(model.image.processor, max_pixels=MAX_PIXELS, seconds=60)
    yield dataclasses.replace(model.image, processor=pictures)
    pictures.close()


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(DEMO / "clip"), device="cpu")


def check(
    tower: Tower, reference: SentenceTransformer, files: list[bytes], as_people_do: Upright | None = None
) -> None:
    """What the server makes of the files beside what the library makes of the upright RGB pictures in them."""
    upright = as_people_do or (lambda image: image.convert("RGB"))
    want = []
    for data in files:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        want.append(reference.encode([upright(image)], batch_size=1))
    got = np.concatenate([embed(tower, [as_base64(data)]) for data in files])
    assert_same(got.tolist(), np.concatenate(want))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_size_and_shape(tower: Tower, reference: SentenceTransformer, form: str) -> None:
    check(tower, reference, [encoded(of_size(size, number), form) for number, size in enumerate(SIZES)])


def test_photos_of_12_megapixels(tower: Tower, reference: SentenceTransformer) -> None:
    check(tower, reference, [encoded(of_size(size, n), "JPEG", quality=85) for n, size in enumerate(CAMERA)])


@pytest.mark.parametrize("tag", range(1, 9))
def test_every_rotation(tower: Tower, reference: SentenceTransformer, tag: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    files = []
    for number, size in enumerate([(640, 427), (427, 640), (300, 1100), (1100, 300), (90, 70)]):
        image = of_size(size, number)
        stored = image.transpose(STORED[tag]) if tag in STORED else image
        files += [encoded(stored, "JPEG", exif=exif), encoded(stored, "PNG", exif=exif)]
    check(tower, reference, files)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"quality": 40, "subsampling": "4:2:0"},
        {"quality": 97, "subsampling": "4:4:4"},
        {"optimize": True, "subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_every_kind_of_jpeg(tower: Tower, reference: SentenceTransformer, options: dict[str, object]) -> None:
    images = [of_size(size, number) for number, size in enumerate([(800, 600), (333, 517), (61, 90)])]
    check(
        tower, reference, [encoded(image.convert(mode), "JPEG", **options) for image in images for mode in JPEG_MODES]
    )


@pytest.mark.parametrize(
    "form, mode, options",
    [
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {"quality": 80}),
        ("WEBP", "RGB", {"lossless": True}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("PPM", "RGB", {}),
        ("TGA", "RGB", {}),
        ("JPEG2000", "RGB", {}),
        ("AVIF", "RGB", {"quality": 80}),
    ],
    ids=str,
)
def test_every_mode(
    tower: Tower, reference: SentenceTransformer, form: str, mode: str, options: dict[str, object]
) -> None:
    images = [of_size(size, number) for number, size in enumerate([(800, 600), (333, 517), (40, 60)])]
    check(tower, reference, [encoded(image.convert(mode), form, **options) for image in images])


def on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_on_white(tower: Tower, reference: SentenceTransformer, form: str, mode: str) -> None:
    files = []
    for number, size in enumerate([(500, 400), (123, 345)]):
        image = of_size(size, number).convert(mode)
        image.putalpha(photo(*size, seed=number).convert("L"))
        files.append(encoded(image, form, **({"lossless": True} if form == "WEBP" else {})))
    check(tower, reference, files, on_white)


def test_a_palette_with_transparency(tower: Tower, reference: SentenceTransformer) -> None:
    image = of_size((300, 200)).quantize(64)
    files = [encoded(image, "PNG", transparency=bytes(range(0, 256, 4))), encoded(image, "GIF", transparency=3)]
    check(tower, reference, files, on_white)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey(tower: Tower, reference: SentenceTransformer, form: str) -> None:
    grey = np.asarray(of_size((500, 400)).convert("L")).astype(np.uint16)
    deep = Image.fromarray(grey * 256 + np.random.default_rng(0).integers(0, 256, grey.shape, dtype=np.uint16))

    def to_8_bit(image: Image.Image) -> Image.Image:
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")

    check(tower, reference, [encoded(deep, form)], to_8_bit)

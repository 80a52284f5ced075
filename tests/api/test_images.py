"""Pictures as they come: every kind of file, every way to write base64, every way to be wrong."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.processors.decode import decode_image
from app.settings import Settings

MAX_PIXELS = Settings().max_pixels


def scene(width: int = 60, height: int = 40) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes, **options: bool) -> np.ndarray:
    return np.asarray(decode_image(base64.b64encode(data).decode(), MAX_PIXELS, **options)).astype(int)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "HEIF", "JPEG2000"])
def test_lossy_formats(form: str) -> None:
    assert difference(decoded(encoded(scene(), form, quality=95)), np.asarray(scene()).astype(int)) < 4


def test_heic_named_png() -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(scene()).save(buffer, quality=90)
    text = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert difference(np.asarray(decode_image(text, MAX_PIXELS)).astype(int), np.asarray(scene())) < 4


@pytest.mark.parametrize("tag", range(9))
def test_every_rotation_tag(tag: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(turned[tag]) if tag in turned else scene()
    exif = Image.Exif()
    exif[0x0112] = tag
    assert difference(decoded(encoded(stored, "PNG", exif=exif)), np.asarray(scene()).astype(int)) == 0


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xffjunk")
    assert decoded(data).shape == (40, 60, 3)


def test_transparency_is_laid_on_white() -> None:
    image = scene().convert("RGBA")
    image.putalpha(0)
    assert (decoded(encoded(image)) == 255).all()
    image.putalpha(128)
    tower = decoded(encoded(image))
    assert difference(tower, (np.asarray(scene()).astype(int) + 255) // 2) < 2
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE)
    entry = palette.getpixel((0, 0))
    assert (decoded(encoded(palette, transparency=entry))[0, 0] == 255).all()
    assert difference(decoded(encoded(palette.convert("RGBA"))), decoded(encoded(palette))) == 0


def test_deep_greys_keep_their_tones() -> None:
    ramp = np.tile(np.arange(0, 256, 4), (64, 1)).astype(np.uint8)
    want = np.repeat(ramp[:, :, None], 3, axis=2).astype(int)
    sixteen = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert difference(decoded(encoded(sixteen)), want) == 0
    for tones in (ramp.astype(np.float32) / 255, ramp.astype(np.float32)):
        assert difference(decoded(encoded(Image.fromarray(tones), "TIFF")), want) < 1
    assert difference(decoded(encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF")), want) == 0


def test_legacy_handling_is_a_plain_conversion() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = scene().convert("RGBA")
    image.putalpha(0)
    got = decoded(encoded(image, exif=exif), legacy=True)
    assert difference(got, np.asarray(scene()).astype(int)) == 0
    deep = Image.new("I;16", (4, 4), 40000)
    assert (decoded(encoded(deep), legacy=True) == np.asarray(deep.convert("RGB"))).all()


def test_base64_as_people_write_it() -> None:
    data = next(
        data
        for width in range(20, 60)
        if {"+", "/", "="} <= set(base64.b64encode(data := encoded(scene(width))).decode())
    )
    plain = base64.b64encode(data).decode()
    want = np.asarray(decode_image(plain, MAX_PIXELS))
    for text in (
        f"data:image/png;base64,{plain}",
        f"DATA:;base64,{plain}",
        "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)) + "\n",
        base64.urlsafe_b64encode(data).decode(),
        plain.rstrip("="),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        plain.replace("+", " "),
        f"  {plain}  ",
    ):
        assert (np.asarray(decode_image(text, MAX_PIXELS)) == want).all()


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "empty"),
        ("!!!!", "not base64"),
        ("Zm9v=Zm9v", "not base64"),
        ("https://example.com/a.png", "URL"),
        ("<html><body>Not found</body></html>", "HTML"),
        (base64.b64encode(b"%PDF-1.7").decode(), "PDF"),
        (base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(), "SVG"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(), "PostScript"),
        (base64.b64encode(base64.b64encode(encoded(Image.new("RGB", (9, 9))))).decode(), "twice"),
        (base64.b64encode(b"plain words").decode(), "no picture"),
    ],
)
def test_what_is_no_picture_is_named(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        decode_image(text, MAX_PIXELS)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13300, 13300), (20000, 20000), (65000, 65000)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="pixels"):
        decoded(png_header(*size))


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (500, 3), (3, 500), (3, 3)])
def test_extreme_shapes_equal_themselves_with_the_shape_known(server: str, size: tuple[int, int]) -> None:
    image = scene(*size)
    payload = {"images": [base64.b64encode(encoded(image)).decode()]}
    with_alpha = {"images": [base64.b64encode(encoded(image.convert("RGBA"))).decode()]}
    answers = [httpx.post(f"{server}/vectorize", json=each, timeout=30) for each in (payload, with_alpha)]
    vectors = [answer.json()["imageVectors"][0] for answer in answers]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5, atol=1e-6)


def test_the_pixel_cap_is_a_setting(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, MAX_PIXELS="1000")
    for width, status in ((30, 200), (32, 422)):
        text = base64.b64encode(encoded(scene(width, 32))).decode()
        assert httpx.post(f"{url}/vectorize", json={"images": [text]}).status_code == status

"""Every layout of samples is read as an independent reader or the format's specification has it, or is refused."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from app.errors import InvalidRequest, UnsupportedPicture
from app.processors.picture import PictureProcessor
from tests.support.samples import as_base64, chunk, encoded, pictures, scene

CASES = Path(__file__).parents[1] / "cases"
HEIGHT, WIDTH = 37, 45
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
SAVED_WITH_LOSS = ("jpeg", "webp")


@pytest.fixture(scope="module")
def prepare() -> Iterator[PictureProcessor]:
    made = pictures()
    yield made
    made.close()


def tones(samples: int) -> np.ndarray:
    """Smooth ramps from 0 to 1, float (height, width, samples); each its own, the fourth and fifth never small."""
    ramps = [X / (WIDTH - 1), Y / (HEIGHT - 1), (X + Y) / (WIDTH + HEIGHT - 2), 1 - X / WIDTH / 2, 1 - Y / HEIGHT / 2]
    return np.stack(ramps[:samples], axis=-1)


def as_type(values: np.ndarray, kind: str) -> np.ndarray:
    dtype = np.dtype(kind)
    return values.astype(dtype) if dtype.kind == "f" else (values * np.iinfo(dtype).max).round().astype(dtype)


def as_tones(samples: np.ndarray) -> np.ndarray:
    most = 1.0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    return np.asarray(samples.astype(np.float64) / most)


def on_white(tones: np.ndarray, colours: int, alpha: str = "unassalpha") -> np.ndarray:
    """RGB, 0 to 255, of the first one or three samples and the transparency that follows them."""
    rgb = tones[..., :colours] if colours == 3 else np.repeat(tones[..., :1], 3, axis=-1)
    if tones.shape[-1] > colours and alpha != "unspecified":
        cover = tones[..., colours : colours + 1]
        rgb = (rgb if alpha == "assocalpha" else rgb * cover) + 1 - cover
    return rgb * 255


def is_read(
    prepare: PictureProcessor, data: bytes, want: np.ndarray, tolerance: float = 3.0, mean: float = 2.0
) -> bool:
    """Whether the picture is taken; then it must be as wanted."""
    try:
        got = prepare(as_base64(data))["pixels"].astype(float)
    except InvalidRequest as error:
        assert "not supported" in str(error)
        return False
    want = np.repeat(want[..., np.newaxis], 3, axis=-1) if want.ndim == 2 else want
    assert got.shape == want.shape
    difference = np.abs(got - want)
    assert difference.max() <= tolerance and difference.mean() < mean
    return True


COLOURS = {
    "grey": ("minisblack", 1, None),
    "white is zero": ("miniswhite", 1, None),
    "grey and transparency": ("minisblack", 2, "unassalpha"),
    "grey and something": ("minisblack", 2, "unspecified"),
    "RGB": ("rgb", 3, None),
    "RGBA": ("rgb", 4, "unassalpha"),
    "RGBA, multiplied": ("rgb", 4, "assocalpha"),
    "RGB and something": ("rgb", 4, "unspecified"),
    "CMYK": ("separated", 4, None),
    "CMYK and something": ("separated", 5, "unspecified"),
}
KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]
PACKED = [
    *((None, None), ("packbits", None), ("lzw", None), ("lzw", 2), ("deflate", None), ("deflate", 2), ("deflate", 3)),
    *(("zstd", None), ("lzma", None), ("webp", None), ("lerc", None), ("jpeg", None), ("jpeg2000", None)),
]
# What people send: these are read, however they are packed.
READ = {
    *(("grey", kind, False) for kind in ("u1", "u2", "f4")),
    *(("white is zero", kind, False) for kind in ("u1", "u2", "f4")),
    *((name, kind, False) for name in ("RGB", "RGBA", "CMYK") for kind in ("u1", "u2")),
    *((name, "u1", True) for name in ("RGB", "RGBA", "CMYK")),
    ("grey and transparency", "u1", False),
}


def wanted(samples: np.ndarray, photometric: str, extra: str | None) -> np.ndarray:
    values = as_tones(samples)
    if photometric == "miniswhite":
        values = 1 - values
    if photometric == "separated":
        return np.asarray((1 - values[..., :3]) * (1 - values[..., 3:4]) * 255)
    return on_white(values, 3 if photometric == "rgb" else 1, extra or "")


def tiff(samples: np.ndarray, in_planes: bool, **options: object) -> bytes | None:
    """None for what tifffile does not write, or does not read as it was."""
    buffer = io.BytesIO()
    stored = np.moveaxis(samples, -1, 0) if in_planes else samples.squeeze(-1) if samples.shape[-1] == 1 else samples
    if samples.shape[-1] > 1:
        options["planarconfig"] = "separate" if in_planes else "contig"
    try:
        tifffile.imwrite(buffer, stored, metadata=None, **options)
    except (ValueError, KeyError, RuntimeError):
        return None
    read = tifffile.imread(io.BytesIO(buffer.getvalue()))
    same = options["compression"] in SAVED_WITH_LOSS or (read == stored).all()
    return buffer.getvalue() if same else None


@pytest.mark.parametrize("name", COLOURS)
def test_every_layout_of_tiff(prepare: PictureProcessor, name: str) -> None:
    photometric, count, extra = COLOURS[name]
    read, ways = set(), itertools.cycle([{"rowsperstrip": 16}, {"tile": (16, 32)}, {"tile": (64, 64)}])
    for kind, in_planes in itertools.product(KINDS, (False, True) if count > 1 else (False,)):
        values = tones(count)
        if extra == "assocalpha":
            values[..., :3] *= values[..., 3:4]
        samples = as_type(values, kind)
        want = wanted(samples, photometric, extra)
        for (compression, predictor), order in itertools.product(PACKED, "<>"):
            data = tiff(
                samples,
                in_planes,
                photometric=photometric,
                extrasamples=[extra] if extra else None,
                compression=compression,
                predictor=predictor,
                byteorder=order,
                bigtiff=order == "<" and compression is None,
                **next(ways),
            )
            loss = compression in SAVED_WITH_LOSS
            if data is not None and is_read(prepare, data, want, tolerance=99 if loss else 3, mean=8 if loss else 2):
                read.add((name, kind, in_planes))
    assert {layout for layout in READ if layout[0] == name} <= read


def with_tag(data: bytes, tag: int, value: object) -> bytes:
    buffer = io.BytesIO(data)
    with tifffile.TiffFile(buffer, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "palette"])
def test_every_depth_of_tiff(prepare: PictureProcessor, photometric: str, bits: int) -> None:
    deepest = 2**bits - 1
    indexed = photometric == "palette"
    samples = (tones(1) * deepest).round().astype(np.uint8 if bits <= 8 else np.uint16)
    palette = np.random.default_rng(0).integers(0, 65536, (3, deepest + 1)).astype(np.uint16)
    want = samples[..., 0] * (255 / deepest)
    want = np.moveaxis(palette[:, samples[..., 0]] / 257, 0, -1) if indexed else want
    want = 255 - want if photometric == "miniswhite" else want
    read = set()
    for compression, order, tile in itertools.product((None, "lzw", "packbits"), "<>", (None, (16, 16))):
        data = tiff(
            samples,
            in_planes=False,
            photometric="minisblack" if indexed else photometric,
            compression=compression,
            byteorder=order,
            tile=tile,
            bitspersample=None if bits in (8, 16) else bits,
            extratags=[(320, 3, palette.size, tuple(palette.ravel().tolist()), True)] if indexed else [],
        )
        if data is not None and indexed:
            data = with_tag(data, 262, 3)
        read.add(data is not None and is_read(prepare, data, want, tolerance=1))
    assert (True in read) == (bits in (1, 2, 4, 8, 16) and not (indexed and bits == 16))


def test_a_16_bit_grey_whose_white_is_zero_is_no_negative(prepare: PictureProcessor) -> None:
    turned, plain = (
        prepare(as_base64((CASES / name).read_bytes()))["pixels"]
        for name in ("grey16-white-is-zero.tif", "grey16.tif")
    )
    assert np.ptp(plain) > 100
    assert np.abs(turned.astype(int) - plain).max() <= 1


def test_what_is_refused_is_named(prepare: PictureProcessor) -> None:
    samples = as_type(tones(3), "u2")
    data = tiff(samples, True, photometric="rgb", compression=None)
    assert data is not None
    for refused, says in (
        (data, "planes of 16 bits"),
        (with_tag(data, 262, 32803), "a TIFF of a variant that is not supported"),
    ):
        with pytest.raises(UnsupportedPicture, match=says):
            prepare(as_base64(refused))
    with pytest.raises(UnsupportedPicture, match="negative samples"):
        prepare(as_base64(encoded(Image.fromarray(np.arange(-50, 50, dtype=np.int32).reshape(10, 10)), "TIFF")))


def test_colours_of_tiff_that_are_no_rgb(prepare: PictureProcessor) -> None:
    ycbcr = np.asarray(scene(48, 32).convert("YCbCr"))
    for compression in (None, "lzw"):
        data = tiff(ycbcr, False, photometric="ycbcr", compression=compression)
        assert data is not None and is_read(prepare, data, np.asarray(scene(48, 32)), tolerance=4)
    data = tiff(ycbcr, False, photometric="ycbcr", compression=None)
    assert data is not None and not is_read(prepare, with_tag(data, 530, (2, 2)), np.asarray(scene(48, 32)))
    for chroma in ((1, 1), (2, 2)):
        options = {"compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": chroma}
        data = tiff(np.asarray(scene(48, 32)), False, photometric="rgb", **options)  # which becomes YCbCr
        assert data is not None and is_read(prepare, data, np.asarray(scene(48, 32)), tolerance=30, mean=4)
    for colour, lab in (((162, 162, 162), (170, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (255, 0, 0))):
        data = tiff(np.full((8, 8, 3), lab, np.uint8), False, photometric="cielab", compression=None)
        assert data is not None and is_read(prepare, data, np.full((8, 8, 3), colour), tolerance=2)
    inks = as_type(tones(4), "u1")
    data = tiff(inks, False, photometric="separated", compression=None, extratags=[(332, 3, 1, 2, True)])
    assert data is not None and not is_read(prepare, data, np.zeros((HEIGHT, WIDTH, 3)))


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
def test_every_depth_of_jpeg_2000(prepare: PictureProcessor, bits: int, samples: int) -> None:
    values = tones(samples if samples != 2 else 4)[..., [0, 3]] if samples == 2 else tones(samples)
    deep = (values * (2**bits - 1)).round().astype(np.uint8 if bits <= 8 else np.uint16)
    want = on_white(deep / (2**bits - 1), 3 if samples > 2 else 1)
    for codec in ("jp2", "j2k"):
        data = imagecodecs.jpeg2k_encode(
            deep.squeeze(-1) if samples == 1 else deep,
            level=0,
            codecformat=codec,
            bitspersample=bits,
            reversible=True,
        )
        assert is_read(prepare, data, want) == (bits == 8 or (bits > 8 and samples == 1))


def test_colour_spaces_of_jpeg_2000(prepare: PictureProcessor) -> None:
    picture = scene()
    for space, mode in ((16, "RGB"), (18, "YCbCr"), (14, "RGB"), (20, "RGB"), (23, "RGB")):
        data = bytearray(imagecodecs.jpeg2k_encode(np.asarray(picture.convert(mode)), level=0, mct=False))
        data[(at := data.index(b"colr") + 7) : at + 4] = space.to_bytes(4, "big")
        assert is_read(prepare, bytes(data), np.asarray(picture), tolerance=4) == (space in (16, 18))
    cmyk = picture.convert("CMYK")
    assert is_read(prepare, encoded(cmyk, "JPEG2000"), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_every_depth_of_avif_and_heif(prepare: PictureProcessor, bits: int, samples: int) -> None:
    values = tones(samples)
    want = on_white(values, 3 if samples > 2 else 1)
    deep = (values * (2**bits - 1)).round().astype(np.uint8 if bits <= 8 else np.uint16)
    squeezed = deep.squeeze(-1) if samples == 1 else deep
    assert is_read(prepare, imagecodecs.avif_encode(squeezed, level=100, bitspersample=bits), want, tolerance=4)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[samples]
    if bits == 8:
        file = pillow_heif.from_pillow(Image.fromarray(squeezed, mode))
    else:
        mode = "I;16" if samples == 1 else f"{mode};16"
        file = pillow_heif.from_bytes(mode, (WIDTH, HEIGHT), as_type(values, "u2").tobytes())
    buffer = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
        file.save(buffer, quality=-1, chroma=444)
    assert is_read(prepare, buffer.getvalue(), want, tolerance=6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_of_webp(prepare: PictureProcessor, mode: str) -> None:
    image = Image.fromarray(as_type(tones(4), "u1")).convert(mode)
    want = on_white(np.asarray(image.convert("RGBA")) / 255, 3)
    assert is_read(prepare, encoded(image, "WEBP", lossless=True, exact=True), want)


def rows(samples: np.ndarray, bits: int) -> Iterator[bytes]:
    for row in samples.reshape(len(samples), -1):
        if bits >= 8:
            yield row.astype(f">u{bits // 8}").tobytes()
        else:
            yield np.packbits((row[:, np.newaxis] >> np.arange(bits - 1, -1, -1)) & 1).tobytes()


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
PNGS = [(0, bits) for bits in (1, 2, 4, 8, 16)] + [(3, bits) for bits in (1, 2, 4, 8)]
PNGS += [(colour, bits) for colour in (2, 4, 6) for bits in (8, 16)]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("colour, bits", PNGS)
def test_every_kind_of_png(
    prepare: PictureProcessor, colour: int, bits: int, transparent: bool, interlaced: bool
) -> None:
    count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    deepest = 2**bits - 1
    samples = (tones(4)[..., [0, 3]] if count == 2 else tones(count)) * deepest
    samples = samples.round().astype(int)
    values, cover = samples / deepest, np.ones((HEIGHT, WIDTH, 1))
    chunks = []
    if colour == 3:
        palette = np.random.default_rng(0).integers(0, 256, (deepest + 1, 4))
        chunks.append(chunk(b"PLTE", palette[:, :3].astype(np.uint8).tobytes()))
        values = palette[samples[..., 0], :3] / 255
        if transparent:
            chunks.append(chunk(b"tRNS", palette[:, 3].astype(np.uint8).tobytes()))
            cover = palette[samples[..., 0], 3:] / 255
    elif count in (2, 4):
        values, cover = values[..., :-1], values[..., -1:]
    elif transparent:
        key = samples[HEIGHT // 2, WIDTH // 2]
        chunks.append(chunk(b"tRNS", struct.pack(f">{count}H", *key)))
        cover = 1.0 - (samples == key).all(axis=-1, keepdims=True)
    parts = [samples[top::down, left::across] for left, top, across, down in PASSES] if interlaced else [samples]
    pixels = b"".join(b"\0" + row for part in parts if part.size for row in rows(part, bits))
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, interlaced))
    data += b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    want = on_white(np.concatenate([values, cover], axis=-1), 3 if colour in (2, 3, 6) else 1)
    assert is_read(prepare, data, want) == (not (colour == 2 and bits == 16 and transparent))


def bmp(
    lines: list[bytes], bits: int, packing: int = 0, header: int = 40, masks: bytes = b"", palette: bytes = b""
) -> bytes:
    information = struct.pack("<IiiHHIIiiII", header, WIDTH, HEIGHT, 1, bits, packing, 0, 0, 0, len(palette) // 4, 0)
    information += masks.ljust(header - 40, b"\0")
    pixels = b"".join(line + bytes(-len(line) % 4) for line in reversed(lines))
    start = 14 + len(information) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + information + palette + pixels


def test_every_kind_of_bmp(prepare: PictureProcessor) -> None:
    rgb = (tones(3) * 255).round().astype(int)
    bgr = rgb[..., ::-1]
    for bits in (1, 4, 8):
        palette = np.random.default_rng(0).integers(0, 256, (2**bits, 4)) * (1, 1, 1, 0)
        indices = (tones(1) * (2**bits - 1)).round().astype(int)
        data = bmp(list(rows(indices, bits)), bits, palette=palette.astype(np.uint8).tobytes())
        assert is_read(prepare, data, palette[indices[..., 0], 2::-1])
    assert is_read(prepare, bmp(list(rows(bgr, 8)), 24), rgb)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for alpha in (0, 128, 255):
        lines = list(rows(np.concatenate([bgr, np.full((HEIGHT, WIDTH, 1), alpha)], axis=-1), 8))
        assert is_read(prepare, bmp(lines, 32), rgb)
        assert is_read(prepare, bmp(lines, 32, 3, masks=masks[:12]), rgb)
        for header in (56, 108, 124):
            assert is_read(prepare, bmp(lines, 32, 3, header, masks), rgb * (alpha / 255) + 255 - alpha)
    for (red, green, blue), packing in (((5, 5, 5), 0), ((5, 6, 5), 3), ((4, 4, 4), 3)):
        shifts = np.array([green + blue, blue, 0])
        most = 2 ** np.array([red, green, blue]) - 1
        values = rgb * most // 255
        masks = struct.pack("<III", *(most << shifts)) if packing else b""
        lines = [line.astype("<u2").tobytes() for line in (values << shifts).sum(axis=-1)]
        read = is_read(prepare, bmp(lines, 16, packing, masks=masks), values / most * 255, tolerance=4, mean=4)
        assert read == (red == 5)


def test_every_depth_of_ppm(prepare: PictureProcessor) -> None:
    for most, count in itertools.product((100, 255, 1023, 65535), (1, 3)):
        for highest in (most, min(most, 255)):
            samples = (tones(count) * highest).round().astype(">u2" if most > 255 else np.uint8)
            data = b"P%d %d %d %d\n" % (5 if count == 1 else 6, WIDTH, HEIGHT, most) + samples.tobytes()
            assert is_read(prepare, data, on_white(samples / most, count))


def test_a_tga_whose_transparency_was_left_empty(prepare: PictureProcessor) -> None:
    rgb = (tones(3) * 255).round().astype(np.uint8)
    for alpha in (0, 128, 255):
        header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 32, 0x28)
        pixels = np.concatenate([rgb[..., ::-1], np.full((HEIGHT, WIDTH, 1), alpha, np.uint8)], axis=-1)
        cover = alpha / 255 if alpha else 1
        assert is_read(prepare, header + pixels.tobytes(), rgb * cover + 255 * (1 - cover))

"""Pictures as they come: every format, every rotation, every depth, and every way to be wrong."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.processors.formats import COMMON, RARE, common_format
from tests.support.samples import MAX_PIXELS, STORED, as_base64, chunk, encoded, pictures, png, scene

pillow_heif.register_heif_opener()
PREPARE = pictures()
LEGACY = pictures(legacy=True)


def decoded(data: bytes, legacy: bool = False) -> np.ndarray:
    return (LEGACY if legacy else PREPARE)(as_base64(data))["pixels"].astype(int)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).mean())


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as error:
        decoded(data)
    return str(error.value)


@pytest.mark.parametrize("form", sorted({*COMMON, *RARE}))
def test_every_format_that_is_allowed(form: str) -> None:
    side = 64 if form == "ICO" else 60
    image = scene(side, side)
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF", "HEIF") else {}
    options |= {"sizes": [(64, 64)]} if form == "ICO" else {}
    data = encoded(image, form, **options)
    assert difference(decoded(data), np.asarray(image).astype(int)) < 8 if form == "GIF" else 4
    assert (common_format(data) is not None) == (form in COMMON)


def test_heic_named_png() -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(scene()).save(buffer, quality=90)
    text = b"data:image/png;base64," + as_base64(buffer.getvalue())
    assert difference(PREPARE(text)["pixels"].astype(int), np.asarray(scene()).astype(int)) < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", range(10))
def test_every_rotation_tag(form: str, tag: int) -> None:
    stored = scene().transpose(STORED[tag]) if tag in STORED else scene()
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if form == "WEBP" else {"quality": 98} if form == "JPEG" else {}
    assert difference(decoded(encoded(stored, form, exif=exif, **options)), np.asarray(scene()).astype(int)) < 3


def test_rotation_from_xmp_and_from_a_raw_profile() -> None:
    want = np.asarray(scene()).astype(int)
    stored = scene().transpose(Image.Transpose.ROTATE_90)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"\nexif\n" + str(len(exif.tobytes())).encode() + b"\n" + exif.tobytes().hex().encode()
    plain = encoded(stored)
    for extra in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
    ):
        assert difference(decoded(plain[:33] + extra + plain[33:]), want) == 0
    assert difference(decoded(encoded(stored, "JPEG", quality=98, xmp=xmp)), want) < 3


def test_broken_exif_does_not_cost_the_picture() -> None:
    for junk in (b"MM\0*\xff\xff\xff\xffjunk", b"MM", b"", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9):
        assert decoded(encoded(scene(), "JPEG", exif=b"Exif\0\0" + junk)).shape == (40, 60, 3)


def test_transparency_is_laid_on_white() -> None:
    image = scene().convert("RGBA")
    image.putalpha(0)
    assert (decoded(encoded(image)) == 255).all()
    image.putalpha(128)
    assert difference(decoded(encoded(image)), (np.asarray(scene()).astype(int) + 255) // 2) < 2
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE)
    entry = palette.getpixel((0, 0))
    assert (decoded(encoded(palette, transparency=entry))[0, 0] == 255).all()
    assert difference(decoded(encoded(palette.convert("RGBA"))), decoded(encoded(palette))) == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_has_one_meaning(mode: str) -> None:
    grey = scene().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    got = decoded(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert difference(got, np.asarray(image.convert("RGB") if mode in ("1", "P") else grey.convert("RGB"))) < 1


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
    for form in ("PNG", "WEBP"):
        got = decoded(encoded(image, form, exif=exif, lossless=True, exact=True), legacy=True)
        assert difference(got, np.asarray(scene()).astype(int)) == 0
    deep = Image.new("I;16", (4, 4), 40000)
    assert (decoded(encoded(deep), legacy=True) == np.asarray(deep.convert("RGB"))).all()


@pytest.mark.parametrize(
    "data, says",
    [
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (as_base64(encoded(Image.new("RGB", (9, 9)))), "twice"),
        (b"plain words", "no picture"),
        (b"\0\0\1\xb3" + bytes(60), "no picture"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "no picture"),
        (b"GRIB" + bytes(60), "no picture"),
        (b"8BPS\0\1" + bytes(60), "Photoshop"),
        (b"SIMPLE  =                    T" + bytes(3000), "no picture"),
        (b"\0\0\0\x18ftypmp42" + bytes(60), "video"),
        (b"\0\0\0\x14ftypqt  " + bytes(60), "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(60), "raw photo"),
        (b"IIU\0" + bytes(60), "raw photo"),
        *((b"\0\0\0\x18ftyp" + brand + bytes(64), "HEIF") for brand in (b"mif2", b"MiHE", b"avci", b"heim", b"jpeg")),
        (b"\0\0\0\x18ftypABCD\0\0\0\0mif1heic" + bytes(60), "HEIF"),
        (b"\0\0\0\x10ftypABCD\0\0\0\0\0\0\0\x60meta" + bytes(60), "HEIF"),
        (b"\0\0\0\x18ftypABCD\0\0\0\0avifmiaf" + bytes(60), "AVIF"),
        (b"\xff\x0a" + bytes(60), "JPEG XL"),
        (b"\1\0\0\0" + bytes(60), "metafile"),
        (b"BLP2" + bytes(60), "no picture"),
        (b"\x1c\x03\x3c\0\0" + bytes(60), "no picture"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, says: str) -> None:
    assert says in refusal(data)
    assert "Error" not in refusal(data)


def test_an_empty_picture() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        PREPARE(b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_that_is_cut_off_says_so(form: str) -> None:
    data = encoded(scene(200, 200), form)
    assert "cut off" in refusal(data[: len(data) // 2])
    assert "cut off" in refusal(data[:20])


def test_a_broken_picture_is_not_said_to_be_cut_off() -> None:
    data = bytearray(encoded(scene(200, 200)))
    data[60:80] = bytes(20)
    assert "broken PNG" in refusal(bytes(data))
    assert "cut off" not in refusal(bytes(data))


def test_a_variant_that_is_not_supported_says_so() -> None:
    data = bytearray(encoded(scene(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12  # bits a sample
    assert "variant" in refusal(bytes(data))


@pytest.mark.parametrize("size", [(13400, 13400), (20000, 20000), (65000, 65000)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    assert "pixels" in refusal(png(size=size))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"eXIf", b"prVt"])
def test_text_of_any_size_does_not_cost_a_png(kind: bytes) -> None:
    packed = zlib.compress(bytes(8 * 2**20))
    content = {
        b"zTXt": b"Comment\0\0" + packed,
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + packed,
        b"tEXt": b"Comment\0" + bytes(3 * 2**20),
        b"iCCP": b"icc\0\0" + packed,
    }.get(kind, bytes(3 * 2**20))
    assert (decoded(png(chunk(kind, content))) == 255).all()
    assert (decoded(png(*[chunk(kind, content[:40])] * 2000)) == 255).all()
    assert (decoded(png(chunk(kind, content)[:-4] + b"CRC!")) == 255).all()


def test_an_exif_block_whose_entries_are_all_large_takes_no_memory() -> None:
    entries = 5000
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", entries)
    block += b"".join(struct.pack(">HHII", 0x9000 + i % 999, 7, 60_000, 8) for i in range(entries))
    assert decoded(encoded(scene(), "JPEG", exif=b"Exif\0\0" + block[:65_000])).shape == (40, 60, 3)


def test_the_header_tells_what_decoding_takes() -> None:
    for data in (encoded(scene(600, 400), form) for form in ("JPEG", "PNG", "WEBP", "TIFF")):
        picture = PREPARE.open(as_base64(data))
        assert 4 * 600 * 400 <= picture.decoded_bytes <= 40 * 600 * 400 + 64 * 2**20


def test_the_largest_picture_that_is_allowed() -> None:
    assert MAX_PIXELS > 178_000_000
    exact = pictures(max_pixels=2400)
    assert exact(as_base64(encoded(scene())))["pixels"].shape == (40, 60, 3)
    for form in ("PNG", "TIFF", "JPEG", "JPEG2000"):
        with pytest.raises(InvalidRequest, match=r"61 x 40 pixels, more than|more pixels than allowed, itself or"):
            exact(as_base64(encoded(scene(61, 40), form)))

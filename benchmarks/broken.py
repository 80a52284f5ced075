"""What the fuzzing sends: small pictures of every format, and changes of bytes that break them and other inputs."""

import functools
import io
import random

import pillow_heif
from PIL import Image

from app.processors.formats import COMMON, RARE
from tests.support.samples import encoded, scene

# What Pillow writes and the server does not read.
_REFUSED = ("BLP", "DDS", "EPS", "ICNS", "SPIDER", "XBM")
_MODES = ("RGB", "L", "RGBA", "P", "1", "F")
_FITS = b"".join(
    card.ljust(80)
    for card in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 48", b"NAXIS2  = 32", b"END")
).ljust(2880)

_NUMBERS = (0, 1, 0x40, 0x7F, 0x80, 0xFF, 0x4000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
# Parts of JSON, of UTF-8 and of escapes.
_NOISE = tuple(b'" \\ \\u \\ud83d , : [ ] { } \0 \xff \xc3 - 1e999 null true texts \xef\xbb\xbf'.split(b" "))
_NOISE += (b" ", b"\n", "😀".encode(), b"[" * 200, b"9" * 2000)


@functools.cache
def samples() -> dict[str, bytes]:
    """By format and mode or variant: each allowed format in the modes it takes, and some formats that are refused."""
    pillow_heif.register_heif_opener()
    image = scene(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {}
    for form in (*COMMON, *RARE, *_REFUSED):
        for mode in _MODES:
            try:
                made[f"{form} {mode}"] = encoded(image.convert(mode), form)
            except (OSError, ValueError, KeyError):
                continue  # the format has no such mode
    made["JPEG progressive"] = encoded(image, "JPEG", progressive=True, exif=exif)
    made["JPEG CMYK"] = encoded(image.convert("CMYK"), "JPEG")
    made["PNG rotated"] = encoded(image.convert("P"), "PNG", transparency=3, exif=exif)
    made["WEBP lossless"] = encoded(image.convert("RGBA"), "WEBP", lossless=True, exif=exif)
    made["TGA RLE"] = encoded(image, "TGA", compression="tga_rle")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        made[f"TIFF {compression}"] = encoded(image, "TIFF", compression=compression)
    made["TIFF group4"] = encoded(image.convert("1"), "TIFF", compression="group4")
    made["TIFF deep"] = encoded(image.convert("I"), "TIFF")
    made["FITS"] = _FITS.ljust(2 * 2880, b"\x80")
    # A record of IPTC with a picture inside.
    made["IPTC"] = b"\x1c\x08\x0a" + len(made["PNG RGB"]).to_bytes(2, "big") + made["PNG RGB"]
    animation = io.BytesIO()
    image.save(animation, "GIF", save_all=True, append_images=[image.convert("L")])
    made["GIF animation"] = animation.getvalue()
    return made


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One to sixteen changes: bits, bytes, numbers of up to four bytes, parts cut, repeated or from `other`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8, 16))):
        if not changed:
            break
        # Headers are short and decide most.
        at = rng.randrange(min(len(changed), rng.choice((64, 512, len(changed)))))
        length = rng.choice((1, 2, 4, 16, 64, 256))
        match rng.randrange(9):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.randrange(256)
            case 2 | 3:
                width = rng.choice((1, 2, 4))
                number = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
                changed[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case 6:
                start = rng.randrange(len(other))
                changed[at : at + length] = other[start : start + length]
            case 7:
                del changed[at + 1 :]
            case 8:
                changed[at : at + rng.randrange(8)] = rng.choice(_NOISE)
    return bytes(changed)

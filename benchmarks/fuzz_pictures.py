"""Mutated pictures of allowed and of other formats: a vector or a clear refusal, in bounded time and memory.

    python -m benchmarks.fuzz_pictures [--count 35000] [--seed 0]

Exit status 1 if anything else happened; what did it is written to the folder fuzz-failures.
"""

import argparse
import collections
import io
import random
import resource
import sys
import time
from pathlib import Path

import pillow_heif
from PIL import Image

from app.errors import InvalidRequest
from app.processors.formats import COMMON, RARE
from app.processors.picture import PictureProcessor
from tests.support.samples import as_base64, as_pixels, encoded, scene

SECONDS = 3.0
# What Pillow writes and the server does not read.
_REFUSED = ("BLP", "DDS", "EPS", "ICNS")
_FITS = b"".join(
    card.ljust(80)
    for card in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 48", b"NAXIS2  = 32", b"END")
).ljust(2880)
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


def samples() -> dict[str, bytes]:
    """A small picture of each allowed format, of some of their variants, and of some formats that are refused."""
    pillow_heif.register_heif_opener()
    image = scene(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {form: encoded(image, form) for form in {*COMMON, *RARE}}
    made["progressive"] = encoded(image, "JPEG", progressive=True, exif=exif)
    made["CMYK"] = encoded(image.convert("CMYK"), "JPEG")
    made["palette"] = encoded(image.convert("P"), "PNG", transparency=3, exif=exif)
    made["lossless"] = encoded(image.convert("RGBA"), "WEBP", lossless=True, exif=exif)
    made["RLE"] = encoded(image, "TGA", compression="tga_rle")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        made[compression] = encoded(image, "TIFF", compression=compression)
    made["group4"] = encoded(image.convert("1"), "TIFF", compression="group4")
    made["deep"] = encoded(image.convert("I"), "TIFF")
    made |= {form: encoded(image.convert("P") if form == "BLP" else image, form) for form in _REFUSED}
    made["FITS"] = _FITS.ljust(2 * 2880, b"\x80")
    # A record of IPTC with a picture inside.
    made["IPTC"] = b"\x1c\x08\x0a" + len(made["PNG"]).to_bytes(2, "big") + made["PNG"]
    animation = io.BytesIO()
    image.save(animation, "GIF", save_all=True, append_images=[image.convert("L")])
    made["animation"] = animation.getvalue()
    return made


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One to eight changes: bits, bytes, numbers of two and four bytes, parts cut, repeated or from `other`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not changed:
            break
        # Headers are short and decide most.
        at = rng.randrange(min(len(changed), rng.choice((64, 512, len(changed)))) or 1)
        length = rng.choice((1, 2, 4, 16, 64, 256))
        match rng.randrange(8):
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
    return bytes(changed)


def fuzz(count: int, seed: int = 0, only: set[str] | None = None) -> tuple[collections.Counter[str], list[bytes]]:
    """Outcomes counted, and the inputs that did something else than give pixels or be refused."""
    rng = random.Random(seed)
    known = {name: data for name, data in samples().items() if only is None or name in only}
    names = sorted(known)
    prepare = PictureProcessor(as_pixels, max_pixels=1_000_000, seconds=SECONDS)
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[bytes] = []
    for _ in range(count):
        data = mutate(rng, known[rng.choice(names)], known[rng.choice(names)])
        started = time.monotonic()
        try:
            prepare(as_base64(data))
            outcomes["pixels"] += 1
        except InvalidRequest as error:
            outcomes["too slow" if "of computing allowed" in str(error) else "refused"] += 1
        except Exception as error:
            outcomes[f"{type(error).__name__}: {error}"] += 1
            failures.append(data)
        if time.monotonic() - started > 30 + 4 * SECONDS:
            outcomes["hung"] += 1
            failures.append(data)
    prepare.close()
    return outcomes, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=35_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes, failures = fuzz(options.count, options.seed)
    for who, what in (("here", resource.RUSAGE_SELF), ("apart", resource.RUSAGE_CHILDREN)):
        outcomes[f"MiB at most, {who}"] = resource.getrusage(what).ru_maxrss // 1024
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:8} {outcome}")
    for number, data in enumerate(failures):
        Path("fuzz-failures").mkdir(exist_ok=True)
        Path(f"fuzz-failures/{number}").write_bytes(data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

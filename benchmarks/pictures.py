"""Pictures a second that are prepared, beside two threads of plain Pillow, in one run. `make bench` measures servers.

    python -m benchmarks.pictures [--side 64] [--seconds 2] [--rounds 3]

Plain Pillow opens, converts to RGB, resizes (bicubic) and crops, as image processors do; "without convert" leaves
the conversion out, which copies a picture that is RGB already.
"""

import argparse
import io
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np
from PIL import Image

from app.processors.image import ImageProcessor
from app.processors.picture import PictureProcessor, keep_decoded_memory
from tests.support.samples import as_base64, encoded, photo

SIZES = ((4000, 3000), (1600, 1200), (800, 600))
HALF = (0.5, 0.5, 0.5)


def plain(data: bytes, side: int, convert: bool) -> np.ndarray:
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    image = image.convert("RGB") if convert else image
    width, height = image.size
    size = (side, side * height // width) if width <= height else (side * width // height, side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side)))


def rate(work: Callable[[], object], seconds: float, threads: int = 2) -> float:
    """Calls of `work` per second."""
    end = time.monotonic() + seconds

    def repeat() -> int:
        count = 0
        while time.monotonic() < end:
            work()
            count += 1
        return count

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(lambda _: repeat(), range(threads)))
    return sum(counts) / (time.monotonic() - started)


def plainly(data: bytes, side: int, seconds: float) -> dict[str, float]:
    convert, without = (partial(plain, data, side, convert) for convert in (True, False))
    return {"plain Pillow": rate(convert, seconds), "without convert": rate(without, seconds)}


def prepared(data: bytes, side: int, seconds: float) -> dict[str, float]:
    processor = ImageProcessor(side, side, side, 3, 1 / 255, HALF, HALF)
    rates = {}
    for name, fast in (("exact", False), ("fast", True)):
        prepare = PictureProcessor(processor, max_pixels=10**8, seconds=10, fast=fast)
        keep_decoded_memory(128 * 2**20)
        rates[f"preparing, {name}"] = rate(partial(prepare, as_base64(data)), seconds)
        keep_decoded_memory(0)
    return rates


def bodies(data: bytes) -> Iterator[bytes]:
    """Requests for one picture; four characters after its end make each of 16 different from the others."""
    text = as_base64(data + bytes(-len(data) % 3))
    return itertools.cycle([b'{"images": ["%s%04x"]}' % (text, number) for number in range(16)])


def show(name: str, rounds: list[dict[str, float]]) -> None:
    """The medians over the rounds, and of the ratios to plain Pillow in the same round."""
    figures = []
    for way in rounds[0]:
        rates = [each[way] for each in rounds]
        ratios = [each[way] / each["plain Pillow"] for each in rounds]
        figures.append(f"{way} {median(rates):.1f} ({median(ratios):.2f})")
    print(f"{name}, pictures/s (to plain Pillow): {', '.join(figures)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="what the model takes (the demo model: 64)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="all ways one after the other, so many times")
    options = parser.parse_args()
    for width, height in SIZES:
        data = encoded(photo(width, height), "JPEG", quality=85)
        rounds = [
            plainly(data, options.side, options.seconds) | prepared(data, options.side, options.seconds)
            for _ in range(options.rounds)
        ]
        show(f"{width}x{height} ({len(data) // 1000} kB)", rounds)


if __name__ == "__main__":
    main()

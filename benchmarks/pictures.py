"""Pictures a second beside two threads of plain Pillow, in one run: preparing alone, and over HTTP.

    python -m benchmarks.pictures [--side 64] [--seconds 4]
    python -m benchmarks.pictures --http [--models demo/models]     servers at 4 connections, exact and FAST_IMAGES

Plain Pillow opens, converts to RGB, resizes (bicubic) and crops, as image processors do; "without convert" leaves
the conversion out, which copies a picture that is RGB already. A server also takes the request, decodes JSON and
base64, computes the vector and answers, with the load generator on the same cores; its store of vectors is off and
no two pictures that it has at once are equal, so that it computes every one.
"""

import argparse
import asyncio
import io
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from app.processors.image import ImageProcessor
from app.processors.picture import PictureProcessor, keep_decoded_memory
from benchmarks.bench import server
from benchmarks.load import load
from tests.support.samples import as_base64, encoded, photo

SIZES = ((4000, 3000), (1600, 1200), (800, 600))
HALF = (0.5, 0.5, 0.5)
MODES = {"exact": "0", "fast": "1"}
"""What FAST_IMAGES is, by the name of a way."""


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


def plain_rates(data: bytes, side: int, seconds: float) -> dict[str, float]:
    convert, without = (partial(plain, data, side, convert) for convert in (True, False))
    return {"plain Pillow": rate(convert, seconds), "without convert": rate(without, seconds)}


def preparing_rates(data: bytes, side: int, seconds: float) -> dict[str, float]:
    processor = ImageProcessor(side, side, side, 3, 1 / 255, HALF, HALF)
    rates = {}
    for name, fast in MODES.items():
        prepare = PictureProcessor(processor, max_pixels=10**8, seconds=10, fast=fast == "1")
        keep_decoded_memory(2)
        rates[f"preparing, {name}"] = rate(partial(prepare, as_base64(data)), seconds)
        Image.core.set_blocks_max(0)
    return rates


def bodies(data: bytes) -> Iterator[bytes]:
    """Requests for one picture; four characters after its end make each of 16 different from the others."""
    text = as_base64(data + bytes(-len(data) % 3))
    return itertools.cycle([b'{"images": ["%s%04x"]}' % (text, number) for number in range(16)])


def server_rates(samples: dict[str, bytes], models: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Pictures a second at 4 connections, by sample and mode."""
    rates: dict[str, dict[str, float]] = {sample: {} for sample in samples}
    for name, fast in MODES.items():
        with server("app", models, {"FAST_IMAGES": fast}) as (port, _, _):
            for sample, data in samples.items():
                got = asyncio.run(load(port, bodies(data), 4, seconds))
                if got.failed:
                    raise RuntimeError(f"{got.failed} requests failed")
                rates[sample][f"server, {name}"] = got.per_second
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="what the model takes (the demo model: 64)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--http", action="store_true", help="measure servers, not the preparation alone")
    parser.add_argument("--models", type=Path, default=Path("demo/models"), help="what the servers serve")
    options = parser.parse_args()
    samples = {f"{width}x{height}": encoded(photo(width, height), "JPEG", quality=85) for width, height in SIZES}
    served = server_rates(samples, options.models, options.seconds) if options.http else {}
    for name, data in samples.items():
        rates = plain_rates(data, options.side, options.seconds)
        rates |= served[name] if served else preparing_rates(data, options.side, options.seconds)
        plainly = rates["plain Pillow"]
        figures = ", ".join(f"{way} {figure:.1f} ({figure / plainly:.2f})" for way, figure in rates.items())
        print(f"{name} ({len(data) // 1000} kB), pictures/s (to plain Pillow): {figures}", flush=True)


if __name__ == "__main__":
    main()

"""What preparing a picture costs, beside plain Pillow, in two threads; and over HTTP with --url.

    python -m benchmarks.pictures [--side 64] [--seconds 4]
    python -m benchmarks.pictures --url http://127.0.0.1:8080     pictures/s at 4 connections, beside plain Pillow

Plain Pillow opens, converts to RGB, resizes (bicubic) and crops, as image processors do; "without convert" leaves
the conversion out, which copies a picture that is RGB already.
"""

import argparse
import asyncio
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from app.processors.image import ImageProcessor
from app.processors.picture import PictureProcessor, keep_decoded_memory
from benchmarks.load import load
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="what the model takes (the demo model: 64)")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--url", help="a server to measure instead of the preparation alone")
    options = parser.parse_args()
    processor = ImageProcessor(options.side, options.side, options.side, 3, 1 / 255, HALF, HALF)
    for size in SIZES:
        data = encoded(photo(*size), "JPEG", quality=85)
        text = as_base64(data)
        figures = {}
        for convert, name in ((True, "plain Pillow"), (False, "without convert")):
            figures[name] = rate(partial(plain, data, options.side, convert), options.seconds)
        if options.url:
            bodies = [json.dumps({"images": [text.decode()]}).encode()]
            port = int(options.url.rsplit(":", 1)[1])
            figures["server"] = asyncio.run(load(port, bodies, 4, options.seconds)).per_second
        else:
            Image.core.set_blocks_max(0)
            for fast, name in ((False, "exact"), (True, "fast")):
                prepare = PictureProcessor(processor, max_pixels=10**8, seconds=10, fast=fast)
                keep_decoded_memory(2)
                figures[name] = rate(partial(prepare, text), options.seconds)
                Image.core.set_blocks_max(0)
        rates = ", ".join(f"{name} {figure:.1f}/s" for name, figure in figures.items())
        print(f"{size[0]}x{size[1]} ({len(data) // 1000} kB): {rates}")


if __name__ == "__main__":
    main()

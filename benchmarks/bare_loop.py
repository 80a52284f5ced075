"""Throughput of the engine alone, in a loop over batches, without server or queue.

    MODELS_DIR=... python -m benchmarks.bare_loop

Prints JSON: for images and texts, items per second by batch size; for images also with preparation
(base64, decode, resize) in the same two threads as the server's.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.cgroup import usable_cpus
from app.models.load import load_model
from app.processors.padding import collate
from app.processors.picture import PictureProcessor
from app.settings import load_settings
from app.towers import Inputs, Tower
from benchmarks.load import image_bodies, text_bodies

SIZES = (1, 2, 4, 8, 16, 32)
SECONDS = 4.0


def rate(tower: Tower, batches: Iterator[list[Inputs]]) -> float:
    """Items per second over about SECONDS."""
    tower.session.start(collate(next(batches), tower.padding))()
    started, items = time.monotonic(), 0
    while time.monotonic() < started + SECONDS:
        batch = next(batches)
        tower.session.start(collate(batch, tower.padding))()
        items += len(batch)
    return items / (time.monotonic() - started)


def prepared(items: list[str], prepare: Callable[[str], Inputs], size: int) -> Iterator[list[Inputs]]:
    ready = [prepare(item) for item in items]
    while True:
        for start in range(0, len(ready) - size + 1, size):
            yield ready[start : start + size]


def preparing(items: list[str], prepare: Callable[[str], Inputs], size: int) -> Iterator[list[Inputs]]:
    """Batches prepared in threads, one batch ahead."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        ahead: Any = [pool.submit(prepare, item) for item in items[:size]]
        while True:
            for start in range(0, len(items) - size + 1, size):
                batch, ahead = ahead, [pool.submit(prepare, item) for item in items[start : start + size]]
                yield [future.result() for future in batch]


def main() -> None:
    model = load_model(load_settings())
    images = [json.loads(body)["images"][0].encode() for body, _ in zip(image_bodies(), range(64), strict=False)]
    texts = [json.loads(body)["texts"][0] for body, _ in zip(text_bodies(), range(512), strict=False)]

    prepare_image = PictureProcessor(model.image.processor, max_pixels=10**8, seconds=10)

    print(
        json.dumps(
            {
                "images": {n: rate(model.image, prepared(images, prepare_image, n)) for n in SIZES},
                "images with preparation": {n: rate(model.image, preparing(images, prepare_image, n)) for n in SIZES},
                "texts": {n: rate(model.text, prepared(texts, model.text.processor, n)) for n in SIZES},
            }
        )
    )


if __name__ == "__main__":
    main()

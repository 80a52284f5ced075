"""Throughput of the engine alone, in a loop over batches, without server or queue.

    MODELS_DIR=... python -m benchmarks.bare_loop

Prints JSON: for images and texts, items per second by batch size, and the same with preparation (base64, decode,
resize; tokens) in as many threads as the server's, one batch ahead.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from app.cgroup import usable_cpus
from app.models.load import load_model
from app.processors.padding import collate
from app.processors.picture import PictureProcessor
from app.settings import load_settings
from app.towers import Inputs, LoadedModel, Tower
from benchmarks.load import image_bodies, text_bodies

SIZES = (1, 2, 4, 8, 16, 32)
SECONDS = 4.0


def rate(tower: Tower, batches: Iterator[list[Inputs]], seconds: float) -> float:
    """Items per second over about `seconds`."""
    tower.session.start(collate(next(batches), tower.padding))()
    started, items = time.monotonic(), 0
    while time.monotonic() < started + seconds:
        batch = next(batches)
        tower.session.start(collate(batch, tower.padding))()
        items += len(batch)
    return items / (time.monotonic() - started)


def prepared(items: list[Any], prepare: Callable[[Any], Inputs], size: int) -> Iterator[list[Inputs]]:
    ready = [prepare(item) for item in items]
    while True:
        for start in range(0, len(ready) - size + 1, size):
            yield ready[start : start + size]


def preparing(items: list[Any], prepare: Callable[[Any], Inputs], size: int) -> Iterator[list[Inputs]]:
    """Batches prepared in threads, one batch ahead."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        ahead: Any = [pool.submit(prepare, item) for item in items[:size]]
        while True:
            for start in range(0, len(items) - size + 1, size):
                batch, ahead = ahead, [pool.submit(prepare, item) for item in items[start : start + size]]
                yield [future.result() for future in batch]


def samples(model: LoadedModel) -> dict[str, tuple[Tower, list[Any], Callable[[Any], Inputs]]]:
    """By kind: its tower, usual items and what prepares one."""
    images = [json.loads(body)["images"][0].encode() for body in islice(image_bodies(), 64)]
    texts = [json.loads(body)["texts"][0] for body in islice(text_bodies(), 512)]
    prepare_image = PictureProcessor(model.image.processor, max_pixels=10**8, seconds=10)
    return {"images": (model.image, images, prepare_image), "texts": (model.text, texts, model.text.processor)}


def main() -> None:
    report = {}
    for kind, (tower, items, prepare) in samples(load_model(load_settings())).items():
        report[kind] = {n: rate(tower, prepared(items, prepare, n), SECONDS) for n in SIZES}
        report[f"{kind} with preparation"] = {n: rate(tower, preparing(items, prepare, n), SECONDS) for n in SIZES}
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""How much of what the engine can do reaches a client: the server beside the bare loop with preparation.

    python -m benchmarks.fed --models DIR [--precision float32] [--seconds 6] [--rounds 3] [--connections 16]

The two take turns, for a machine is faster in one minute than in the next; while one runs, the other is idle. The
bare loop is the best of the sizes of batches named. Prints the medians, and of the texts beside pictures the wait.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from app.cgroup import usable_cpus
from app.models.load import load_model
from app.processors.padding import collate
from app.processors.picture import PictureProcessor
from app.settings import Settings
from app.towers import Inputs, LoadedModel, Tower
from benchmarks.load import image_bodies, load, text_bodies
from benchmarks.servers import server

SIZES = {"images": (1, 8), "texts": (8, 16, 32)}


def rate(tower: Tower, batches: Iterator[list[Inputs]], seconds: float) -> float:
    """Items per second of the engine alone, over about `seconds`."""
    tower.session.start(collate(next(batches), tower.padding))()
    started, items = time.monotonic(), 0
    while time.monotonic() < started + seconds:
        batch = next(batches)
        tower.session.start(collate(batch, tower.padding))()
        items += len(batch)
    return items / (time.monotonic() - started)


def preparing(items: list[Any], prepare: Callable[[Any], Inputs], size: int) -> Iterator[list[Inputs]]:
    """Batches prepared in as many threads as the server's, one batch ahead."""
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


def bare(models: Path, precision: str, calls: Connection) -> None:
    """Answers (kind, size, seconds) with items a second, until None comes."""
    model = samples(load_model(Settings(models_dir=models, precision=precision)))  # type: ignore[arg-type]
    calls.send(None)
    while (call := calls.recv()) is not None:
        kind, size, seconds = call
        tower, items, prepare = model[kind]
        calls.send(rate(tower, preparing(items, prepare, size), seconds))


async def query_beside(
    port: int, bodies: dict[str, Iterator[bytes]], connections: int, seconds: float
) -> list[float]:
    """p50 and p99, in ms, of one text after another beside so many connections of pictures."""
    importing = asyncio.create_task(load(port, bodies["images"], connections, seconds))
    query = await load(port, bodies["texts"], 1, seconds)
    await importing
    return [query.percentile(0.5), query.percentile(0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.cache/model"))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--kinds", nargs="*", default=["images", "texts"], choices=["images", "texts"])
    parser.add_argument("--beside", nargs="*", type=int, default=[], help="texts beside so many picture connections")
    options = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    calls, far_end = spawn.Pipe()
    loop = spawn.Process(target=bare, args=(options.models, options.precision, far_end), daemon=True)
    loop.start()
    far_end.close()  # or nobody would see that the process has ended
    calls.recv()
    bodies = {"images": image_bodies(), "texts": text_bodies()}
    rates: dict[tuple[str, str], list[float]] = {}
    waits: dict[int, list[list[float]]] = {}
    with server("app", options.models, {"PRECISION": options.precision}) as (port, _, _):
        for kind in options.kinds:  # one after the other, for pictures are computed otherwise beside texts
            for _ in range(options.rounds):
                for size in SIZES[kind]:
                    calls.send((kind, size, options.seconds / 2))
                    rates.setdefault((kind, f"bare, batches of {size}"), []).append(calls.recv())
                got = asyncio.run(load(port, bodies[kind], options.connections, options.seconds))
                rates.setdefault((kind, "server"), []).append(got.per_second)
        for _ in range(options.rounds):
            for connections in options.beside:
                wait = asyncio.run(query_beside(port, bodies, connections, options.seconds))
                waits.setdefault(connections, []).append(wait)
    calls.send(None)

    print(f"{os.cpu_count()} CPUs, {options.precision}, {options.connections} connections, {options.rounds} rounds")
    medians = {key: statistics.median(values) for key, values in rates.items()}
    for (kind, what), values in rates.items():
        print(f"{kind:8}{what:22}{medians[kind, what]:8.1f}/s   " + " ".join(f"{value:.1f}" for value in values))
    for kind in options.kinds:
        best = max(value for (of, what), value in medians.items() if of == kind and what != "server")
        print(f"{kind}: the server reaches {medians[kind, 'server'] / best:.3f} of the best bare loop")
    for connections, rounds in waits.items():
        p50, p99 = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"a text beside {connections} connections of pictures: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


if __name__ == "__main__":
    main()

"""What it brings that an input is computed once, and what it costs where none comes twice.

    python -m benchmarks.repeated --models DIR [--seconds 6] [--rounds 3]

Two servers take turns: one as it is by default, one that keeps no vectors (VECTOR_CACHE_BYTES=0), which computes an
input again whenever it comes again. Prints
- pictures/s of an import in which every picture comes twice, as with two named vectors, one after the other;
- pictures/s where all are different, of 800x600 and of 12 megapixels, and what hashing takes of one;
- how long a query waits that was asked before, beside an import.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app.serving.vector_cache import VectorCache, digest
from benchmarks.load import image_bodies, load, picture_bodies
from benchmarks.servers import server

SERVERS = {"default": {"VECTOR_CACHE_BYTES": ""}, "keeps none": {"VECTOR_CACHE_BYTES": "0"}}
QUERY = json.dumps({"texts": ["a photo of a dog that sleeps beside a bicycle"]}).encode()


def each_twice(bodies: Iterator[bytes]) -> Iterator[bytes]:
    for body in bodies:
        yield body
        yield body


async def twice(port: int, bodies: Iterator[bytes], connections: int, seconds: float) -> float:
    """Each connection sends a body, and the same again once it is answered."""
    results = await asyncio.gather(*(load(port, each_twice(bodies), 1, seconds) for _ in range(connections)))
    return sum(result.per_second for result in results)


def different(port: int, bodies: Iterator[bytes], connections: int, seconds: float) -> float:
    return asyncio.run(load(port, bodies, connections, seconds)).per_second


def import_pictures(port: int, connections: int, seconds: float) -> None:
    asyncio.run(load(port, image_bodies(), connections, seconds))


def repeated_query(port: int, connections: int, seconds: float) -> list[float]:
    """p50 and p99, in ms, of one query again and again beside so many connections of pictures."""
    spawn = multiprocessing.get_context("spawn")
    importing = spawn.Process(target=import_pictures, args=(port, connections, seconds + 5))
    importing.start()
    time.sleep(3)
    got = asyncio.run(load(port, itertools.repeat(QUERY), 1, seconds))
    importing.join()
    return [got.percentile(0.5), got.percentile(0.99)]


def hashing(content: bytes, rows: int = 200) -> float:
    """Seconds that it takes to hash one content and to keep a row for it."""
    cache, row, times = VectorCache(16 * 2**20), np.zeros(512, np.float32), []
    for number in range(rows):
        started = time.perf_counter()
        cache.put(digest("images", content) + bytes([number % 256]), row)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.cache/model"))
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4)
    options = parser.parse_args()
    connections, seconds = options.connections, options.seconds
    pictures, photos = image_bodies(), picture_bodies(4000, 3000, 8, seed=3)
    next(pictures), next(photos)  # makes them all, which takes seconds
    measures: dict[str, Callable[[int], float]] = {
        "each picture twice": lambda port: asyncio.run(twice(port, pictures, connections, seconds)),
        "all different, 800x600": lambda port: different(port, pictures, connections, seconds),
        "all different, 4000x3000": lambda port: different(port, photos, connections, seconds),
    }
    rates: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(server("app", options.models, env))[0] for name, env in SERVERS.items()}
        for _ in range(options.rounds):
            for what, measure in measures.items():
                for name, port in ports.items():
                    rates.setdefault((what, name), []).append(measure(port))
        waits = {name: repeated_query(port, connections, seconds) for name, port in ports.items()}

    print(f"{os.cpu_count()} CPUs, {connections} connections, medians of {options.rounds} rounds")
    medians = {key: statistics.median(values) for key, values in rates.items()}
    for what in measures:
        ours, without = medians[what, "default"], medians[what, "keeps none"]
        each = "; ".join(" ".join(f"{value:.1f}" for value in rates[what, name]) for name in SERVERS)
        print(f"{what:26}{ours:8.1f}/s, without {without:.1f}/s: {ours / without:.3f}   ({each})")
    for what, source in (("800x600", pictures), ("4000x3000", photos)):
        took = hashing(json.loads(next(source))["images"][0].encode())
        share = took * medians[f"all different, {what}", "default"]
        print(
            f"hashing and keeping one of {what}: {1000 * took:.2f} ms, {100 * share:.2f} % of the time of a picture"
        )
    for name, (p50, p99) in waits.items():
        print(
            f"the same query beside {connections} connections of pictures, {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )


if __name__ == "__main__":
    main()

"""On a GPU: the server beside bare batched torch, which only computes.

    python -m benchmarks.gpu --models DIR [--seconds 5] [--precisions float16 float32]

Prints items a second. Several processes make the load, for one would be slower than the server.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from app.models.load import load_model
from app.processors.padding import collate
from app.settings import Settings
from app.towers import Tower
from benchmarks.fed import samples
from benchmarks.load import load, picture_bodies, text_bodies
from benchmarks.servers import server

BATCHES = (1, 32, 128, 256)
PROCESSES = 6


def bare_rate(tower: Tower, inputs: list[Any], size: int, seconds: float) -> float:
    """Items a second of batches that were made before, with one batch queued behind the one that computes."""
    batch = collate((inputs * size)[:size], tower.padding)
    tower.session.start(batch)()
    started, items, before = time.monotonic(), 0, tower.session.start(batch)
    while time.monotonic() < started + seconds:
        after = tower.session.start(batch)
        before()
        before, items = after, items + size
    before()
    return items / (time.monotonic() - started)


def bare(models: Path, precision: str, seconds: float) -> dict[str, dict[int, float]]:
    settings = Settings(models_dir=models, enable_cuda=True, precision=precision)  # type: ignore[arg-type]
    rates = {}
    for kind, (tower, items, prepare) in samples(load_model(settings)).items():
        inputs = [prepare(item) for item in items[:64]]
        rates[kind] = {size: bare_rate(tower, inputs, size, seconds) for size in BATCHES}
    return rates


def one_process(port: int, kind: str, connections: int, seconds: float, seed: int) -> tuple[float, int]:
    bodies: Iterator[bytes] = text_bodies(seed) if kind == "texts" else picture_bodies(800, 600, 16, seed)
    got = asyncio.run(load(port, bodies, connections, seconds, warm_up=2.0))
    return got.per_second, got.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=96)
    parser.add_argument("--precisions", nargs="*", default=["float16", "float32"])
    options = parser.parse_args()
    each, spawn = options.connections // PROCESSES, get_context("spawn")
    for precision in options.precisions:
        with ProcessPoolExecutor(1, spawn) as pool:
            results = pool.submit(bare, options.models, precision, options.seconds / 2).result()
        for kind, rates in results.items():
            shown = ", ".join(f"{size}: {rate:.0f}/s" for size, rate in rates.items())
            print(f"{precision} bare, {kind}: {shown}", flush=True)
        for fast in ("0", "1"):
            env = {"ENABLE_CUDA": "1", "PRECISION": precision, "VECTOR_CACHE_BYTES": "0", "FAST_IMAGES": fast}
            clients = ProcessPoolExecutor(PROCESSES, spawn)
            with server("app", options.models, env) as (port, _, ready), clients as pool:
                for kind in ("images", "texts") if fast == "0" else ("images",):
                    futures = [
                        pool.submit(one_process, port, kind, each, options.seconds, seed) for seed in range(PROCESSES)
                    ]
                    got = [future.result() for future in futures]
                    rate, failed = sum(r for r, _ in got), sum(f for _, f in got)
                    name = f"{precision} server{', FAST_IMAGES' if fast == '1' else ''}, {kind}"
                    print(f"{name}: {rate:.0f}/s, failed {failed}, ready after {ready:.1f} s", flush=True)
    print(f"{os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()

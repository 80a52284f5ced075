"""On a GPU: the server beside bare batched torch, which only computes.

    python -m benchmarks.gpu --models DIR [--seconds 5] [--workers 0] [--precisions float16 float32]

Prints items a second, what the CPUs can prepare at most, the latency of a text beside a full load of pictures, and
how near float16 comes to float32. Several processes make the load, for one would be slower than the server.
benchmarks/on_gpu.sh sets up a bare machine and runs it.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from app.cgroup import usable_cpus
from app.models.load import load_model
from app.processors.padding import collate
from app.settings import Settings
from app.towers import Tower, memory_of
from benchmarks.fed import samples
from benchmarks.load import load, picture_bodies, text_bodies
from benchmarks.plain_prepare import plain_rate
from benchmarks.servers import server
from benchmarks.wide import form_of

BATCHES = (1, 32, 128, 256)
PROCESSES = 6


def bare_rate(tower: Tower, inputs: list[Any], size: int, seconds: float) -> float:
    """Items a second of batches that were made before, with one batch queued behind the one that computes."""
    batch = collate((inputs * size)[:size], tower.padding, memory_of(tower.session))
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


def cosines(models: Path) -> dict[str, tuple[float, float]]:
    """The worst and the mean cosine of float16 to float32, of the same items on the GPU, by kind."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    for precision in ("float32", "float16"):
        settings = Settings(models_dir=models, enable_cuda=True, precision=precision)
        for kind, (tower, items, prepare) in samples(load_model(settings)).items():
            batch = collate([prepare(item) for item in items[:64]], tower.padding, memory_of(tower.session))
            made = tower.session.start(batch)()
            rows.setdefault(kind, {})[precision] = made / np.linalg.norm(made, axis=1, keepdims=True)
    found = {}
    for kind, by_precision in rows.items():
        each = (by_precision["float32"] * by_precision["float16"]).sum(axis=1)
        found[kind] = float(each.min()), float(each.mean())
    return found


def one_process(port: int, bodies: str, connections: int, seconds: float, seed: int) -> tuple[float, int, float]:
    """Answers a second, failures, and the 99th percentile in milliseconds."""
    made: Iterator[bytes]
    if bodies == "texts":
        made = text_bodies(seed)
    else:
        width, height = map(int, bodies.split("x"))
        made = picture_bodies(width, height, 16, seed)
    got = asyncio.run(load(port, made, connections, seconds, warm_up=2.0))
    return got.per_second, got.failed, got.percentile(0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=96)
    parser.add_argument("--workers", default="0", help="WORKERS of the server")
    parser.add_argument("--precisions", nargs="*", default=["float16", "float32"])
    options = parser.parse_args()
    each, spawn, cpus = options.connections // PROCESSES, get_context("spawn"), usable_cpus()
    with tempfile.TemporaryDirectory() as folder:
        form, bodies = form_of(options.models, Path(folder)), list(islice(picture_bodies(800, 600, 16), 16))
        print(
            f"plain preparation in {cpus} processes, 800x600: {plain_rate(form, bodies, 4.0, cpus).per_second:.0f}/s"
        )
    with ProcessPoolExecutor(1, spawn) as pool:
        for kind, (worst, mean) in pool.submit(cosines, options.models).result().items():
            print(f"cosine of float16 to float32, {kind}: worst {worst:.6f}, mean {mean:.6f}", flush=True)
    for precision in options.precisions:
        with ProcessPoolExecutor(1, spawn) as pool:
            results = pool.submit(bare, options.models, precision, options.seconds / 2).result()
        for kind, rates in results.items():
            shown = ", ".join(f"{size}: {rate:.0f}/s" for size, rate in rates.items())
            print(f"{precision} bare, {kind}: {shown}", flush=True)
        env = {"ENABLE_CUDA": "1", "PRECISION": precision, "VECTOR_CACHE_BYTES": "0", "WORKERS": options.workers}
        clients = ProcessPoolExecutor(PROCESSES + 1, spawn)
        with server("app", options.models, env) as (port, _, ready), clients as pool:
            print(f"{precision} server: ready after {ready:.1f} s")
            for kind in ("800x600", "320x240", "texts"):
                futures = [
                    pool.submit(one_process, port, kind, each, options.seconds, seed) for seed in range(PROCESSES)
                ]
                if kind != "texts":
                    lone = pool.submit(one_process, port, "texts", 1, options.seconds, PROCESSES)
                    print(f"{precision} server, a lone text beside {kind}: p99 {lone.result()[2]:.1f} ms")
                got = [future.result() for future in futures]
                rate, failed = sum(r for r, _, _ in got), sum(f for _, f, _ in got)
                print(f"{precision} server, {kind}: {rate:.0f}/s, failed {failed}", flush=True)
    print(f"{cpus} CPUs")


if __name__ == "__main__":
    main()

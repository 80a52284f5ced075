"""Measure this server beside a yardstick in one run, write it as JSON, and renew the tables and pictures of the docs.

    python -m benchmarks.bench [--models DIR] [--seconds 6] [--output benchmarks/results.json]

Without --models it makes a full-size ViT-B/32 CLIP with random weights (benchmarks/make_model.py). With the default
servers it also measures photos by size, every precision, and what the precisions cost (benchmarks/precision.py), in
about 12 minutes. Only a whole run renews the docs; --into DIR renews copies of them instead.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.engines import OPENVINO, choose_engine
from app.families.registry import find_family
from app.models.compile import form_of
from app.models.store import is_whole, store_folders
from app.settings import Settings
from benchmarks import precision, report
from benchmarks.load import Result, image_bodies, load, poll_ready, text_bodies
from benchmarks.pictures import SIZES
from benchmarks.pictures import bodies as photo_bodies
from benchmarks.servers import memory, server
from tests.support.samples import encoded, photo

CONNECTIONS = (1, 4, 16, 64)
SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "yardstick": ("benchmarks.yardstick", {}),
    "ours, torch": ("app", {"ENGINE": "torch"}),
    "ours": ("app", {}),
    "fast": ("app", {"FAST_IMAGES": "1"}),
}
FAST = "fast"
WHOLE = ("yardstick", "ours", FAST)


def say(doing: str) -> None:
    print(doing, file=sys.stderr, flush=True)


async def measure(name: str, port: int, seconds: float) -> dict[str, Any]:
    images, texts = image_bodies(), text_bodies()
    result: dict[str, Any] = {}
    for kind, bodies in (("images", images), ("texts", texts)):
        for connections in CONNECTIONS:
            say(f"{name}: {kind}, {connections} connections")
            got = await load(port, bodies, connections, seconds)
            result[f"{kind}_{connections}"] = {"per_second": got.per_second, **figures(got)}
    for connections in (4, 16):
        say(f"{name}: a text beside {connections} connections of pictures")
        importing = asyncio.create_task(load(port, images, connections, seconds))
        query = await load(port, texts, 1, seconds)
        await importing
        result[f"text_beside_{connections}_image_connections"] = figures(query)
    say(f"{name}: ready under full load")
    full = [asyncio.create_task(load(port, bodies, 32, seconds)) for bodies in (images, texts)]
    ready = await poll_ready(port, seconds)
    await asyncio.gather(*full)
    result["ready_under_full_load"] = figures(ready)
    return result


def figures(got: Result) -> dict[str, float]:
    return {"p50_ms": got.percentile(0.5), "p99_ms": got.percentile(0.99), "failed": got.failed}


def photo_rates(name: str, port: int, photos: dict[str, bytes], seconds: float) -> dict[str, float]:
    """Pictures a second at 4 connections, by size."""
    rates = {}
    for size, data in photos.items():
        say(f"{name}: photos of {size}")
        rates[size] = asyncio.run(load(port, photo_bodies(data), 4, seconds)).per_second
    return rates


def in_precisions(models: Path, seconds: float) -> dict[str, Any]:
    """Speed at 16 connections, start and memory, by each precision in which this machine computes."""
    measured: dict[str, Any] = {}
    for name in precision.PRECISIONS:
        say(f"in {name}")
        settings = Settings(models_dir=models, precision=name)  # type: ignore[arg-type]
        if name not in choose_engine(settings).precisions(settings):
            continue
        with compiled_server("app", models, {"PRECISION": name}) as (port, pid, seconds_to_ready):
            row: dict[str, Any] = {"ready_after_s": seconds_to_ready, "loaded": memory(pid)}
            for kind, bodies in (("images", image_bodies()), ("texts", text_bodies())):
                row[f"{kind}_16"] = asyncio.run(load(port, bodies, 16, seconds)).per_second
            measured[name] = {**row, **memory(pid), "model_mb": compiled_mb(settings)}
    return measured


@contextmanager
def compiled_server(module: str, models: Path, env: dict[str, str]) -> Iterator[tuple[int, int, float]]:
    """As server(), of which an earlier one has compiled the model, if there is anything to compile."""
    if module == "app":
        with server(module, models, env):
            pass
    with server(module, models, env) as started:
        yield started


def compiled_mb(settings: Settings) -> float:
    """The size in MB of what an image holds of the model; 0 if it is not compiled."""
    if choose_engine(settings) is not OPENVINO:
        return 0.0
    form = form_of(settings, find_family(settings.models_dir))
    folder = next(place / form.name for place in store_folders(settings) if is_whole(place / form.name))
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = {line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")}
    return f"{os.cpu_count()} CPUs ({', '.join(models) or platform.machine()})"


def measure_servers(models: Path, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Each of the servers after the other: load, photos, memory."""
    photos = {f"{width}x{height}": encoded(photo(width, height), "JPEG", quality=85) for width, height in SIZES[::-1]}
    servers: dict[str, Any] = {}
    rates: dict[str, dict[str, float]] = {size: {} for size in photos}
    for name in names:
        module, env = SERVERS[name]
        say(f"{name}: start")
        with compiled_server(module, models, env) as (port, pid, seconds_to_ready):
            if name != FAST:
                servers[name] = asyncio.run(measure(name, port, seconds))
            for size, rate in photo_rates(name, port, photos, seconds).items():
                rates[size][name] = rate
            if name != FAST:
                servers[name]["start"] = {"ready_after_s": seconds_to_ready, **memory(pid)}
    return {"servers": servers, "photos": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.cache/model"))
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--only", nargs="*", choices=[*SERVERS], help="servers to measure, and nothing else")
    parser.add_argument("--into", type=Path, default=report.ROOT, help="where the README.md and docs/ to renew lie")
    options = parser.parse_args()
    if not options.models.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.make_model", str(options.models)], check=True)

    names = options.only or WHOLE
    started = time.monotonic()
    today = datetime.now(UTC).date().isoformat()
    run: dict[str, Any] = {"machine": machine(), "date": today, "seconds": options.seconds}
    run |= measure_servers(options.models, names, options.seconds)
    if not options.only:
        run["precisions"] = in_precisions(options.models, options.seconds)
        run["costs"] = precision.compare(options.models, Path("demo/models"))
    run["took_seconds"] = time.monotonic() - started
    options.output.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    if options.only:
        print(json.dumps(run, indent=1))
    else:
        report.write(run, options.into)
        for table in report.tables(run).values():
            print(table)


if __name__ == "__main__":
    main()

"""Measure this server beside a yardstick in one run; print a table and write it as JSON.

    python -m benchmarks.bench [--models DIR] [--seconds 8] [--output benchmarks/results.json]

Without --models it makes a full-size ViT-B/32 CLIP with random weights (benchmarks/make_model.py).
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import image_bodies, load, poll_ready, text_bodies
from benchmarks.progress import progress

CONNECTIONS = (1, 4, 16, 64)
SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "yardstick": ("benchmarks.yardstick", {}),
    "ours, torch": ("app", {"ENGINE": "torch"}),
    "ours": ("app", {}),
}


@contextmanager
def server(module: str, models: Path, env: dict[str, str]) -> Iterator[tuple[int, int, float]]:
    """A server as a process of its own: port, process id, seconds from start to ready."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    environment = {
        **os.environ,
        "MODELS_DIR": str(models),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "VECTOR_CACHE_BYTES": "0",
        **env,
    }
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > started + 300:
                raise RuntimeError(f"{module} did not become ready")
            time.sleep(0.02)
        yield port, process.pid, time.monotonic() - started
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/.well-known/ready", timeout=5) as answer:
            return bool(answer.status == 204)
    except (urllib.error.URLError, OSError):
        return False


def memory(pid: int) -> dict[str, float]:
    """Resident memory in MB: all, and its anonymous part."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kb = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")}
    total = sum(int(value) for value in kb.values())
    return {"rss_mb": total / 1024, "rss_anon_mb": int(kb["RssAnon"]) / 1024}


# The start of a server, its loads one after the other, and the bare loop.
STEPS = 1 + 2 * len(CONNECTIONS) + 2 + 1 + 1


async def measure(name: str, port: int, seconds: float, step: Callable[[str], None]) -> dict[str, Any]:
    images, texts = image_bodies(), text_bodies()
    result: dict[str, Any] = {}
    for kind, bodies in (("images", images), ("texts", texts)):
        for connections in CONNECTIONS:
            step(f"{name}: {kind}, {connections} connections")
            got = await load(port, bodies, connections, seconds)
            result[f"{kind}_{connections}"] = {
                "per_second": got.per_second,
                "p50_ms": got.percentile(0.5),
                "p99_ms": got.percentile(0.99),
                "failed": got.failed,
            }
    for connections in (4, 16):
        step(f"{name}: a text beside {connections} connections of pictures")
        importing = asyncio.create_task(load(port, images, connections, seconds))
        query = await load(port, texts, 1, seconds)
        await importing
        result[f"text_beside_{connections}_image_connections"] = {
            "p50_ms": query.percentile(0.5),
            "p99_ms": query.percentile(0.99),
        }
    step(f"{name}: ready under full load")
    full = [asyncio.create_task(load(port, bodies, 32, seconds)) for bodies in (images, texts)]
    ready = await poll_ready(port, seconds)
    await asyncio.gather(*full)
    result["ready_under_full_load"] = {
        "p50_ms": ready.percentile(0.5),
        "p99_ms": ready.percentile(0.99),
        "max_ms": ready.percentile(1.0),
        "failed": ready.failed,
    }
    return result


def bare_loop(models: Path, env: dict[str, str]) -> dict[str, dict[str, float]]:
    environment = {**os.environ, "MODELS_DIR": str(models), **env}
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_loop"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    ).stdout
    rates: dict[str, dict[str, float]] = json.loads(output)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.cache/model"))
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--only", nargs="*", choices=[*SERVERS], default=[*SERVERS], help="servers to measure")
    options = parser.parse_args()
    if not options.models.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.make_model", str(options.models)], check=True)

    report: dict[str, Any] = {"machine": f"{os.cpu_count()} CPUs, {platform.machine()}", "servers": {}}
    with progress(STEPS * len(options.only)) as step:
        for name in options.only:
            module, env = SERVERS[name]
            step(f"{name}: start")
            with server(module, options.models, env) as (port, pid, seconds_to_ready):
                result = asyncio.run(measure(name, port, options.seconds, step))
                result["start"] = {"ready_after_s": seconds_to_ready, **memory(pid)}
            step(f"{name}: the engine alone")
            if module == "app":
                result["bare_loop"] = bare_loop(options.models, env)
            report["servers"][name] = result
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print_table(report)


def print_table(report: dict[str, Any]) -> None:
    servers: dict[str, Any] = report["servers"]
    print(f"{report['machine']}\n{'':46}" + "".join(f"{name:>14}" for name in servers) + f"{'ratio':>9}")
    first = next(iter(servers.values()))
    for row, figures in first.items():
        if row == "bare_loop":
            continue
        for figure in figures:
            values = [result[row][figure] for result in servers.values()]
            ratio = f"{values[-1] / values[0]:9.2f}" if len(values) > 1 and values[0] else ""
            print(f"{row + ' ' + figure:46}" + "".join(f"{value:14.2f}" for value in values) + ratio)
    for name, result in servers.items():
        for kind, rates in result.get("bare_loop", {}).items():
            print(f"{name}: bare loop, {kind}: " + ", ".join(f"{n}: {r:.1f}/s" for n, r in rates.items()))


if __name__ == "__main__":
    main()

"""Show what the largest bodies of every kind do to everybody else: ready on time, memory bounded.

    python -m benchmarks.large_bodies [--models demo/models] [--mib 1 20 100]

Sends each body alone while ready is polled, and prints the status, its seconds, the latest ready, and by how much the
server's memory grew beyond the body.
"""

import argparse
import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.load import poll_ready, send
from benchmarks.servers import memory, server

MIB = 2**20


_BODIES: dict[str, Callable[[int], bytes]] = {
    "one picture": lambda size: b'{"images": ["' + _base64_of_bmp(size) + b'"]}',
    "one picture in lines": lambda size: b'{"images": ["' + _in_lines(_base64_of_bmp(size * 76 // 78)) + b'"]}',
    "no picture": lambda size: b'{"images": ["' + b"\\/" * (size // 2) + b'"]}',
    "one text": lambda size: b'{"texts": ["' + b"word " * (size // 5) + b'"]}',
    "one text of emoji": lambda size: b'{"texts": ["' + "a😀".encode() * (size // 5) + b'"]}',
    "one text of escapes": lambda size: b'{"texts": ["' + b"\\ud83d\\ude00" * (size // 12) + b'"]}',
    # Each holds one emoji: decoded they take four times their bytes.
    "long texts": lambda size: _texts(b"%d \xf0\x9f\x98\x80 %b" % (n, b"x" * (size // 1000)) for n in range(900)),
    "short texts": lambda size: b'{"texts": [' + b'"a",' * (size // 4) + b'"a"]}',
    "equal texts": lambda size: _texts([b"a" * (size // 9_000)] * 9_000),
    "other values": lambda size: b'{"x": [' + b"1," * (size // 2) + b'1], "texts": ["a"]}',
    "deep values": lambda size: b'{"x": ' + b"[" * size,
    "blanks": lambda size: b" " * size + b'{"texts": ["a"]}',
    "one string without end": lambda size: b'{"texts": ["' + b"a" * size,
}
KINDS = tuple(_BODIES)


def make_body(kind: str, mib: int) -> bytes:
    """A body of one of KINDS, of so many MiB."""
    return _BODIES[kind](mib * MIB)


def _texts(texts: Iterable[bytes]) -> bytes:
    return b'{"texts": [' + b",".join(b'"%b"' % text for text in texts) + b"]}"


def _in_lines(data: bytes) -> bytes:
    return b"\\n".join(data[start : start + 76] for start in range(0, len(data), 76))


def _base64_of_bmp(size: int) -> bytes:
    """A picture that is as large as its pixels."""
    rows = max(1, size * 3 // 4 // (3 * 4000))
    buffer = io.BytesIO()
    Image.new("RGB", (4000, rows), "teal").save(buffer, "BMP")
    return base64.b64encode(buffer.getvalue())


@dataclass
class Effect:
    """What one body did: its answer, its seconds, the latest ready in milliseconds, MiB beyond its own bytes."""

    status: int
    seconds: float
    ready_ms: float
    ready_failed: int
    growth_mib: float


def effect_of(port: int, pid: int, body: bytes) -> Effect:
    """Send `body` while ready is polled."""

    async def ask() -> tuple[int, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**30)
        started = time.monotonic()
        status = await send(reader, writer, "POST /vectorize", body)
        writer.close()
        return status, time.monotonic() - started

    def watch() -> float:
        """The most anonymous memory that the server held, in MB."""
        most = 0.0
        while not over.wait(0.002):
            most = max(most, memory(pid)["rss_anon_mb"])
        return most

    async def both() -> tuple[int, float, float, int]:
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(None, lambda: asyncio.run(ask()))
        ready, failed = 0.0, 0
        while not asked.done():
            result = await poll_ready(port, 0.05, 0.02)
            ready, failed = max(ready, result.percentile(1)), failed + result.failed
        return (*await asked, ready, failed)

    over, before = threading.Event(), memory(pid)["rss_anon_mb"]
    with ThreadPoolExecutor(1) as pool:
        most = pool.submit(watch)
        try:
            status, seconds, ready, failed = asyncio.run(both())
        finally:
            over.set()
    return Effect(status, seconds, ready, failed, most.result() - before - len(body) / MIB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--mib", type=int, nargs="*", default=[1, 20, 100])
    options = parser.parse_args()
    with server("app", options.models, {}) as (port, pid, _):
        print(f"{'body':26}{'MiB':>5}{'status':>8}{'s':>8}{'ready ms':>10}{'late':>6}{'growth beyond MiB':>20}")
        for mib in options.mib:
            for kind in KINDS:
                it = effect_of(port, pid, make_body(kind, mib))
                print(
                    f"{kind:26}{mib:5}{it.status:8}{it.seconds:8.2f}{it.ready_ms:10.0f}{it.ready_failed:6}"
                    f"{it.growth_mib:20.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

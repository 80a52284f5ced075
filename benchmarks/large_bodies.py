"""Show what the largest bodies of every kind do to everybody else: ready on time, memory bounded.

    python -m benchmarks.large_bodies [--models demo/models] [--mib 1 20 100]

Sends each body alone while ready is polled, and prints the status, its seconds, the latest ready, and by how much the
server's memory grew beyond the body.
"""

import argparse
import asyncio
import base64
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import poll_ready, send
from benchmarks.servers import server

MIB = 2**20


def one_picture(size: int) -> bytes:
    """A BMP, which is as large as its pixels."""
    return b'{"images": ["' + _base64_of_bmp(size) + b'"]}'


def one_picture_in_lines(size: int) -> bytes:
    plain = _base64_of_bmp(size * 76 // 78)
    lines = b"\\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
    return b'{"images": ["' + lines + b'"]}'


def no_picture(size: int) -> bytes:
    return b'{"images": ["' + b"\\/" * (size // 2) + b'"]}'


def one_text(size: int) -> bytes:
    return b'{"texts": ["' + b"word " * (size // 5) + b'"]}'


def one_text_of_emoji(size: int) -> bytes:
    return b'{"texts": ["' + "a😀".encode() * (size // 5) + b'"]}'


def one_text_of_escapes(size: int) -> bytes:
    return b'{"texts": ["' + b"\\ud83d\\ude00" * (size // 12) + b'"]}'


def long_texts(size: int) -> bytes:
    """Each holds one emoji: decoded they take four times their bytes."""
    each = size // 1000
    return b'{"texts": [' + b",".join(b'"%d \xf0\x9f\x98\x80 %b"' % (n, b"x" * each) for n in range(900)) + b"]}"


def short_texts(size: int) -> bytes:
    """Nine million of them in 34 MiB."""
    return b'{"texts": [' + b'"a",' * (size // 4) + b'"a"]}'


def equal_texts(size: int) -> bytes:
    return b'{"texts": [' + b",".join([b'"%b"' % (b"a" * (size // 9_000))] * 9_000) + b"]}"


def other_values(size: int) -> bytes:
    return b'{"x": [' + b"1," * (size // 2) + b'1], "texts": ["a"]}'


def deep_values(size: int) -> bytes:
    return b'{"x": ' + b"[" * size


def blanks(size: int) -> bytes:
    return b" " * size + b'{"texts": ["a"]}'


def one_string_without_end(size: int) -> bytes:
    return b'{"texts": ["' + b"a" * size


KINDS: tuple[Callable[[int], bytes], ...] = (
    one_picture,
    one_picture_in_lines,
    no_picture,
    one_text,
    one_text_of_emoji,
    one_text_of_escapes,
    long_texts,
    short_texts,
    equal_texts,
    other_values,
    deep_values,
    blanks,
    one_string_without_end,
)


@dataclass
class Effect:
    """What one body did: its answer, its seconds, the latest ready in milliseconds, MiB beyond its own bytes."""

    status: int
    seconds: float
    ready_ms: float
    ready_failed: int
    growth_mib: float


def _base64_of_bmp(size: int) -> bytes:
    rows = max(1, size * 3 // 4 // (3 * 4000))
    pixels = b"\x10\x80\xf0" * 4000 * rows
    head = b"BM" + (54 + len(pixels)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = (40).to_bytes(4, "little") + (4000).to_bytes(4, "little") + rows.to_bytes(4, "little")
    info += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    return base64.b64encode(head + info + pixels)


class _Memory(threading.Thread):
    """Watches the anonymous memory of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.first = self.most = self._now()

    def _now(self) -> float:
        found = re.search(r"RssAnon:\s+(\d+) kB", self._status.read_text(encoding="utf-8"))
        assert found
        return int(found[1]) / 1024

    def run(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self._now())

    def stop(self) -> None:
        self._over.set()
        self.join()


def effect_of(port: int, pid: int, body: bytes) -> Effect:
    """Send `body` while ready is polled."""

    async def ask() -> tuple[int, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**30)
        started = time.monotonic()
        status = await send(reader, writer, "POST /vectorize", body)
        writer.close()
        return status, time.monotonic() - started

    async def both() -> tuple[int, float, float, int]:
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(None, lambda: asyncio.run(ask()))
        ready, failed = 0.0, 0
        while not asked.done():
            result = await poll_ready(port, 0.05, 0.02)
            ready, failed = max(ready, result.percentile(1)), failed + result.failed
        return (*await asked, ready, failed)

    memory = _Memory(pid)
    memory.start()
    try:
        status, seconds, ready, failed = asyncio.run(both())
    finally:
        memory.stop()
    return Effect(status, seconds, ready, failed, memory.most - memory.first - len(body) / MIB)


def bodies(mib: int) -> Iterator[tuple[str, bytes]]:
    """A body of each kind."""
    for kind in KINDS:
        yield kind.__name__, kind(mib * MIB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--mib", type=int, nargs="*", default=[1, 20, 100])
    options = parser.parse_args()
    with server("app", options.models, {}) as (port, pid, _):
        print(f"{'body':26}{'MiB':>5}{'status':>8}{'s':>8}{'ready ms':>10}{'late':>6}{'growth beyond MiB':>20}")
        for mib in options.mib:
            for name, body in bodies(mib):
                it = effect_of(port, pid, body)
                print(
                    f"{name:26}{mib:5}{it.status:8}{it.seconds:8.2f}{it.ready_ms:10.0f}{it.ready_failed:6}"
                    f"{it.growth_mib:20.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""A closed-loop load generator: each connection sends its next request when the last is answered."""

import asyncio
import base64
import io
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

WORDS = (
    "red blue green old young wooden metal small large round river mountain street city house garden table chair "
    "dog cat horse bird child woman man crowd market bridge train bicycle boat airplane snow rain sunset night "
    "morning forest desert beach kitchen window door painting statue flower apple bread coffee guitar"
).split()

_LARGE = 2**16


@dataclass
class Result:
    """Latencies in seconds of the answers with status 200, and the count of all other answers."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Latency in milliseconds."""
        ranked = sorted(self.latencies) or [float("nan")]
        return 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def image_bodies(count: int = 64) -> Iterator[bytes]:
    """Bodies with one 800x600 JPEG of about 119 kB each."""
    return picture_bodies(800, 600, count)


def picture_bodies(width: int, height: int, count: int, seed: int = 1) -> Iterator[bytes]:
    """Bodies with one JPEG each; four characters after the picture's end make each unique."""
    rng = random.Random(seed)
    small = (width // 10, height // 10)
    pictures = []
    for _ in range(count):
        noise = Image.frombytes("RGB", small, rng.randbytes(small[0] * small[1] * 3))
        buffer = io.BytesIO()
        noise.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
        data = buffer.getvalue()
        pictures.append(base64.b64encode(data + bytes(-len(data) % 3)))
    for number, picture in enumerate(itertools.cycle(pictures)):
        yield b'{"images": ["%s%04x"]}' % (picture, number % 65536)


def text_bodies(seed: int = 2) -> Iterator[bytes]:
    """Bodies with one text each: 7 to 15 words and four digits, so that later ones are no longer than the first."""
    rng = random.Random(seed)
    for number in itertools.count():
        words = " ".join(rng.choices(WORDS, k=rng.randint(4, 12)))
        yield json.dumps({"texts": [f"a photo of {words} {number % 10_000:04}"]}).encode()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: bytes, headers: str = ""
) -> tuple[int, bytes]:
    """Send one request on an open connection and read its answer: status and body."""
    headers += f"Host: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    start = f"{head} HTTP/1.1\r\n{headers}\r\n\r\n".encode()
    if len(body) < _LARGE:
        writer.write(start + body)
    else:  # the copy would take longer than one more packet
        writer.write(start)
        writer.write(body)
    await writer.drain()
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(answer.partition("content-length:")[2].partition("\r\n")[0] or 0)
    return int(answer.split()[1]), await reader.readexactly(length)


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: bytes) -> int:
    """Send one request on an open connection and read its answer; the status."""
    return (await ask(reader, writer, head, body))[0]


async def load(
    port: int,
    bodies: Iterator[bytes],
    connections: int,
    seconds: float,
    warm_up: float = 1.0,
) -> Result:
    """Load POST /vectorize for `seconds`, after `warm_up` seconds that do not count."""
    begin = time.monotonic() + warm_up
    end = begin + seconds
    result = Result(seconds)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.monotonic()) < end:
            status = await send(reader, writer, "POST /vectorize", next(bodies))
            now = time.monotonic()
            if status != 200:
                result.failed += 1
            elif begin <= now <= end:
                result.latencies.append(now - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return result


async def poll_ready(port: int, seconds: float, interval: float = 0.05) -> Result:
    """GET ready every `interval` seconds, each on a new connection, as an orchestrator does."""
    end = time.monotonic() + seconds
    result = Result(seconds)
    while (started := time.monotonic()) < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status = await send(reader, writer, "GET /.well-known/ready", b"")
        writer.close()
        if status == 204:
            result.latencies.append(time.monotonic() - started)
        else:
            result.failed += 1
        await asyncio.sleep(interval)
    return result

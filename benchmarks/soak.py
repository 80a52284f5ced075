"""Show that memory stays flat: many requests of random sizes and lengths against one server.

    python -m benchmarks.soak [--models demo/models] [--requests 10000] [--connections 16]

Prints the server's memory after each tenth of the requests.
"""

import argparse
import asyncio
import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.bench import memory, server
from benchmarks.load import WORDS, send


def bodies(count: int, most_items: int) -> Iterator[bytes]:
    """Requests of 0 to `most_items` texts of 1 to 90 words and a few pictures of 1 to 900 pixels a side."""
    rng = random.Random(5)
    for _ in range(count):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 90))) for _ in range(rng.randint(0, most_items))]
        images = []
        for _ in range(rng.randint(0, max(1, most_items // 4))):
            buffer = io.BytesIO()
            colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
            Image.new("RGB", (rng.randint(1, 900), rng.randint(1, 900)), colour).save(buffer, "JPEG")
            images.append(base64.b64encode(buffer.getvalue()).decode())
        yield json.dumps({"texts": texts, "images": images}).encode()


async def run(port: int, requests: Iterator[bytes], connections: int) -> None:
    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in requests:
            if (status := await send(reader, writer, "POST /vectorize", body)) != 200:
                raise RuntimeError(f"status {status}")
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--most-items", type=int, default=20, help="most texts in a request")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    requests = bodies(options.requests, options.most_items)
    with server("app", options.models, {}) as (port, pid, _):
        print(f"{'requests':>9} {'RSS MB':>9} {'anonymous MB':>13}")
        for part in range(11):
            figures = memory(pid)
            print(
                f"{part * options.requests // 10:9} {figures['rss_mb']:9.1f} {figures['rss_anon_mb']:13.1f}",
                flush=True,
            )
            some = (body for body, _ in zip(requests, range(options.requests // 10), strict=False))
            asyncio.run(run(port, some, options.connections))


if __name__ == "__main__":
    main()

"""Memory is bounded whatever the number and size of requests."""

import asyncio
import base64
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.load import send
from benchmarks.servers import memory, processes
from benchmarks.soak import random_picture, random_text
from tests.support.server import process_of


def peak_mb(pid: int) -> float:
    """The most memory that each process of a server has held."""
    peaks = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text()) for each in processes(pid)]
    return sum(int(found[1]) for found in peaks if found) / 1024


def test_large_pictures_in_flight_are_not_all_decoded(serve: Callable[..., str], tiny_models: Path) -> None:
    """Each picture takes 18 MB once decoded; 64 of them at once would take 1.1 GB."""
    url = serve(tiny_models, measured=True, ENGINE="openvino", THREADS="2")
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2000), "teal").save(buffer, "PNG")
    payload = {"images": [base64.b64encode(buffer.getvalue()).decode()]}

    def ask(_: int) -> int:
        return httpx.post(f"{url}/vectorize", json=payload, timeout=300).status_code

    ask(0)
    before = peak_mb(process_of(url).pid)
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(ask, range(64))) == {200}
    assert peak_mb(process_of(url).pid) - before < 300


def test_a_request_of_many_items_is_computed_in_parts(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, measured=True, ENGINE="torch")
    buffer = io.BytesIO()
    images = []
    for n in range(300):
        buffer = io.BytesIO()
        Image.new("RGB", (400, 300), (n % 256, n // 256, 7)).save(buffer, "PNG")
        images.append(base64.b64encode(buffer.getvalue()).decode())
    texts = [f"text number {n} " + "word " * (n % 50) for n in range(2000)]
    httpx.post(f"{url}/vectorize", json={"texts": texts[:10], "images": images[:10]}, timeout=60)
    before = peak_mb(process_of(url).pid)
    got = httpx.post(f"{url}/vectorize", json={"texts": texts, "images": images}, timeout=300).json()
    assert (len(got["textVectors"]), len(got["imageVectors"])) == (2000, 300)
    assert peak_mb(process_of(url).pid) - before < 300


def bodies(seed: int, count: int, most_items: int) -> Iterator[bytes]:
    """Requests of 0 to `most_items` texts of 1 to 90 words and a few pictures of 1 to 900 pixels a side."""
    rng = random.Random(seed)
    for _ in range(count):
        texts = [random_text(rng) for _ in range(rng.randint(0, most_items))]
        images = [random_picture(rng) for _ in range(rng.randint(0, max(1, most_items // 4)))]
        yield json.dumps({"texts": texts, "images": images}).encode()


async def run(port: int, requests: Iterator[bytes], connections: int) -> None:
    """Send all `requests`; raises RuntimeError at an answer that is not 200."""

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in requests:
            if (status := await send(reader, writer, "POST /vectorize", body)) != 200:
                raise RuntimeError(f"status {status}")
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))


def test_memory_is_flat_over_many_sizes_and_lengths(serve: Callable[..., str]) -> None:
    """Of requests of random sizes and lengths the last ones add next to nothing, sooner or later."""
    url = serve(Path("demo/models"), measured=True)
    pid, port = process_of(url).pid, int(url.rpartition(":")[2])
    seen: list[float] = []
    for seed in range(8):  # it depends on what meets in the heap, and goes up and down by some
        asyncio.run(run(port, bodies(seed, 500, most_items=6), connections=16))
        seen.append(memory(pid)["rss_anon_mb"])
        if seed >= 3 and seen[-1] - max(seen[:-1]) < 7:
            break
    assert seen[-1] - max(seen[:-1]) < 7, seen

"""What clients get who leave before the queue reaches them, beside patient ones.

    python -m benchmarks.overload [--models DIR] [--seconds 20] [--requests pictures texts both]

Each client sends one request after another and closes the connection after a second, where Weaviate does after 50;
the server is told so (CLIENT_TIMEOUT=1). Prints answers a second to patient clients (as many, of a server that is
told so), to impatient ones, and the ratio: a server that works for those who have left answers few. The device takes
70 ms for a picture and 7 ms for a text (benchmarks/timed_engine.py), so that the figures do not depend on what else
the machine does; with --models it is that model.
"""

import argparse
import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import image_bodies, send, text_bodies
from benchmarks.servers import server

CLIENTS = (24, 48, 16)
PATIENCE = {"patient": 600.0, "impatient": 1.0}
DEVICE = {"IMAGE_SECONDS": "0.07", "TEXT_SECONDS": "0.007"}


@dataclass
class Count:
    """Requests by how they ended, within the time measured."""

    answered: int = 0
    left: int = 0
    refused: int = 0


def bodies(kind: str) -> Iterator[bytes]:
    """One picture each, some ten texts each (about as dear), or both."""
    images = image_bodies()
    texts = (json.loads(body)["texts"][0] for body in text_bodies())
    for image in images:
        several = list(itertools.islice(texts, 10))
        if kind == "pictures":
            yield image
        elif kind == "texts":
            yield json.dumps({"texts": several}).encode()
        else:
            yield json.dumps({"images": json.loads(image)["images"], "texts": several[:1]}).encode()


async def crowd(port: int, requests: Iterator[bytes], clients: int, patience: float, seconds: float) -> Count:
    """So many clients for `seconds`, after a fifth of that which does not count."""
    loop = asyncio.get_running_loop()
    begin = loop.time() + seconds / 5
    end = begin + seconds
    count = Count()

    async def client() -> None:
        while loop.time() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while loop.time() < end:
                    async with asyncio.timeout(min(patience, end + 0.5 - loop.time())):
                        status = await send(reader, writer, "POST /vectorize", next(requests))
                    if begin <= loop.time() <= end:
                        count.answered += status == 200
                        count.refused += status != 200
            except TimeoutError:
                count.left += begin <= loop.time() <= end
            finally:
                writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    parser.add_argument("--requests", nargs="*", choices=["pictures", "texts", "both"])
    options = parser.parse_args()
    module, models = ("app", options.models) if options.models else ("benchmarks.timed_engine", Path("demo/models"))
    print(f"{'':21}{'patient/s':>10}{'impatient/s':>12}{'left':>6}{'refused':>8}{'ratio':>6}")
    for kind in options.requests or ["pictures", "texts", "both"]:
        requests = bodies(kind)
        for clients in CLIENTS:
            counts = {}
            for name, patience in PATIENCE.items():
                with server(module, models, {**DEVICE, "CLIENT_TIMEOUT": str(patience)}) as (port, _, _):
                    counts[name] = asyncio.run(crowd(port, requests, clients, patience, options.seconds))
            patient, hasty = counts.values()
            print(
                f"{kind:9}{clients:4} clients{patient.answered / options.seconds:10.1f}"
                f"{hasty.answered / options.seconds:12.1f}{hasty.left:6}{hasty.refused:8}"
                f"{hasty.answered / max(1, patient.answered):6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

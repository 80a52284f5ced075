"""Broken bodies, texts and pictures by the hundred thousand: no crash, no hang, no 5xx, and JSON always.

    python -m benchmarks.fuzz [--models demo/models] [--requests 100000] [--seed 1] [--connections 16]

Prints how many got which status; the exit status is 1, and each culprit printed, if anything was wrong.
"""

import argparse
import asyncio
import base64
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks.broken import mutate, samples
from benchmarks.load import WORDS, ask
from benchmarks.servers import server

# An answer that takes longer counts as a hang.
PATIENCE = 120.0
_RANGES = (
    (0, 0x7F),
    (0x80, 0x2FF),
    (0x300, 0x36F),
    (0x590, 0x6FF),
    (0x2000, 0x206F),
    (0x4E00, 0x9FFF),
    (0xD800, 0xDFFF),
    (0xE000, 0xF8FF),
    (0xFE00, 0xFFFF),
    (0x1F300, 0x1FAFF),
    (0xE0000, 0xE007F),
    (0x10FF00, 0x10FFFF),
)


def broken_body(rng: random.Random) -> bytes:
    """JSON with some bytes replaced, cut or doubled."""
    return mutate(rng, _body(rng), _body(rng))


def odd_text(rng: random.Random) -> bytes:
    """Texts of any code points, words, repetitions and lengths, half pairs included."""
    texts = []
    for _ in range(rng.randint(1, 4)):
        low, high = rng.choice(_RANGES)
        some = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(0, 60)))
        texts.append(
            rng.choice((some, some * rng.randint(1, 50), _words(rng) + some, some[:1] * rng.randint(1, 5000)))
        )
    return json.dumps({"texts": texts}).encode()


def broken_picture(rng: random.Random) -> bytes:
    """A small picture with some bytes replaced, cut or doubled; at times its base64 too."""
    picture, other = rng.choices(list(samples().values()), k=2)
    data = base64.b64encode(mutate(rng, picture, other))
    if rng.random() < 0.1:
        data = mutate(rng, data, picture)
    return json.dumps({"images": [data.decode("latin-1")]}).encode()


def broken_gzip(rng: random.Random) -> bytes:
    """A gzip body with some bytes replaced, cut or doubled."""
    one, other = (gzip.compress(_body(rng), 1) for _ in range(2))
    return mutate(rng, one, other)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (broken_body, odd_text, broken_picture, broken_gzip)


def _words(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, 12)))


def _body(rng: random.Random) -> bytes:
    document = {
        "texts": [_words(rng)] * rng.randint(0, 3),
        "images": [],
        "x": rng.choice((None, [1.5, {"a": "é"}], "😀")),
    }
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()


@dataclass
class Found:
    """Answers by kind and status, and what should not have happened."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def fuzz(port: int, requests: int, seed: int, connections: int) -> Found:
    """Send `requests` broken requests, the kinds in turn."""
    found, numbers = Found(), iter(range(requests))

    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            kind = KINDS[number % len(KINDS)]
            body = kind(random.Random(f"{seed} {number}"))
            headers = "Content-Encoding: gzip\r\n" if kind is broken_gzip else ""
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout(PATIENCE):
                    status, answer = await ask(*connection, "POST /vectorize", body, headers)
                document = orjson.loads(answer)
                right = status == 200 or (400 <= status < 500 and isinstance(document["error"], str))
                found.answers[kind.__name__, status] += 1
                if not right:
                    found.wrong.append(f"{kind.__name__} {number}: {status} {answer[:200]!r}")
                if status in (400, 413, 415):
                    connection = None  # closed by the server
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                found.wrong.append(f"{kind.__name__} {number}: {error!r}")
                connection = None

    await asyncio.gather(*(client() for _ in range(connections)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with server("app", options.models, {}) as (port, _, _):
        found = asyncio.run(fuzz(port, options.requests, options.seed, options.connections))
    for (kind, status), count in sorted(found.answers.items()):
        print(f"{kind:16}{status:5}{count:9}")
    print(f"{sum(found.answers.values())} answers, {len(found.wrong)} wrong")
    print("\n".join(found.wrong[:50]))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

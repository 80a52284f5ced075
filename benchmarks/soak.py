"""Load of every kind for hours: every answer right, none lost, memory, threads and files flat, ready on time.

    python -m benchmarks.soak [--models demo/models] [--seconds 900] [--clients 64] [--output benchmarks/soak.json]
    python -m benchmarks.soak --workers 3 --kill-every 20

Each client sends requests of 1 to 120 texts and pictures; 5 of 100 requests hold a bad item, and in 10 of 100 the
client leaves at a random moment. Each vector is compared with that of the item alone, asked for before. With
--kill-every a front process is killed again and again; only requests on its own connections may be lost then. Writes
the figures to OUTPUT; the exit status is 1 if anything was wrong.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from PIL import Image

from benchmarks.load import WORDS, ask, poll_ready
from benchmarks.servers import fronts, memory, ports_of_clients, processes, server

BAD_SHARE, LEAVING_SHARE = 0.05, 0.1
READY_MS = 500.0
# An answer that takes longer counts as lost.
PATIENCE = 120.0
# A connection so young may be on its way to a front when that is killed.
_YOUNG = 0.5
_BAD = {
    "texts": ['"\\ud800"', "1", "null", '"\x01"'],
    "images": ['""', '"!!!"', '"aGVsbG8="', '"https://example.com/a.png"', '"iVBORw0KGgoAAAANSUhEUgAA"', "{}"],
}


def random_text(rng: random.Random) -> str:
    """1 to 90 words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 90)))


def random_picture(rng: random.Random) -> str:
    """Base64 of a picture of 1 to 900 pixels a side."""
    buffer = io.BytesIO()
    colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    image = Image.new("RGB", (rng.randint(1, 900), rng.randint(1, 900)), colour)
    image.save(buffer, rng.choice(("JPEG", "PNG", "WEBP")))
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Findings:
    """What was answered, and what was wrong with it."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


@dataclass
class Sample:
    """The server at a moment."""

    second: float
    rss_anon_mb: float
    threads: int
    files: int
    ready_ms: float


class Soak:
    """Clients of one server, and the items that they send with the vector of each alone."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid
        self.findings = Findings()
        self.samples: list[Sample] = []
        self.processes: set[int] = set()
        self._killed_at = 0.0
        self._killed_ports: set[int] = set()
        rng = random.Random(7)
        self._items = {
            "texts": [random_text(rng) for _ in range(300)],
            "images": [random_picture(rng) for _ in range(100)],
        }
        self._alone: dict[str, list[npt.NDArray[np.float64]]] = {}

    async def run(self, seconds: float, clients: int, kill_every: float = 0) -> None:
        for kind, items in self._items.items():
            self._alone[kind] = [await self._vector_alone(kind, item) for item in items]
        end = time.monotonic() + seconds
        watching = asyncio.create_task(self._watch(end))
        killing = asyncio.create_task(self._kill(kill_every, end)) if kill_every else None
        await asyncio.gather(*(self._client(random.Random(n), end) for n in range(clients)))
        await watching
        if killing is not None:
            await killing
        await asyncio.sleep(2)  # those who left are forgotten by now
        self.samples.append(await self._sample(seconds + 2))

    async def _vector_alone(self, kind: str, item: str) -> npt.NDArray[np.float64]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        _, answer = await ask(reader, writer, "POST /vectorize", orjson.dumps({kind: [item]}))
        writer.close()
        return np.array(orjson.loads(answer)["textVectors" if kind == "texts" else "imageVectors"][0])

    async def _client(self, rng: random.Random, end: float) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        opened = 0.0
        while time.monotonic() < end:
            chosen = self._choose(rng)
            body, bad = self._body(rng, chosen)
            if connection is None:
                connection, opened = await asyncio.open_connection("127.0.0.1", self.port), time.monotonic()
            port = connection[1].get_extra_info("sockname")[1]
            try:
                if rng.random() < LEAVING_SHARE:
                    await self._leave(rng, connection[1], body)
                    connection = None
                    continue
                started = time.monotonic()
                async with asyncio.timeout(PATIENCE):
                    status, answer = await ask(*connection, "POST /vectorize", body)
                self.findings.latencies.append(time.monotonic() - started)
                self.findings.answers[str(status)] += 1
                if wrong := self._judge(status, answer, chosen, bad):
                    self.findings.wrong.append(wrong)
            except (OSError, EOFError, TimeoutError) as error:
                if port in self._killed_ports or 0 < self._killed_at - opened < _YOUNG:
                    self.findings.answers["killed"] += 1
                else:
                    self.findings.wrong.append(f"lost: {error!r}")
                connection = None

    def _choose(self, rng: random.Random) -> dict[str, list[int]]:
        most = rng.choices((1, 8, 30, 120), (60, 25, 12, 3))[0]
        texts = rng.randint(0, most)
        counts = {"texts": texts, "images": rng.randint(0 if texts else 1, max(1, most // 4))}
        return {kind: rng.choices(range(len(self._items[kind])), k=count) for kind, count in counts.items()}

    def _body(self, rng: random.Random, chosen: dict[str, list[int]]) -> tuple[bytes, str]:
        """The body, and the name of its bad item, if it has one."""
        items = {kind: [json.dumps(self._items[kind][index]) for index in chosen[kind]] for kind in chosen}
        name = ""
        if rng.random() < BAD_SHARE:
            kind = rng.choice([kind for kind in items if items[kind]])
            at = rng.randrange(len(items[kind]))
            items[kind][at] = rng.choice(_BAD[kind])
            name = f"{kind}[{at}]"
        return f'{{"texts": [{", ".join(items["texts"])}], "images": [{", ".join(items["images"])}]}}'.encode(), name

    async def _leave(self, rng: random.Random, writer: asyncio.StreamWriter, body: bytes) -> None:
        head = f"POST /vectorize HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        data = head + body
        writer.write(data if rng.random() < 0.6 else data[: rng.randrange(len(data))])
        await asyncio.sleep(rng.random() * rng.choice((0.01, 0.1, 1)))
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()
        self.findings.answers["left"] += 1

    def _judge(self, status: int, answer: bytes, chosen: dict[str, list[int]], bad: str) -> str:
        """What is wrong with an answer; empty if nothing is."""
        document = orjson.loads(answer)
        if bad:
            right = status == 422 and document["error"].startswith(bad)
            return "" if right else f"{bad}: {status} {answer[:200]!r}"
        if status != 200:
            return f"{status} {answer[:200]!r}"
        for kind, key in (("texts", "textVectors"), ("images", "imageVectors")):
            if len(document[key]) != len(chosen[kind]):
                return f"{len(document[key])} {key} for {len(chosen[kind])} {kind}"
            for index, row in zip(chosen[kind], document[key], strict=True):
                alone, got = self._alone[kind][index], np.array(row)
                lengths = float(np.linalg.norm(alone)), float(np.linalg.norm(got))
                if alone @ got < 0.9999 * lengths[0] * lengths[1] or abs(lengths[0] - lengths[1]) > 1e-3 * lengths[0]:
                    return f"{kind}[{index}]: another vector than alone"
        return ""

    async def _kill(self, every: float, end: float) -> None:
        """Kill one front process after the other, and note whose connections end with it."""
        rng = random.Random(3)
        while time.monotonic() + every < end:
            await asyncio.sleep(every)
            front = rng.choice(fronts(self.pid))
            os.kill(front, signal.SIGSTOP)
            self._killed_ports, self._killed_at = ports_of_clients(front), time.monotonic()
            os.kill(front, signal.SIGKILL)
            self.findings.answers["kills"] += 1

    async def _watch(self, end: float) -> None:
        started = time.monotonic()
        while time.monotonic() < end:
            self.samples.append(await self._sample(time.monotonic() - started))

    async def _sample(self, second: float) -> Sample:
        # The ready polls run on a loop of their own: this one is busy with clients.
        try:
            ready = await asyncio.to_thread(lambda: asyncio.run(poll_ready(self.port, 0.9, 0.1)))
        except (OSError, EOFError):
            if time.monotonic() - self._killed_at > 2:  # else it was a connection of that front
                raise
            return await self._sample(second)
        late = float("inf") if ready.failed else ready.percentile(1)
        alive = processes(self.pid)
        self.processes |= {*alive}
        threads, files = (sum(entries(pid, name) for pid in alive) for name in ("task", "fd"))
        return Sample(second, memory(self.pid)["rss_anon_mb"], threads, files, late)


def entries(pid: int, name: str) -> int:
    """How many a folder of a process has; 0 once that has ended."""
    with suppress(FileNotFoundError):
        return len(os.listdir(f"/proc/{pid}/{name}"))
    return 0


def report(soak: Soak, seconds: float, workers: int) -> dict[str, Any]:
    """Figures, and under `problems` what was not as it should be."""
    findings, samples = soak.findings, soak.samples
    quarter = max(1, len(samples) // 4)
    early, late = (
        statistics.median(sample.rss_anon_mb for sample in part)
        for part in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    ready = max(sample.ready_ms for sample in samples)
    latencies = sorted(findings.latencies)
    problems = findings.wrong[:20]
    if late - early > 0.05 * early:
        problems.append(f"memory grew from {early:.0f} to {late:.0f} MB")
    if ready > READY_MS:
        problems.append(f"ready took {ready:.0f} ms")
    for name in ("threads", "files"):
        first, last = getattr(samples[0], name), getattr(samples[-1], name)
        if last > first + (2 * workers if name == "threads" else 0):
            problems.append(f"{name}: {first} at first, {last} at last")
    return {
        "seconds": seconds,
        "answers": dict(findings.answers),
        "wrong_or_lost": len(findings.wrong),
        "latency_ms": {str(share): 1000 * latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99, 1)},
        "memory_mb": {"second_quarter": early, "last_quarter": late, "most": max(s.rss_anon_mb for s in samples)},
        "ready_ms": {"p50": statistics.median(s.ready_ms for s in samples), "most": ready},
        "problems": problems,
        "samples": [vars(sample) for sample in samples],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/soak.json"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=0, help="seconds between the ends of front processes")
    options = parser.parse_args()
    # A cache for some of the items: what is computed and what is remembered are both looked at.
    env = {"VECTOR_CACHE_BYTES": "50000", "WORKERS": str(options.workers)}
    with server("app", options.models, env) as (port, pid, _):
        soak = Soak(port, pid)
        asyncio.run(soak.run(options.seconds, options.clients, options.kill_every))
    figures = report(soak, options.seconds, options.workers)
    if orphans := [pid for pid in soak.processes if Path(f"/proc/{pid}").exists()]:
        figures["problems"].append(f"processes that outlive the server: {orphans}")
    options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in figures.items() if name != "samples"}, indent=1))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

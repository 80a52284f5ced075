"""What the server can do without the model: the engine is replaced by one that takes no time.

    python -m benchmarks.ceiling [--models demo/models] [--seconds 4] [--rounds 5] [--connections 64]

On a GPU the model is so fast that this decides. Prints texts a second at 16 connections and at 1, beside a plain
FastAPI route that parses and answers the same (benchmarks/plain_route.py): medians of rounds in which the two take
turns. Then both are held on one CPU: to wake a thread on another one, twice a batch, takes a virtual machine as long
as half of our work for one text. Then pictures a second by size, exact and with FAST_IMAGES. The load comes from wrk
(apt-get install wrk), for a client in Python takes more of the cores than the server.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.load import picture_bodies, text_bodies
from benchmarks.servers import server

SIZES = ((320, 240), (800, 600), (4000, 3000))
TEXT_CONNECTIONS = (16, 1)


def by_wrk(port: int, bodies: Iterable[bytes], connections: int, seconds: float) -> dict[str, float]:
    """Answers per second and the like, after a second that does not count."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bodies"
        file.write_bytes(b"\n".join(bodies))
        script = Path(__file__).with_name("post.lua")
        for duration in (1, max(1, round(seconds))):
            command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "60s", "-s", str(script)]
            output = subprocess.run(
                [*command, f"http://127.0.0.1:{port}/"],
                env={**os.environ, "BODIES": str(file)},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def hold_on(cpus: set[int], pid: int) -> None:
    """Let the threads of a process run on these CPUs alone."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def texts(ports: dict[str, int], seconds: float, rounds: int, where: str = "") -> None:
    """Texts a second of the two servers, ours first, and the ratio of each round."""
    bodies = list(islice(text_bodies(), 20_000))
    for connections in TEXT_CONNECTIONS:
        rates: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(rounds):
            for name, port in ports.items():
                got = by_wrk(port, bodies, connections, seconds)
                if got["failed"]:
                    raise RuntimeError(f"{name}: {got['failed']:.0f} requests failed")
                rates[name].append(got["per_second"])
        ratio = median(ours / plain for ours, plain in zip(*rates.values(), strict=True))
        shown = ", ".join(f"{name} {median(values):.0f}/s" for name, values in rates.items())
        print(f"texts, {connections} connections{where}: {shown}, ratio {ratio:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of the texts beside the plain route")
    parser.add_argument("--connections", type=int, default=64, help="of the pictures")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs")
    for fast in ("0", "1"):
        with server("benchmarks.timed_engine", options.models, {"FAST_IMAGES": fast}) as (port, ours, _):
            if fast == "0":
                with server("benchmarks.plain_route", options.models, {}) as (plain_port, plain, _):
                    ports, cpus = {"ours": port, "plain route": plain_port}, os.sched_getaffinity(0)
                    texts(ports, options.seconds, options.rounds)
                    hold_on({min(cpus)}, plain)
                    hold_on({min(cpus)}, ours)
                    texts(ports, options.seconds, options.rounds, where=", on one CPU")
                    hold_on(cpus, ours)
            for width, height in SIZES:
                pictures = islice(picture_bodies(width, height, 16), 16)
                got = by_wrk(port, pictures, options.connections, options.seconds)
                print(
                    f"pictures {width}x{height}, {options.connections} connections, FAST_IMAGES={fast}: "
                    f"{got['per_second']:.1f}/s, p99 {got['p99_ms']:.0f} ms, failed {got['failed']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

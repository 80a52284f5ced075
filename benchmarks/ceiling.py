"""What the server can do without the model: the engine is replaced by one that takes no time.

    python -m benchmarks.ceiling [--models demo/models] [--seconds 4] [--connections 64]

On a GPU the model is so fast that this decides. The load comes from wrk (apt-get install wrk), for a client in Python
takes more of the cores than the server. Prints texts and pictures a second by size of picture, exact and
with FAST_IMAGES. Rows come from a hash of the inputs, so each answer is still of its own request.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from app.models.load import load_model
from app.settings import Settings, load_settings
from app.towers import BatchLimits, Inputs, LoadedModel, Tower, Vectors
from benchmarks.load import picture_bodies, text_bodies
from benchmarks.servers import server

SIZES = ((320, 240), (800, 600), (4000, 3000))
_WIDTH = 512


class NoTime:
    """An inference session that only looks at its inputs."""

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        first = next(iter(batch.values()))
        sums = first.reshape(len(first), -1).sum(axis=1, dtype=np.float64) % 1000
        rows = np.repeat(sums[:, None], _WIDTH, axis=1).astype(np.float32)
        return lambda: rows


def without_engine(settings: Settings) -> LoadedModel:
    """The processors of the real model around an engine that takes no time."""
    model = load_model(settings)
    limits = BatchLimits(64, 64 * 64)
    text, image = (Tower(each.processor, NoTime(), limits, each.padding) for each in (model.text, model.image))
    return LoadedModel(text, image, _WIDTH, model.meta, "no engine")


def serve() -> None:
    """What the process of the server runs."""
    from app.main import create_app
    from app.server import make_server, use_one_heap
    from app.sockets import listen

    use_one_heap()
    settings = load_settings()
    make_server(create_app(settings, load=without_engine)).run(listen(settings.host, settings.port))


def by_wrk(port: int, bodies: Iterator[bytes], connections: int, seconds: float) -> dict[str, float]:
    """Answers per second and the like, after two seconds that do not count."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bodies"
        file.write_bytes(b"\n".join(bodies))
        script = Path(__file__).with_name("post.lua")
        for duration in (2, max(1, round(seconds))):
            command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "60s", "-s", str(script)]
            output = subprocess.run(
                [*command, f"http://127.0.0.1:{port}/"],
                env={**os.environ, "BODIES": str(file)},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {options.connections} connections, items a second")

    def measured(name: str, bodies: Iterator[bytes], port: int) -> None:
        got = by_wrk(port, bodies, options.connections, options.seconds)
        print(f"{name:24}{got['per_second']:10.1f}   p99 {got['p99_ms']:.0f} ms, failed {got['failed']}", flush=True)

    for fast in ("0", "1"):
        env = {"VECTOR_CACHE_BYTES": "0", "FAST_IMAGES": fast}
        with server("benchmarks.ceiling_server", options.models, env) as (port, _, _):
            print("fast" if fast == "1" else "exact")
            if fast == "0":
                measured("  texts", islice(text_bodies(), 20_000), port)
            for width, height in SIZES:
                measured(f"  pictures {width}x{height}", islice(picture_bodies(width, height, 16), 16), port)


if __name__ == "__main__":
    main()

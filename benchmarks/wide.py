"""What several processes (WORKERS) bring, and how far they carry: no GPU is needed.

    python -m benchmarks.wide [--models demo/models] [--rounds 5] [--seconds 4] [--batch-ms 0] [--connections 16]
    python -m benchmarks.wide --real-engine

The engine is replaced by one that takes a given time a batch (benchmarks/timed_engine.py), so that all else decides,
unless --real-engine asks for the model's own.
In each round take turns: preparing alone in two processes (benchmarks/plain_prepare.py), the server in one process,
and the server with two that take requests. Pictures of 800x600, then texts, from connections of wrk (apt-get
install wrk).

Prints medians of items a second and their ratio to preparing alone. Then CPU milliseconds an item of each process and
of the busiest thread of the one that computes: that thread serves all others, so it is the limit of a larger machine.
wrk and the servers share the cores, while preparing alone has them to itself. What the device's thread takes for an
item depends on how many it computes together: --connections 96 --batch-ms 50 makes batches as large as on a busy GPU.
"""

import argparse
import os
import re
import resource
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from app.models.load import load_model
from app.processors.image import ImageProcessor
from app.processors.registry import describe
from app.processors.text import TextProcessor
from app.settings import Settings
from benchmarks.ceiling import by_wrk
from benchmarks.load import picture_bodies, text_bodies
from benchmarks.plain_prepare import Form, plain_rate
from benchmarks.servers import fronts, processes, server

WORKERS = (1, 2)
_PLAIN_PROCESSES = 2
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """One server: the rate of each round, and what all rounds together answered and took, in seconds of CPU."""

    port: int
    process: int
    rates: list[float] = field(default_factory=list)
    items: float = 0.0
    batches: float = 0.0
    processes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    device_threads: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def load(self, bodies: list[bytes], connections: int, seconds: float) -> None:
        """A round of it."""
        processes = processes_of(self.process)
        before, (items, batches) = self._used(processes), self._counted()
        got = by_wrk(self.port, bodies, connections, seconds)
        if got["failed"]:
            raise RuntimeError(f"{got['failed']:.0f} requests failed")
        self.rates.append(got["per_second"])
        # The second that does not count for the rate counts here, in both.
        now_items, now_batches = self._counted()
        self.items += now_items - items
        self.batches += now_batches - batches
        for total, now, then in zip(
            (self.processes, self.device_threads), self._used(processes), before, strict=True
        ):
            for name, value in now.items():
                total[name] += value - then.get(name, 0.0)

    def _used(self, processes: dict[str, int]) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds of CPU until now, of each process and of each thread of the one that computes."""
        used = {name: cpu_seconds(Path(f"/proc/{process}/stat")) for name, process in processes.items()}
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used["wrk"] = ended.ru_utime + ended.ru_stime
        threads = Path(f"/proc/{processes['device']}/task").iterdir() if "device" in processes else ()
        return used, {thread.name: cpu_seconds(thread / "stat") for thread in threads}

    def _counted(self) -> tuple[float, float]:
        """Items and batches computed until now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            metrics = answer.read()
        items, batches = (
            sum(map(float, re.findall(rb"^clip_batch_items_%s\{.*\} (\S+)" % name, metrics, re.M)))
            for name in (b"sum", b"count")
        )
        return items, batches


def cpu_seconds(stat: Path) -> float:
    """User and system time of a process or a thread."""
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def processes_of(server: int) -> dict[str, int]:
    """The processes of a server, by what they do."""
    forks = sorted(fronts(server))
    devices = [each for each in processes(server)[1:] if each not in forks]
    if not devices:
        return {"the process": server}
    (device,) = devices
    return {"supervisor": server, **{f"front {i}": front for i, front in enumerate(forks)}, "device": device}


def form_of(models: Path, folder: Path) -> Form:
    """What the model reads; its tokenizer is written to the folder."""
    model = load_model(Settings(models_dir=models))
    image, text = model.image.processor, model.text.processor
    if not isinstance(image, ImageProcessor) or not isinstance(text, TextProcessor):
        raise SystemExit(
            f"{models}: what this model reads is not plainly prepared; take a model as demo/models has it"
        )
    describe(text, folder)
    return Form(image.width, image.height, folder / "tokenizer.json")


def compare(
    what: str, bodies: list[bytes], form: Form, servers: dict[int, Measured], options: argparse.Namespace
) -> None:
    """Rounds of all three with the same bodies, and what comes of them."""
    plain = []
    for _ in range(options.rounds):
        plain.append(plain_rate(form, bodies, options.seconds, _PLAIN_PROCESSES))
        for each in servers.values():
            each.load(bodies, options.connections, options.seconds)
    rate = median(each.per_second for each in plain)
    milliseconds = 1000 * median(each.cpu_seconds for each in plain)
    print(f"{what}, {options.connections} connections, medians of {options.rounds} rounds of {options.seconds:g} s")
    print(f"  preparing alone, {_PLAIN_PROCESSES} processes: {rate:.1f}/s, {milliseconds:.3f} ms of CPU an item")
    for workers, each in servers.items():
        ratio = median(ours / alone.per_second for ours, alone in zip(each.rates, plain, strict=True))
        size = each.items / each.batches
        print(f"  WORKERS={workers}: {median(each.rates):.1f}/s, ratio {ratio:.3f}, {size:.1f} in a batch")
        costs = {name: 1000 * seconds / each.items for name, seconds in each.processes.items()}
        print(f"    ms of CPU an item: {', '.join(f'{name} {cost:.3f}' for name, cost in costs.items())}")
        if each.device_threads:
            larger_machine(costs, 1000 * max(each.device_threads.values()) / each.items)
    print(flush=True)


def larger_machine(costs: dict[str, float], thread: float) -> None:
    """What the milliseconds an item say about more cores."""
    fronts = sum(cost for name, cost in costs.items() if name.startswith("front"))
    print(f"    busiest thread of the device process: {thread:.3f} ms an item")
    if thread:
        print(
            f"    so one device process takes at most {1000 / thread:,.0f} items/s, beside what the model's own "
            f"calls take of this thread; a core of fronts gives {1000 / fronts:,.0f}, so it has enough for "
            f"{fronts / thread:.0f} fronts, each with a core"
        )
    else:
        print("    too little to be measured in this time: take more --seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("demo/models"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--batch-ms", type=float, default=0.0, help="time that the engine takes for a batch")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--real-engine", action="store_true")
    options = parser.parse_args()
    module = "app" if options.real_engine else "benchmarks.timed_engine"
    engine = "the model computes" if options.real_engine else f"{options.batch_ms:g} ms a batch"
    print(f"{os.cpu_count()} CPUs, {engine}", flush=True)
    kinds = {
        "pictures 800x600": list(islice(picture_bodies(800, 600, 16), 256)),
        "texts": list(islice(text_bodies(), 20_000)),
    }
    with ExitStack() as stack:
        form = form_of(options.models, Path(stack.enter_context(TemporaryDirectory())))
        started = {}
        for workers in WORKERS:
            env = {
                "WORKERS": str(workers),
                "BATCH_SECONDS": str(options.batch_ms / 1000),
                "OPENBLAS_NUM_THREADS": "1",
            }
            port, process, _ = stack.enter_context(server(module, options.models, env))
            started[workers] = (port, process)
        for what, bodies in kinds.items():
            servers = {workers: Measured(*each) for workers, each in started.items()}
            compare(what, bodies, form, servers, options)


if __name__ == "__main__":
    main()

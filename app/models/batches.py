"""How much one batch holds at most: as much as pays off on this machine."""

import json
import logging
import math
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from app.cgroup import usable_cpus
from app.errors import OutOfMemory
from app.processors.padding import collate
from app.processors.text import TextProcessor
from app.settings import Settings
from app.towers import BatchLimits, InferenceSession, Inputs, Padding, Processor, Tower

_log = logging.getLogger(__name__)

# A batch that takes longer than this keeps a waiting query for too long; where nobody asks for anything else, one may
# take longer. The smallest size is taken that reaches this share of the best rate: less of pictures, which keep a
# query waiting.
_BATCH_SECONDS, _ALONE_SECONDS = 0.1, 0.5
_SHARE, _PICTURE_SHARE = 0.95, 0.8
# A start does not measure for longer than this, for each tower.
_MEASURING_SECONDS = 0.5
# What one start has seen may have been a slow moment of the machine; so many are enough.
_STARTS = 4
_ROUNDS = 5
_FILE = "batches.json"
_MOST_ITEMS = {"cpu": 32, "cuda": 256}
# Usual items.
_SAMPLES = {"image": Image.new("RGB", (320, 240)), "text": "a photo of a dog that sleeps beside a bicycle"}


@dataclass(frozen=True)
class Sizes:
    """How many items a batch holds at most, and how many where nobody waits for anything else."""

    items: int
    alone: int


@dataclass(frozen=True)
class Measured:
    """Seconds of the fastest run of a batch, by its size, in so many starts."""

    starts: int
    seconds: dict[int, float]

    def with_start(self, seconds: dict[int, float]) -> "Measured":
        """This, and what one more start has measured."""
        both = {
            size: min(each.get(size, math.inf) for each in (self.seconds, seconds)) for size in self.seconds | seconds
        }
        return Measured(self.starts + 1, both)


def open_tower(
    kind: str,
    processor: Processor,
    session: InferenceSession,
    padding: Padding,
    settings: Settings,
    folder: Path | None = None,
) -> tuple[Tower, int]:
    """A tower ("image" or "text") that has run, with its limits, and the width of its vectors.

    The limits are what the settings say, and measured where they are silent: in the first few starts on a kind of
    machine, if there is a compiled form whose `folder` can keep what was seen, else in each.
    """
    if settings.legacy_texts and kind == "text":
        processor, padding = _legacy(processor, padding)
    inputs = processor(_SAMPLES[kind])
    batch = collate([inputs], padding)
    if settings.enable_cuda:
        session.start(batch)()  # loads the kernels, which takes seconds and says nothing of the model
    started = time.monotonic()
    width = session.start(batch)().shape[1]
    first = time.monotonic() - started
    items = settings.image_batch if kind == "image" else settings.text_batch
    machine = f"{_cpu_model()}, {settings.threads or usable_cpus()} threads"
    share = _PICTURE_SHARE if kind == "image" else _SHARE
    if items:
        sizes = Sizes(items, items)
    elif first > 1:  # it takes longer than later runs, but there is no time to measure
        sizes = Sizes(1, 1)
    else:
        kept = _kept(folder) if folder is not None else {}
        measured = kept.get(machine, {}).get(kind, Measured(0, {}))
        if measured.starts < _STARTS:
            most = _MOST_ITEMS["cuda" if settings.enable_cuda else "cpu"]
            measured = measured.with_start(measure_batches(session, inputs, padding, most, _MEASURING_SECONDS))
            if folder is not None:
                _keep(folder, machine, kind, measured)
        sizes = choose_sizes(measured.seconds, share)
    tokens = settings.text_batch_tokens if kind == "text" else 0
    tokens = tokens or sizes.items * len(inputs.get("input_ids", "1"))
    limits = BatchLimits(sizes.items, tokens, padding.same_length, sizes.alone)
    return Tower(processor, session, limits, padding), width


def _legacy(processor: Processor, padding: Padding) -> tuple[Processor, Padding]:
    """Each text as long as it is: a model that takes no mask reads padding as a part of the text."""
    if not isinstance(processor, TextProcessor) or not processor.has_legacy:
        _log.warning("LEGACY_TEXTS changes nothing for this model; only SigLIP's texts are padded and in lower case")
        return processor, padding
    return processor.legacy(), replace(padding, same_length=True)


def measure_batches(
    session: InferenceSession, inputs: Inputs, padding: Padding, most: int, seconds: float
) -> dict[int, float]:
    """How long batches of such items take, in seconds by how many they hold.

    Powers of two up to `most` take turns, for about `seconds` in all, and the fastest run of each counts: what a
    machine does in one moment says little of the next. A batch that does not fit into memory ends the search; raises
    OutOfMemory where not even one item fits.
    """
    end = time.monotonic() + seconds
    times: dict[int, float] = {}
    for _ in range(_ROUNDS):
        size = 1
        while size <= most:
            if size > 1 and (2 * times[size // 2] > _ALONE_SECONDS or time.monotonic() + 2 * times[size // 2] > end):
                break
            batch = collate([inputs] * size, padding)
            started = time.monotonic()
            try:
                session.start(batch)()
            except (OutOfMemory, MemoryError):
                if size == 1:
                    raise
                most = size // 2
                _log.warning("out of memory with a batch of %d; batches hold at most %d", size, most)
                break
            times[size] = min(times.get(size, math.inf), time.monotonic() - started)
            size *= 2
    return times


def choose_sizes(times: dict[int, float], share: float) -> Sizes:
    """The smallest sizes that reach their share of the best rate, by what measure_batches() saw."""
    items = _smallest_that_pays(times, _BATCH_SECONDS, share)
    return Sizes(items, max(items, _smallest_that_pays(times, _ALONE_SECONDS, _SHARE)))


def _smallest_that_pays(times: dict[int, float], longest: float, share: float) -> int:
    """The smallest batch that reaches this share of the best rate of all that compute in `longest` seconds."""
    rates = {size: size / taken for size, taken in times.items() if taken <= longest or size == 1}
    return min(size for size, rate in rates.items() if rate > share * max(rates.values()))


def _kept(folder: Path) -> dict[str, dict[str, Measured]]:
    """What was measured by kind of tower, by machine; empty if nothing was kept, or in another way."""
    try:
        machines = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {
            machine: {
                kind: Measured(
                    int(each["starts"]), {int(size): float(took) for size, took in each["seconds"].items()}
                )
                for kind, each in kinds.items()
            }
            for machine, kinds in machines.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def _keep(folder: Path, machine: str, kind: str, measured: Measured) -> None:
    """Where the folder cannot be written, the next start measures again."""
    machines = _kept(folder)
    machines.setdefault(machine, {})[kind] = measured
    try:
        handle, name = tempfile.mkstemp(prefix=f".{_FILE}-", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(machines, file, default=asdict)
        Path(name).chmod(0o644)
        Path(name).replace(folder / _FILE)
    except OSError as error:
        _log.debug("batches are measured again at the next start: %s", error)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(names, platform.machine())

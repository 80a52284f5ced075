"""How much one batch holds at most: as much as pays off on this machine."""

import json
import logging
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image

from app.cgroup import usable_cpus
from app.errors import OutOfMemory
from app.processors.padding import collate
from app.processors.text import TextProcessor
from app.settings import Settings
from app.towers import BatchLimits, InferenceSession, Inputs, Padding, Processor, Tower

_log = logging.getLogger(__name__)

# A batch that takes longer than this keeps a waiting query for too long; a larger one gains little.
_BATCH_SECONDS = 0.1
# A start does not measure for longer than this, for each tower.
_MEASURE_SECONDS = 0.5
_FILE = "batches.json"
_MOST_ITEMS = {"cpu": 32, "cuda": 256}
# Usual items.
_SAMPLES = {"image": Image.new("RGB", (320, 240)), "text": "a photo of a dog that sleeps beside a bicycle"}


def open_tower(
    kind: str,
    processor: Processor,
    session: InferenceSession,
    padding: Padding,
    settings: Settings,
    folder: Path | None = None,
) -> tuple[Tower, int]:
    """A tower ("image" or "text") that has run, with its limits, and the width of its vectors.

    The limits are what the settings say, and measured where they are silent: once for each kind of machine, if
    there is a compiled form whose `folder` can keep them.
    """
    if settings.legacy_texts and kind == "text":
        processor, padding = _unpadded(processor, padding)
    inputs = processor(_SAMPLES[kind])
    batch = collate([inputs], padding)
    if settings.enable_cuda:
        session.start(batch)()  # loads the kernels, which takes seconds and says nothing of the model
    started = time.monotonic()
    width = session.start(batch)().shape[1]
    first = time.monotonic() - started
    items = settings.image_batch if kind == "image" else settings.text_batch
    machine = f"{_cpu_model()}, {settings.threads or usable_cpus()} threads"
    if not items and folder is not None:
        items = _kept(folder).get(machine, {}).get(kind, 0)
    if not items:
        # The first run takes longer than others, but where it takes so long there is no time to measure.
        most = _MOST_ITEMS["cuda" if settings.enable_cuda else "cpu"]
        items = 1 if first > 2 * _MEASURE_SECONDS else measure_batch(session, inputs, padding, most, _MEASURE_SECONDS)
        if folder is not None:
            _keep(folder, machine, kind, items)
    tokens = settings.text_batch_tokens if kind == "text" else 0
    limits = BatchLimits(items, tokens or items * len(inputs.get("input_ids", "1")), padding.same_length)
    return Tower(processor, session, limits, padding), width


def _unpadded(processor: Processor, padding: Padding) -> tuple[Processor, Padding]:
    """Each text as long as it is: a model that takes no mask reads padding as a part of the text."""
    if not isinstance(processor, TextProcessor) or not processor.pads:
        _log.warning("LEGACY_TEXTS changes nothing for this model; only SigLIP's texts are padded")
        return processor, padding
    return processor.unpadded(), replace(padding, same_length=True)


def measure_batch(session: InferenceSession, inputs: Inputs, padding: Padding, most: int, seconds: float) -> int:
    """The smallest batch of such items that is about as fast an item as any that computes in _BATCH_SECONDS.

    Tries powers of two up to `most`, for about `seconds` in all; a larger batch only pays if it is 5 % faster
    an item, for all that waits has to wait for it. A batch that does not fit into memory ends the search; raises
    OutOfMemory where not even one item fits.
    """
    end = time.monotonic() + seconds
    best, best_rate, size = 1, 0.0, 1
    while size <= most:
        batch = collate([inputs] * size, padding)
        times: list[float] = []
        try:
            while len(times) < 2 and time.monotonic() + sum(times) < end:
                started = time.monotonic()
                session.start(batch)()
                times.append(time.monotonic() - started)
        except (OutOfMemory, MemoryError):
            if size == 1:
                raise
            _log.warning("out of memory with a batch of %d; batches hold at most %d", size, best)
            break
        if not times or (min(times) > _BATCH_SECONDS and size > 1):
            break
        rate = size / min(times)
        if rate > 1.05 * best_rate:
            best, best_rate = size, rate
        if time.monotonic() + 2 * min(times) > end:
            break
        size *= 2
    return best


def _kept(folder: Path) -> dict[str, dict[str, int]]:
    """Items by kind of tower, by machine; empty if nothing was kept."""
    try:
        measured: dict[str, dict[str, int]] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return measured


def _keep(folder: Path, machine: str, kind: str, items: int) -> None:
    """Where the folder cannot be written, the next start measures again."""
    measured = _kept(folder)
    measured.setdefault(machine, {})[kind] = items
    try:
        handle, name = tempfile.mkstemp(prefix=f".{_FILE}-", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(measured, file)
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

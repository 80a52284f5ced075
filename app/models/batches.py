"""How much one batch holds at most: as much as pays off on this machine."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from app.errors import OutOfMemory
from app.processors.padding import collate
from app.processors.text import TextProcessor
from app.settings import Settings
from app.towers import BatchLimits, InferenceSession, Inputs, Padding, Processor, Tower, memory_of

_log = logging.getLogger(__name__)

# A batch that takes longer than this many seconds keeps a waiting query for too long.
MAX_BATCH_SECONDS = 0.1
# The smallest batch is taken that reaches this share of the best rate: less of pictures, which keep a query waiting.
_SHARES = {"text": 0.95, "image": 0.8}
_MAX_ITEMS = {"cpu": 32, "cuda": 256}
# Seconds of measuring, for each tower.
_MEASURING_SECONDS = 0.3
_ROUNDS = 5
# Usual items.
_SAMPLES = {"image": Image.new("RGB", (320, 240)), "text": "a photo of a dog that sleeps beside a bicycle"}


def open_tower(
    kind: str, processor: Processor, session: InferenceSession, padding: Padding, settings: Settings
) -> Tower:
    """A tower ("image" or "text") that has run, with its limits: those of the settings, else measured ones."""
    if settings.legacy_texts and kind == "text":
        processor, padding = _legacy(processor, padding)
    inputs = processor(_SAMPLES[kind])
    batch = collate([inputs], padding)
    if settings.enable_cuda:
        session.start(batch)()  # loads the kernels, which takes seconds and says nothing of the model
    started = time.monotonic()
    width = session.start(batch)().shape[1]
    first = time.monotonic() - started
    items = settings.max_batch
    if not items and first > 1:  # it takes longer than later runs, but there is no time to measure
        items = 1
    if not items:
        most = _MAX_ITEMS["cuda" if settings.enable_cuda else "cpu"]
        items = choose_size(measure_batches(session, inputs, padding, most, _MEASURING_SECONDS), _SHARES[kind])
    tokens = items * len(inputs.get("input_ids", "1"))
    limits = BatchLimits(items, tokens, padding.same_length)
    return Tower(processor, session, limits, padding, sum(array.nbytes for array in inputs.values()), width)


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
    fastest: dict[int, float] = {}
    for _ in range(_ROUNDS):
        size = 1
        while size <= most:
            expected = 2 * fastest.get(size // 2, 0.0)
            if size > 1 and (expected > 2 * MAX_BATCH_SECONDS or time.monotonic() + expected > end):
                break
            batch = collate([inputs] * size, padding, memory_of(session))
            started = time.monotonic()
            try:
                session.start(batch)()
            except (OutOfMemory, MemoryError):
                if size == 1:
                    raise
                most = size // 2
                _log.warning("out of memory with a batch of %d; batches hold at most %d", size, most)
                break
            fastest[size] = min(time.monotonic() - started, fastest.get(size, math.inf))
            size *= 2
    return fastest


def choose_size(times: Mapping[int, float], share: float) -> int:
    """The smallest batch that reaches this share of the best rate, of all that compute in MAX_BATCH_SECONDS.

    `times` is what measure_batches() saw.
    """
    rates = {size: size / taken for size, taken in times.items() if taken <= MAX_BATCH_SECONDS or size == 1}
    return min(size for size, rate in rates.items() if rate > share * max(rates.values()))

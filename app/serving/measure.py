"""How many items a batch should hold, tried on the device."""

import logging
import time
from typing import Any

from app.errors import OutOfMemory
from app.processors.padding import collate
from app.towers import Tower

_log = logging.getLogger(__name__)


def measure_batch(tower: Tower, sample: Any, seconds: float, most: int) -> int:
    """The smallest batch that is about as fast an item as any that computes in `seconds`.

    Tries powers of two up to `most`; a larger batch only pays if it is 5 % faster an item, for all that
    waits has to wait for it. One that does not fit into memory ends the search; raises OutOfMemory where not
    even one item fits.
    """
    inputs = tower.processor(sample)
    best, best_rate, size = 1, 0.0, 1
    while size <= most:
        batch = collate([inputs] * size, tower.padding)
        times = []
        try:
            for _ in range(2):
                started = time.monotonic()
                tower.session.start(batch)()
                times.append(time.monotonic() - started)
        except (OutOfMemory, MemoryError) as error:
            if size == 1:
                raise
            _log.warning("out of memory with a batch of %d; batches hold at most %d", size, best)
            break
        if min(times) > seconds and size > 1:
            break
        rate = size / min(times)
        if rate > 1.05 * best_rate:
            best, best_rate = size, rate
        size *= 2
    return best

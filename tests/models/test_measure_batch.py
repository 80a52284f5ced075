"""The size of batches is found within what the device's memory takes."""

from collections.abc import Callable

import numpy as np
import pytest

from app.errors import OutOfMemory
from app.models.batches import choose_size, measure_batches
from app.towers import Inputs, Padding, Vectors

INPUTS = {"pixels": np.zeros(3, np.uint8)}


class SmallDevice:
    """Fits so many items; the more at once the better."""

    def __init__(self, most: int) -> None:
        self._most = most

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        if len(batch["pixels"]) > self._most:
            raise OutOfMemory("does not fit")
        return lambda: np.zeros((len(batch["pixels"]), 2), np.float32)


def test_a_batch_that_does_not_fit_ends_the_search() -> None:
    seconds = measure_batches(SmallDevice(5), INPUTS, Padding(), 32, 10.0)
    assert max(seconds) == 4 and choose_size(seconds, 0.95) <= 4


def test_not_even_one_item_fits() -> None:
    with pytest.raises(OutOfMemory):
        measure_batches(SmallDevice(0), INPUTS, Padding(), 32, 10.0)


def test_the_smallest_batch_that_pays() -> None:
    seconds = {1: 0.05, 2: 0.09, 4: 0.175, 8: 0.34, 16: 0.6}
    assert choose_size(seconds, 0.8) == 1
    assert choose_size(seconds, 0.95) == 2, "the larger ones take longer than a query should wait"
    assert choose_size({1: 2.0}, 0.95) == 1

"""The size of batches is found within what the device's memory takes."""

from collections.abc import Callable

import numpy as np
import pytest

from app.errors import OutOfMemory
from app.models.batches import Sizes, choose_sizes, measure_batches
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
    sizes = choose_sizes(seconds, 0.95)
    assert 1 <= sizes.items <= 4 and 1 <= sizes.alone <= 4


def test_not_even_one_item_fits() -> None:
    with pytest.raises(OutOfMemory):
        measure_batches(SmallDevice(0), INPUTS, Padding(), 32, 10.0)


def test_the_smallest_batch_that_pays() -> None:
    seconds = {1: 0.05, 2: 0.09, 4: 0.175, 8: 0.34, 16: 0.6}
    assert choose_sizes(seconds, 0.8) == Sizes(1, 4)
    assert choose_sizes(seconds, 0.95) == Sizes(2, 4)
    assert choose_sizes({1: 2.0}, 0.95) == Sizes(1, 1)

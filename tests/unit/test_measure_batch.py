"""The size of batches is found within what the device's memory takes."""

from collections.abc import Callable

import numpy as np
import pytest

from app.errors import OutOfMemory
from app.models.batches import measure_batch
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
    sizes = measure_batch(SmallDevice(5), INPUTS, Padding(), 32, 10.0)
    assert 1 <= sizes.items <= 4 and 1 <= sizes.alone <= 4


def test_not_even_one_item_fits() -> None:
    with pytest.raises(OutOfMemory):
        measure_batch(SmallDevice(0), INPUTS, Padding(), 32, 10.0)

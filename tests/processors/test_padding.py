"""Items become one batch, in memory of their own or in that of a device."""

from typing import Any

import numpy as np

from app.processors.padding import collate
from app.towers import Padding

SHORT, LONG = np.array([1, 2], np.int64), np.array([3, 4, 5], np.int64)
PICTURES = [np.full((2, 2, 3), value, np.uint8) for value in (1, 2)]


class UsedMemory:
    """Gives arrays that still hold another batch, and remembers them."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        self.given.append(np.full(shape, 77, dtype))
        return self.given[-1]


def test_a_batch_is_written_into_the_arrays_given() -> None:
    memory = UsedMemory()
    batch = collate([{"input_ids": SHORT}, {"input_ids": LONG}], Padding({"input_ids": 9}), memory.empty)
    assert batch["input_ids"] is memory.given[0]
    assert batch["input_ids"].tolist() == [[1, 2, 9], [3, 4, 5]] and batch["input_ids"].dtype == np.int64
    pixels = collate([{"pixels": picture} for picture in PICTURES], Padding(), memory.empty)["pixels"]
    assert pixels is memory.given[1] and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack(PICTURES))


def test_a_single_item_is_not_copied() -> None:
    memory = UsedMemory()
    (pixels,) = collate([{"pixels": PICTURES[0]}], Padding(), memory.empty).values()
    assert np.shares_memory(pixels, PICTURES[0]) and not memory.given
    (tokens,) = collate([{"input_ids": np.arange(17)}], Padding(max_tokens=77), memory.empty).values()
    assert tokens.tolist() == [[*range(17), 0, 0, 0]] and tokens is memory.given[0]

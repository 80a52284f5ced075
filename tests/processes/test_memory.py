"""Slots of shared memory, against a plain list of which bytes are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.processes.memory import SharedMemory, map_memory


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=60))
def test_slots_never_overlap_and_all_room_comes_back(steps: list[tuple[bool, int]]) -> None:
    memory = SharedMemory(16_384)
    taken: dict[int, int] = {}
    for gives_back, size in steps:
        if gives_back and taken:
            offset = sorted(taken)[size % len(taken)]
            del taken[offset]
            memory.give_back(offset)
        elif (offset := memory.take(size)) is not None:
            assert all(offset + size <= other or other + length <= offset for other, length in taken.items())
            assert offset % 64 == 0
            taken[offset] = size
        else:
            assert sum(-(-length // 64) * 64 for length in taken.values()) + size > 16_384 - 64
    for offset in taken:
        memory.give_back(offset)
    assert memory.used == 0
    assert memory.take(4 * 16_384) == 0


def test_what_is_larger_than_the_capacity_has_it_alone() -> None:
    memory = SharedMemory(8192)
    small = memory.take(100)
    assert small is not None and memory.take(10_000) is None
    memory.give_back(small)
    assert memory.take(10_000) is not None and memory.take(100) is None
    with pytest.raises(MemoryError):
        SharedMemory(8192).take(40_000)


def test_another_mapping_sees_what_is_written() -> None:
    memory = SharedMemory(8192)
    memory.view[100:105] = b"hello"
    assert bytes(map_memory(memory.file)[100:105]) == b"hello"

"""A bounded part of what `python -m benchmarks.fuzz_pictures` does."""

import resource

from app.processors.formats import COMMON, RARE
from benchmarks.broken import samples
from benchmarks.fuzz_pictures import fuzz


def test_every_format_that_is_read_is_among_the_samples() -> None:
    assert {*COMMON, *RARE} <= {name.split()[0] for name in samples()}


def test_mutated_pictures_give_pixels_or_are_refused() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes, failures = fuzz(1500, seed=1)
    assert failures == []
    assert set(outcomes) <= {"pixels", "refused", "too slow"}
    assert outcomes["pixels"] > 100 < outcomes["refused"]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300


def test_mutated_pictures_of_common_formats() -> None:
    names = {name for name in samples() if name.split()[0] in COMMON}
    outcomes, failures = fuzz(4000, seed=2, only=names)
    assert failures == []
    assert set(outcomes) <= {"pixels", "refused"}

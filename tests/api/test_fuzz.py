"""A bounded part of benchmarks/fuzz.py and benchmarks/soak.py."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fuzz import KINDS, fuzz
from benchmarks.soak import Soak
from tests.support.search import times
from tests.support.server import process_of


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    # Nobody reads the log here, and the pipe for it holds 64 KiB.
    return serve(Path("demo/models"), measured=True, VECTOR_CACHE_BYTES="50000", LOG_LEVEL="error")


def test_broken_requests_of_every_kind_get_an_answer(url: str) -> None:
    found = asyncio.run(fuzz(int(url.rpartition(":")[2]), 2000, seed=0, connections=8))
    assert found.wrong == []
    assert sum(found.answers.values()) == 2000
    assert {kind for kind, status in found.answers if status == 422} == {kind.__name__ for kind in KINDS}


@pytest.mark.search
def test_under_load_of_every_kind_each_answer_is_right_and_none_is_lost(url: str) -> None:
    soak = Soak(int(url.rpartition(":")[2]), process_of(url).pid)
    for _ in range(10):  # on a slow machine a few seconds may be too short for one of each kind
        asyncio.run(soak.run(times(4), clients=32))
        assert soak.findings.wrong == []
        if len(soak.findings.answers) >= 3:
            break
    assert soak.findings.answers.keys() == {"200", "422", "left"}
    assert soak.samples[-1].files <= soak.samples[0].files

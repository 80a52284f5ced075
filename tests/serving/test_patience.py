"""What is learned of clients' patience."""

import random

import pytest
from app.serving.patience import Patience


def test_nothing_is_learned_from_those_who_stay_or_from_one_who_leaves() -> None:
    patience = Patience()
    for _ in range(1000):
        patience.observe(0.5, left=False)
    patience.observe(0.3, left=True)
    assert patience.seconds() is None


@pytest.mark.parametrize("seconds", [0.2, 1.0, 50.0])
def test_a_time_out_that_all_share(seconds: float) -> None:
    patience = Patience()
    for n in range(100):
        patience.observe(seconds * n / 200, left=False)
        patience.observe(seconds, left=True)
    assert patience.seconds() == pytest.approx(seconds)


def test_those_who_wait_longer_are_believed() -> None:
    patience = Patience()
    for _ in range(50):
        patience.observe(1.0, left=True)
    for _ in range(400):
        patience.observe(2.0, left=False)
    assert patience.seconds() is None


def test_a_tenth_that_leaves_at_random_says_nothing_of_the_others() -> None:
    patience, rng = Patience(), random.Random(1)
    for _ in range(2000):
        left = rng.random() < 0.1
        patience.observe(rng.uniform(0, 2) if left else 2.0, left=left)
    assert patience.seconds() is None


def test_it_is_forgotten_and_learned_anew() -> None:
    patience = Patience()
    for _ in range(20):
        patience.observe(1.0, left=True)
    for _ in range(100_000):
        patience.observe(0.1, left=False)
    assert patience.seconds() is None
    for _ in range(20):
        patience.observe(3.0, left=True)
    assert patience.seconds() == pytest.approx(3.0)

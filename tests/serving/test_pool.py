"""Shares of a pool under any order of events: nothing is lost, nobody waits without need or for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from app.serving.pool import Claim, Pool
from tests.support.search import times


class Shares(RuleBasedStateMachine):
    """Claims that ask, shrink, and leave whether they wait or not, in any order."""

    claims = Bundle("claims")

    @initialize(small=st.integers(0, 20))
    def start(self, small: int) -> None:
        self.pool = Pool(100, small)
        self.granted: set[Claim] = set()
        self.live: set[Claim] = set()

    @rule(target=claims, size=st.integers(0, 88))
    def come(self, size: int) -> Claim:
        claim = Claim(size, lambda: self.granted.add(claim))
        self.live.add(claim)
        assert self.pool.ask(claim) == (claim in self.granted)
        return claim

    @rule(claim=claims, size=st.integers(0, 88))
    def shrink(self, claim: Claim, size: int) -> None:
        self.pool.shrink(claim, min(size, claim.size))

    @rule(claim=consumes(claims))
    def end(self, claim: Claim) -> None:
        self.pool.release(claim)
        self.live.discard(claim)
        self.granted.discard(claim)

    @invariant()
    def what_is_used_is_what_is_held(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.used == sum(claim.size for claim in self.granted) <= self.pool.capacity
            assert self.pool.waiting == len(self.live - self.granted)

    @invariant()
    def nobody_waits_for_an_empty_pool(self) -> None:
        if hasattr(self, "pool") and self.pool.waiting:
            assert self.pool.used

    def teardown(self) -> None:
        """Whoever does not wait is served and leaves: then all the others come to their turn."""
        for _ in range(len(self.live)):
            for claim in list(self.granted):
                self.end(claim)
        assert not self.live
        if hasattr(self, "pool"):
            assert self.pool.used == self.pool.waiting == 0


TestShares = Shares.TestCase
TestShares.settings = settings(max_examples=times(100), stateful_step_count=40)


def ask(pool: Pool, name: str, size: int, order: list[str]) -> Claim:
    claim = Claim(size, lambda: order.append(name))
    pool.ask(claim)
    return claim


def test_a_small_claim_passes_the_large_and_has_a_reserve() -> None:
    pool, order = Pool(100, small=5), list[str]()
    holder = ask(pool, "holder", 88, order)
    ask(pool, "large", 50, order)
    for name in ("query 1", "query 2", "query 3"):
        ask(pool, name, 5, order)
    assert order == ["holder", "query 1", "query 2"]
    pool.release(holder)
    assert order == ["holder", "query 1", "query 2", "large", "query 3"]


def test_small_claims_that_never_end_do_not_keep_a_large_one_out() -> None:
    pool, order = Pool(100, small=5), list[str]()
    held = [ask(pool, "small", 5, order) for _ in range(20)]
    ask(pool, "large", 60, order)
    for _ in range(40):
        claim = held.pop(0)
        pool.release(claim)
        held.append(ask(pool, "small", 5, order))
    assert "large" in order


def test_who_leaves_while_he_waits_keeps_nobody_up() -> None:
    pool, order = Pool(100), list[str]()
    ask(pool, "holder", 50, order)
    large = ask(pool, "large", 80, order)
    ask(pool, "fits", 30, order)
    assert order == ["holder"]
    pool.release(large)
    assert order == ["holder", "fits"]


def test_what_is_given_back_goes_to_the_next() -> None:
    pool, order = Pool(100), list[str]()
    holder = ask(pool, "holder", 80, order)
    ask(pool, "next", 40, order)
    pool.shrink(holder, 30)
    assert order == ["holder", "next"] and pool.used == 70

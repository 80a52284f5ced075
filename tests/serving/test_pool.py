"""Shares of a pool under any order of events: nothing is lost, nobody waits without need or for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from app.serving.pool import Claim, Pool
from tests.support.search import times


class Shares(RuleBasedStateMachine):
    """Claims that ask, grow, and leave whether they wait or not, in any order."""

    claims = Bundle("claims")

    @initialize(overflow=st.sampled_from([0, 30]), reserve=st.integers(0, 20))
    def start(self, overflow: int, reserve: int) -> None:
        self.pool = Pool(100, small=5, reserve=reserve, overflow=overflow)
        self.overflow = overflow
        self.granted: set[Claim] = set()
        self.live: set[Claim] = set()

    def ask_for(self, claim: Claim, amount: int) -> None:
        before = claim.held
        self.granted.discard(claim)
        if self.pool.ask(claim, amount, lambda: self.granted.add(claim)):
            assert claim.held == before + amount
        else:
            assert claim.held == before and claim.wanted == amount and claim not in self.granted

    @rule(target=claims, expected=st.integers(0, 60), amount=st.integers(1, 60))
    def come(self, expected: int, amount: int) -> Claim:
        claim = Claim(expected)
        self.live.add(claim)
        self.ask_for(claim, min(amount, self.pool.most))
        return claim

    @rule(claim=claims, amount=st.integers(1, 20))
    def grow(self, claim: Claim, amount: int) -> None:
        if self.overflow and claim.held and not claim.wanted and claim.held + amount <= self.pool.most:
            self.ask_for(claim, amount)

    @rule(claim=consumes(claims))
    def end(self, claim: Claim) -> None:
        self.pool.release(claim)
        self.live.discard(claim)

    @invariant()
    def what_is_used_is_what_is_held(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.used == sum(claim.held for claim in self.live) <= self.pool.capacity
            assert self.pool.waiting == sum(claim.wanted > 0 for claim in self.live)

    @invariant()
    def nobody_waits_for_an_empty_pool(self) -> None:
        if hasattr(self, "pool") and any(claim.wanted for claim in self.live):
            assert self.pool.used

    def teardown(self) -> None:
        """Whoever does not wait is served and leaves: then all the others come to their turn."""
        for _ in range(len(self.live)):
            for claim in [claim for claim in self.live if not claim.wanted]:
                self.end(claim)
        assert not self.live
        if hasattr(self, "pool"):
            assert self.pool.used == self.pool.waiting == 0


TestShares = Shares.TestCase
TestShares.settings = settings(max_examples=times(100), stateful_step_count=40, deadline=None)


def waiting(pool: Pool, name: str, size: int, order: list[str], expected: int = 0) -> Claim:
    claim = Claim(expected)
    if pool.ask(claim, size, lambda: order.append(name)):
        order.append(name)
    return claim


def test_a_small_claim_passes_the_large_and_has_a_reserve() -> None:
    pool, order = Pool(100, small=5, reserve=10), list[str]()
    holder = waiting(pool, "holder", 90, order)
    waiting(pool, "large", 50, order)
    for name in ("query 1", "query 2", "query 3"):
        waiting(pool, name, 5, order)
    assert order == ["holder", "query 1", "query 2"]
    pool.release(holder)
    assert order == ["holder", "query 1", "query 2", "query 3", "large"]


def test_small_claims_that_never_end_do_not_keep_a_large_one_out() -> None:
    pool, order = Pool(100, small=5, reserve=10), list[str]()
    held = [waiting(pool, "small", 5, order) for _ in range(20)]
    waiting(pool, "large", 60, order)
    for _ in range(40):
        claim = held.pop(0)
        pool.release(claim)
        held.append(waiting(pool, "small", 5, order))
    assert "large" in order


def test_claims_that_grow_beside_each_other_all_come_to_their_end() -> None:
    pool, order = Pool(100, overflow=40), list[str]()
    claims = [waiting(pool, "begun", 20, order, expected=40) for _ in range(3)]
    for claim in claims:
        pool.ask(claim, 20, lambda: None)
    assert [claim.held for claim in claims] == [40, 20, 20]
    pool.release(claims[0])
    assert [claim.held for claim in claims] == [0, 40, 40] or [claim.held for claim in claims] == [0, 40, 20]
    pool.release(claims[1])
    assert claims[2].held == 40


def test_who_leaves_while_he_waits_keeps_nobody_up() -> None:
    pool, order = Pool(100), list[str]()
    waiting(pool, "holder", 50, order)
    large = waiting(pool, "large", 80, order)
    waiting(pool, "next", 90, order)
    waiting(pool, "fits", 81, order)
    pool.release(large)
    assert order == ["holder"]
    last = waiting(pool, "small", 40, order)
    assert order == ["holder", "small"] and last.held == 40

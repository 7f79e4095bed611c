"""Transitions of buckets: every case by hand, then random histories with flows in them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samepath.plan.transitions import NONE, Advance, Buckets, Numbers, advance, steady

S = 1_000_000_000
A, B, C, D = 1, 2, 3, 4


def numbers(*values: int) -> Numbers:
    return np.array(values, np.uint16)


def one(owner: int, old: int = NONE, changed: int = 0, stamp: int = 0) -> Buckets:
    """A table of one bucket; times in seconds."""
    return Buckets(
        numbers(owner),
        numbers(old),
        np.array([changed * S], np.int64),
        np.array([stamp * S], np.int64),
    )


def step(
    present: Buckets,
    want: int,
    living: Collection[int],
    now: int = 100,
    idle: int = 30,
    deadline: int | None = None,
) -> Advance:
    late = None if deadline is None else deadline * S
    return advance(present, numbers(want), living=living, now=now * S, idle=idle * S, deadline=late)


CASES = {
    "nothing": (one(A), A, {A}, one(A), {}),
    "begins": (one(A), B, {A, B}, one(B, A, 100), {"begun": 1}),
    "owner gone": (one(A), B, {B}, one(B, NONE, 100), {"departed": 1}),
    "chain": (one(B, A, 90), C, {A, B, C}, one(C, A, 100), {"chained": 1}),
    "chain, middle gone": (one(B, A, 90), C, {A, C}, one(C, A, 100), {"chained": 1}),
    "chain, first gone": (one(B, A, 90), C, {B, C}, one(C, B, 100), {"chained": 1}),
    "chain, both gone": (one(B, A, 90), C, {C}, one(C, C, 100), {"chained": 1}),
    "back again": (one(B, A, 90), A, {A, B}, one(A, A, 100), {"chained": 1}),
    "old dies": (one(B, A, 90), B, {B}, one(B, B, 90), {"orphaned": 1}),
    "orphan goes on": (one(B, B, 90), B, {B}, one(B, B, 90), {}),
    "idle": (one(B, A, 60, 70), B, {A, B}, one(B, NONE, 60, 70), {"idle": 1}),
    "idle since it began": (one(B, A, 70), B, {A, B}, one(B, NONE, 70), {"idle": 1}),
    "in use": (one(B, A, 10, 71), B, {A, B}, one(B, A, 10, 71), {}),
    "orphan idle": (one(B, B, 60, 70), B, {B}, one(B, NONE, 60, 70), {"idle": 1}),
    "old dies, idle": (one(B, A, 60, 70), B, {B}, one(B, NONE, 60, 70), {"idle": 1}),
    "idle, but it changes": (one(B, A, 60, 70), C, {A, B, C}, one(C, A, 100, 70), {"chained": 1}),
    "stamped just after now": (one(B, A, 10, 101), B, {A, B}, one(B, A, 10, 101), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bucket(name: str) -> None:
    present, want, living, following, counts = CASES[name]
    got = step(present, want, living)
    assert show(got.buckets) == show(following)
    assert len(got.changed) == (show(got.buckets) != show(present))
    kinds = ("begun", "chained", "departed", "orphaned", "idle", "late")
    assert {k: getattr(got, k) for k in kinds if getattr(got, k)} == counts


def show(b: Buckets) -> list[list[int]]:
    return [b.owner.tolist(), b.old.tolist(), b.changed.tolist(), b.stamp.tolist()]


def test_the_deadline_counts_from_the_last_change_of_owner() -> None:
    busy = one(B, A, changed=60, stamp=100)
    assert step(busy, B, {A, B}, deadline=41).buckets.moving.all()
    ended = step(busy, B, {A, B}, deadline=40)
    assert ended.late == 1
    assert not ended.buckets.moving.any()
    chained = step(busy, C, {A, B, C}, deadline=40).buckets
    assert chained.moving.all(), "flows of B have their own time"
    assert step(chained, C, {A, B, C}, now=139, idle=90, deadline=40).look_at == 140 * S
    assert step(chained, C, {A, B, C}, now=140, idle=1000, deadline=40).late == 1


def test_a_bucket_does_not_leave_a_living_owner_for_one_that_is_not_ready() -> None:
    def next_of(present: Buckets, living: set[int]) -> Advance:
        return advance(
            present, numbers(C), living=living, ready={A, B}, now=100, idle=200, deadline=None
        )

    held = next_of(one(A), {A, C})
    assert show(held.buckets) == show(one(A, changed=0))
    assert (held.unready, len(held.changed)) == (1, 0)
    held = next_of(one(B, A, 50), {A, B, C})
    assert held.buckets.old[0] == A
    assert held.unready == 1
    gone = next_of(one(A), {C})
    assert gone.buckets.owner[0] == C
    assert (gone.unready, gone.departed) == (0, 1)


def test_when_to_look_again() -> None:
    assert step(one(A), A, {A}).look_at is None
    assert step(one(A), B, {A, B}).look_at == 130 * S
    assert step(one(A), B, {A, B}, deadline=20).look_at == 120 * S
    assert step(one(B, A, 10, 95), B, {A, B}).look_at == 125 * S


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="2 buckets wanted, 1 there"):
        advance(one(A), numbers(A, A), living={A}, now=0, idle=1, deadline=None)
    with pytest.raises(ValueError, match="without an owner"):
        step(one(A), NONE, {A})


hops = st.integers(A, D)
tables = st.lists(
    st.tuples(hops, st.integers(NONE, D), st.integers(0, 200), st.integers(0, 200), hops),
    min_size=1,
    max_size=8,
)


@given(tables, st.sets(hops), st.integers(0, 200), st.integers(0, 50), st.none() | st.integers(0))
@settings(max_examples=400)
def test_any_state_and_any_table(
    rows: list[tuple[int, int, int, int, int]],
    alive: set[int],
    now: int,
    idle: int,
    deadline: int | None,
) -> None:
    """Total: whatever stands in the maps, no bucket points to the dead afterwards, every bucket is
    the target's, no living old owner is forgotten too early, and a repetition changes nothing."""
    owner, old, since, stamp, want = (np.array(c) for c in zip(*rows, strict=True))
    present = Buckets(
        owner.astype(np.uint16), old.astype(np.uint16),
        since.astype(np.int64), stamp.astype(np.int64),
    )  # fmt: skip
    before = show(present)
    wanted = want.astype(np.uint16)

    def next_of(buckets: Buckets) -> Advance:
        return advance(buckets, wanted, living=alive, now=now, idle=idle, deadline=deadline)

    got = next_of(present)
    assert show(present) == before, "the question is left as it was"
    after = got.buckets
    assert after.owner.tolist() == want.tolist()
    assert after.hops <= alive | set(want.tolist())
    lives = alive | set(want.tolist())
    for i, (was, had, began, used, to) in enumerate(rows):
        is_over = was == to and (
            min(now, max(began, used)) + idle <= now
            or (deadline is not None and min(now, began) + deadline <= now)
        )
        if was != to and had == NONE and was in lives:
            assert after.old[i] == was
        if had in lives and not is_over:
            assert after.old[i] == had, "forgotten"
        if had != NONE and not is_over:
            assert after.old[i] != NONE, "recorded flows need the transition"
        same = [a[i] for a in show(after)] == [b[i] for b in before]
        assert same == (i not in got.changed)
    again = next_of(after)
    if idle and deadline != 0:
        assert show(again.buckets) == show(after)
        assert not len(again.changed)


@dataclass
class Flow:
    bucket: int
    hop: int
    last: int


@dataclass
class Program:
    """The rules of the program (KERNEL.md §8), for one table."""

    buckets: Buckets
    recorded: dict[int, int] = field(default_factory=dict)

    def packet(self, flow: int, bucket: int, syn: bool, now: int, dead: set[int]) -> int:
        owner, old = int(self.buckets.owner[bucket]), int(self.buckets.old[bucket])
        if old == NONE:
            return owner
        hop = owner if syn else self.recorded.get(flow, old)
        if hop in dead:
            hop = owner
        self.recorded[flow] = hop
        if hop != owner:
            self.buckets.stamp[bucket] = now
        return hop


COUNT = 5
IDLE, DEADLINE = 50, 300


class Histories(RuleBasedStateMachine):
    """Members come, drain and go in any order, while flows begin and speak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000
        self.flows: dict[int, Flow] = {}
        self.members, self.dead, self.draining = {A, B}, {C, D}, set[int]()
        self.began: dict[int, int] = {}
        self.opened = 0

    @initialize(want=st.lists(st.sampled_from([A, B]), min_size=COUNT, max_size=COUNT))
    def begin(self, want: list[int]) -> None:
        self.want = numbers(*want)
        self.program = Program(steady(self.want, self.now))

    def move_on(self) -> None:
        before = self.program.buckets
        living = {A, B, C, D} - self.dead
        got = advance(before, self.want, living=living, now=self.now, idle=IDLE,
                      deadline=DEADLINE)  # fmt: skip
        for i in np.flatnonzero(before.owner != self.want).tolist():
            self.began[i] = self.now
        self.program.buckets = got.buckets

    @rule(data=st.data(), passed=st.integers(0, 30))
    def change(self, data: st.DataObject, passed: int) -> None:
        """Some next hops are members from now on, some drain, some are dead."""
        self.now += passed
        self.members = data.draw(st.sets(hops, min_size=1))
        others = {A, B, C, D} - self.members
        self.dead = data.draw(st.sets(st.sampled_from(sorted(others)))) if others else set()
        pick = st.sampled_from(sorted(self.members))
        self.want = numbers(*data.draw(st.lists(pick, min_size=COUNT, max_size=COUNT)))
        self.flows = {n: f for n, f in self.flows.items() if f.hop not in self.dead}
        self.move_on()

    @rule(bucket=st.integers(0, COUNT - 1))
    def open(self, bucket: int) -> None:
        self.opened += 1
        hop = self.program.packet(self.opened, bucket, True, self.now, self.dead)
        assert hop == self.want[bucket], "a new flow goes to the new owner at once"
        self.flows[self.opened] = Flow(bucket, hop, self.now)

    @precondition(lambda self: self.flows)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.flows)))
        flow = self.flows[number]
        hop = self.program.packet(number, flow.bucket, False, self.now, self.dead)
        is_silent = self.now - flow.last >= IDLE
        is_late = self.now - self.began.get(flow.bucket, self.now) >= DEADLINE
        if not is_silent and not is_late:
            assert hop == flow.hop, "a flow has moved"
        if hop != flow.hop:
            del self.flows[number]
        else:
            flow.last = self.now

    @rule(passed=st.integers(1, 40))
    def wait(self, passed: int) -> None:
        self.now += passed
        self.move_on()

    @invariant()
    def nothing_points_to_the_dead(self) -> None:
        if hasattr(self, "program"):
            assert not self.program.buckets.hops & self.dead

    @invariant()
    def it_ends(self) -> None:
        """Left alone, every transition ends, and the table is the target."""
        if hasattr(self, "program"):
            end = advance(
                self.program.buckets, self.want, living={A, B, C, D} - self.dead,
                now=self.now + IDLE + 1, idle=IDLE, deadline=None,
            )  # fmt: skip
            assert not end.buckets.moving.any()
            assert end.look_at is None


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase

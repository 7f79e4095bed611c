"""A step moves what may move, and nothing else; all steps end in the target."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.hashing.step import Step, step
from samepath.hashing.table import Member, Table, build, from_owners, moves

A, B, C = (bytes((10, 0, 0, i)) for i in (1, 2, 3))


def world(data: st.DataObject) -> list[Member]:
    ids = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=8, unique=True))
    return [Member(bytes((10, 0, 0, i)), 1 + i % 3) for i in ids]


def test_a_new_table_is_its_target() -> None:
    target = from_owners([A, B, A])
    assert step(None, target, living=[], idle_s=None, idle_timer_s=60) == Step(target, (), ())


def test_each_rule_once() -> None:
    present = from_owners([A, A, B, B, C, C])
    target = from_owners([B, B, B, A, C, A])
    result = step(
        present, target, living=[B, C], idle_s=[0, 0, 0, 59.9, 1000, 60.0], idle_timer_s=60
    )
    # A is in the target, so it lives though `living` does not say so: its busy buckets wait.
    assert result.owners.addresses() == [A, A, B, B, C, A]
    assert [(m.bucket, m.old, m.new) for m in result.moved] == [(5, C, A)]
    assert [(m.bucket, m.old, m.new) for m in result.waiting] == [(0, A, B), (1, A, B), (3, B, A)]

    target = from_owners([B, B, B, C, C, C])
    result = step(present, target, living=[B, C], idle_s=[0] * 6, idle_timer_s=60)
    assert result.owners.addresses() == [B, B, B, B, C, C]
    assert [move.bucket for move in result.moved] == [0, 1]
    assert [move.bucket for move in result.waiting] == [3]

    result = step(present, target, living=[B, C], idle_s=None, idle_timer_s=0, deadline_passed=True)
    assert result.owners == target


def test_a_draining_member_keeps_its_busy_buckets() -> None:
    present, target = from_owners([A, B, A, B]), from_owners([B, B, B, B])
    result = step(present, target, living=[A, B], idle_s=[0, 0, 100, 100], idle_timer_s=60)
    assert result.owners.addresses() == [A, B, B, B]


def test_unknown_idle_times_mean_busy() -> None:
    present, target = from_owners([A, A]), from_owners([B, B])
    result = step(present, target, living=[A, B], idle_s=None, idle_timer_s=0)
    assert result.owners == present
    result = step(present, target, living=[A], idle_s=[float("nan"), 1.0], idle_timer_s=1)
    assert result.owners.addresses() == [A, B]


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="idle times"):
        step(from_owners([A]), from_owners([B]), living=[], idle_s=[1, 2], idle_timer_s=1)
    with pytest.raises(ValueError, match="common bucket"):
        step(from_owners([A]), from_owners([B, B]), living=[], idle_s=None, idle_timer_s=1)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 80), st.booleans())
def test_a_step_moves_exactly_what_may_move(
    data: st.DataObject, buckets: int, deadline: bool
) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    owners = [bytes((10, 0, 0, rng.randrange(1, 13))) for _ in range(buckets)]
    present, target = from_owners(owners), build(world(data), buckets)
    living = {*target.members, *rng.sample(present.members, rng.randrange(len(present.members)))}
    idle = np.array([rng.choice([0.0, 59.9, 60.0, 1e9]) for _ in range(buckets)])
    known = rng.random() < 0.9
    result = step(
        present, target, living=living, idle_s=idle if known else None, idle_timer_s=60,
        deadline_passed=deadline,
    )  # fmt: skip
    for b in range(buckets):
        may = owners[b] not in living or deadline or (known and idle[b] >= 60)
        assert result.owners.owner(b) == (target.owner(b) if may else owners[b])
    assert result.moved == moves(present, result.owners)
    assert result.waiting == moves(result.owners, target)
    again = step(result.owners, target, living=living, idle_s=None, idle_timer_s=60)
    assert again == Step(result.owners, (), result.waiting)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 60))
def test_two_histories_end_in_the_same_table(data: st.DataObject, buckets: int) -> None:
    last = build(world(data), buckets)
    ends: list[Table | None] = []
    for _ in range(2):
        rng = random.Random(data.draw(st.integers(0, 2**32)))
        present: Table | None = None
        for _ in range(rng.randrange(5)):
            target = build(world(data), buckets)
            idle = [rng.choice([0, 100]) for _ in range(buckets)]
            living = [m for m in (present or target).members if rng.random() < 0.7]
            present = step(
                present, target, living=living, idle_s=idle, idle_timer_s=60,
                deadline_passed=rng.random() < 0.1,
            ).owners  # fmt: skip
        survivors = present.members if present else ()
        for done in (50, 100):  # busy: only what is new; then idle: all
            present = step(
                present, last, living=survivors, idle_s=[done] * buckets, idle_timer_s=60
            ).owners
        ends.append(present)
    assert ends == [last, last]

"""How much a change moves, and that it never moves more than docs/hashing.md promises."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.hashing.table import Member, build, moves, shares


def nodes(count: int, rng: random.Random, weights: tuple[int, ...] = (1,)) -> list[Member]:
    ids = rng.sample(range(1 << 24), count)
    return [Member(bytes((10, *i.to_bytes(3, "big"))), rng.choice(weights)) for i in ids]


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 40), st.integers(1, 300), st.integers(0, 2**32))
def test_removal_of_one_of_equals_is_bounded(count: int, buckets: int, seed: int) -> None:
    """All of the departed member's c buckets move; each one drags at most one bucket of each
    remaining member but its taker: others' moves <= c (N - 2)."""
    members = nodes(count, random.Random(seed))
    gone, rest = members[0], members[1:]
    before, after = build(members, buckets), build(rest, buckets)
    owned = before.count(gone.id)
    made = moves(before, after)
    own = [move for move in made if move.old == gone.id]
    others = [move for move in made if move.old != gone.id]
    assert len(own) == owned
    assert len(others) <= owned * (count - 2)
    # Nobody is left with less than before, so a bucket that another gives up is one for one.
    assert all(after.count(m.id) >= before.count(m.id) for m in rest)
    if count == 2:
        assert not others


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32))
def test_addition_of_an_equal_is_bounded(count: int, buckets: int, seed: int) -> None:
    """The mirror image: the new member takes its c buckets, others' moves <= c (N - 1)."""
    rng = random.Random(seed)
    members = nodes(count + 1, rng)
    new, old = members[0], members[1:]
    before, after = build(old, buckets), build(members, buckets)
    taken = [move for move in moves(before, after) if move.new == new.id]
    others = [move for move in moves(before, after) if move.new != new.id]
    assert len(taken) == after.count(new.id)
    assert len(others) <= len(taken) * (count - 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.integers(1, 300), st.integers(0, 2**32))
def test_any_change_is_bounded(count: int, buckets: int, seed: int) -> None:
    """Any change of members and weights: every bucket of share given up or gained is one chain of
    at most one move a member."""
    rng = random.Random(seed)
    weights = (1, 2, 3, 10)
    world = nodes(count + 2, rng, weights)
    before = world[: rng.randrange(1, len(world) + 1)]
    after = [
        Member(m.id, rng.choice(weights)) for m in rng.sample(world, rng.randrange(1, count + 1))
    ]
    old, new = shares(before, buckets), shares(after, buckets)
    everyone = {*old, *new}
    up = sum(max(0, new.get(i, 0) - old.get(i, 0)) for i in everyone)
    made = len(moves(build(before, buckets), build(after, buckets)))
    assert up <= made <= 2 * up * len(everyone)


def test_weights_alone_do_not_change_anyones_order_of_preference() -> None:
    """One more unit for one member: it loses nothing that it had, as shares alone decide."""
    rng = random.Random(3)
    members = nodes(16, rng)
    heavier = [Member(members[0].id, 2), *members[1:]]
    made = moves(build(members, 1021), build(heavier, 1021))
    assert not [move for move in made if move.old == members[0].id]


def test_the_measured_movement_stays_as_documented() -> None:
    """docs/hashing.md: moved on addition, relative to 1/(N+1), at the default of 1021 buckets."""
    for count, most in ((4, 1.15), (8, 1.25), (16, 1.5), (64, 3.0)):
        moved = unavoidable = 0.0
        for seed in range(6):
            members = nodes(count + 1, random.Random(seed))
            moved += len(moves(build(members[1:], 1021), build(members, 1021)))
            unavoidable += 1021 / (count + 1)
        assert moved / unavoidable < most

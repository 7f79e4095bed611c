"""Bounded weighted rendezvous: the result, and nothing but the members, makes the table."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.hashing import table as module
from samepath.hashing.table import Member, Table, build, from_owners, moves, score, shares

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


def member_sets(most: int = 12, weight: int = 9) -> st.SearchStrategy[list[Member]]:
    one = st.builds(Member, addresses, st.integers(1, weight))
    return st.lists(one, min_size=1, max_size=most, unique_by=lambda m: m.id)


def node(i: int, weight: int = 1) -> Member:
    return Member(bytes((10, 0, i >> 8, i & 255)), weight)


def greedy(members: list[Member], buckets: int, seed: int = 0) -> list[bytes]:
    """The definition in docs/hashing.md, word by word: the oracle."""
    left = shares(members, buckets)
    pairs = sorted(
        (-score(m.id, b, seed), m.id, b) for m in members for b in range(buckets)
    )  # highest score first; ties: lower id, then lower bucket
    owners: dict[int, bytes] = {}
    for _, member, bucket in pairs:
        if bucket not in owners and left[member]:
            owners[bucket] = member
            left[member] -= 1
    return [owners[b] for b in range(buckets)]


@settings(max_examples=60, deadline=None)
@given(member_sets(), st.integers(1, 90), st.integers(0, 2**64 - 1))
def test_the_fast_build_is_the_naive_greedy(members: list[Member], buckets: int, seed: int) -> None:
    assert build(members, buckets, seed).addresses() == greedy(members, buckets, seed)


@pytest.mark.parametrize(("count", "buckets"), [(64, 1021), (5, 4093), (300, 251)])
def test_the_fast_build_is_the_naive_greedy_in_many_slices(count: int, buckets: int) -> None:
    members = [node(i, 1 + i % 3) for i in range(count)]
    assert build(members, buckets).addresses() == greedy(members, buckets)


def test_ties_in_score_go_to_the_lower_id_then_to_the_lower_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "member_key", lambda member, seed=0: 42)  # every member ties
    members = [node(i) for i in range(9)]
    built = build(members, 997, seed=5)
    module._build.cache_clear()
    assert built.addresses() == greedy(members, 997)


@settings(max_examples=200, deadline=None)
@given(member_sets(40, 10**12), st.integers(1, 4093))
def test_shares_are_exact(members: list[Member], buckets: int) -> None:
    parts = shares(members, buckets)
    total = sum(m.weight for m in members)
    assert sum(parts.values()) == buckets
    for m in members:
        assert buckets * m.weight // total <= parts[m.id] <= -(-buckets * m.weight // total)
    # Largest remainder: who was rounded up had no smaller remainder than who was not.
    up = [
        (buckets * m.weight % total, m)
        for m in members
        if parts[m.id] > buckets * m.weight // total
    ]
    down = [
        (buckets * m.weight % total, m)
        for m in members
        if (buckets * m.weight % total, m) not in up
    ]
    for r, m in up:
        assert all(r > s or (r == s and m.id < n.id) for s, n in down)


@settings(max_examples=50, deadline=None)
@given(member_sets(20, 1000), st.integers(1, 1021))
def test_each_member_owns_its_share(members: list[Member], buckets: int) -> None:
    table = build(members, buckets)
    parts = shares(members, buckets)
    assert table.counts() == {m: n for m, n in parts.items() if n}
    assert {m.id: table.count(m.id) for m in members} == parts
    assert table.count(b"\1\2\3") == 0


def test_a_thousand_histories_make_one_table() -> None:
    """Members come, go and change their weights in any order: only who is there at last counts."""
    last = [node(i, 1 + i % 4) for i in range(12)]
    tables = set()
    for history in range(1000):
        rng = random.Random(history)
        world: dict[bytes, Member] = {}
        for _ in range(rng.randrange(6)):
            one = node(rng.randrange(40), rng.randrange(1, 9))
            if rng.random() < 0.3:
                world.pop(one.id, None)
            else:
                world[one.id] = one
            if world and rng.random() < 0.5:
                build(world.values(), 251)
        for gone in [i for i in world if i not in {m.id for m in last}]:
            del world[gone]
        for one in rng.sample(last, len(last)):
            world.pop(one.id, None)
            world[one.id] = one
        module._build.cache_clear()
        tables.add(build(world.values(), 251).digest)
    assert len(tables) == 1


@settings(max_examples=60, deadline=None)
@given(member_sets(10), st.integers(2, 200), st.data())
def test_the_table_is_the_stable_matching(
    members: list[Member], buckets: int, data: st.DataObject
) -> None:
    """No bucket and member prefer each other to what they have."""
    table = build(members, buckets)
    bucket = data.draw(st.integers(0, buckets - 1))
    mine = score(table.owner(bucket), bucket)
    for m in members:
        owned = [b for b in range(buckets) if table.owner(b) == m.id]
        worst = min((score(m.id, b) for b in owned), default=2**64)
        assert score(m.id, bucket) <= max(mine, worst)


def test_weights_scale_shares_alone() -> None:
    """Twice all weights is the same table."""
    members = [node(i, 1 + i) for i in range(7)]
    doubled = [Member(m.id, 2 * m.weight) for m in members]
    assert build(members, 1021) == build(doubled, 1021)


def test_seeds_and_families_make_other_tables() -> None:
    members = [node(i) for i in range(4)]
    assert build(members, 251, 0) != build(members, 251, 1)
    # An IPv6 address that begins with, or pads, the octets of an IPv4 address scores for itself.
    four, six = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 1)) + bytes(12)
    assert score(four, 0) != score(six, 0)


@pytest.mark.parametrize(
    ("members", "buckets", "seed", "words"),
    [
        ([], 8, 0, "at least one member"),
        ([node(1), node(1, 2)], 8, 0, "stands twice"),
        ([node(1)], 0, 0, "buckets"),
        ([node(1)], 65536, 0, "buckets"),
        ([node(1)], 8, 2**64, "seed"),
        ([node(1)], 8, -1, "seed"),
    ],
)
def test_bad_arguments_are_refused(
    members: list[Member], buckets: int, seed: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(members, buckets, seed)


def test_a_weight_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        Member(b"\x0a\0\0\1", 0)


def test_more_members_than_buckets() -> None:
    table = build([node(i) for i in range(300)], 17)
    assert sorted(table.counts().values()) == [1] * 17
    assert len(table.members) == 17


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([node(i).id for i in range(6)]), min_size=1, max_size=60))
def test_from_owners_is_what_is_owned(owners: list[bytes]) -> None:
    table = from_owners(owners)
    assert table.addresses() == owners
    assert table.members == tuple(sorted(set(owners)))
    # The same with members that own nothing, before, between and behind the others.
    everyone = tuple(node(i).id for i in range(7))
    index = np.array([everyone.index(o) for o in owners], np.uint16)
    same = Table(everyone, index)
    assert same == table
    assert same.digest == table.digest
    assert hash(same) == hash(table)
    assert same.members == table.members


def test_the_digest_tells_tables_apart() -> None:
    one, two = node(1).id, node(2).id
    different = [[one, two], [two, one], [one, one], [two, two], [one], [two], [one, two, one]]
    assert len({from_owners(owners).digest for owners in different}) == len(different)
    assert len(from_owners([one]).digest) == 16


def test_a_table_cannot_be_changed() -> None:
    owners = np.array([0, 1], np.uint16)
    table = Table((node(1).id, node(2).id), owners)
    owners[0] = 1
    assert table.owner(0) == node(1).id
    with pytest.raises(ValueError, match="read-only"):
        table.owners[0] = 1


@pytest.mark.parametrize(
    ("members", "owners"),
    [((node(2).id, node(1).id), [0, 1]), ((node(1).id,) * 2, [0, 1]), ((node(1).id,), [1])],
)
def test_a_wrong_table_is_refused(members: tuple[bytes, ...], owners: list[int]) -> None:
    with pytest.raises(ValueError, match="member"):
        Table(members, np.array(owners, np.uint16))


@settings(max_examples=60, deadline=None)
@given(member_sets(8), member_sets(8), st.integers(1, 120))
def test_moves_turn_one_table_into_the_other(
    a: list[Member], b: list[Member], buckets: int
) -> None:
    present, target = build(a, buckets), build(b, buckets)
    owners = present.addresses()
    for move in moves(present, target):
        assert owners[move.bucket] == move.old != move.new
        owners[move.bucket] = move.new
    assert from_owners(owners) == target
    assert moves(target, target) == ()


def test_tables_of_other_sizes_have_no_moves() -> None:
    with pytest.raises(ValueError, match="buckets"):
        moves(build([node(1)], 8), build([node(1)], 9))

"""Which replica a bucket names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.apply.replicas import Replicas, assign
from samepath.model.net import Family, parse_address
from samepath.model.ours import replica_id, slot_of
from samepath.netlink.objects import NextHop

Slots = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(st.data(), Slots)
def test_unmoved_buckets_keep_their_replica_and_no_replica_stands_twice(
    data: st.DataObject, first: list[int]
) -> None:
    before = assign(first, None)
    assert [slot_of(e) for e in before] == first
    assert len(set(before)) == len(before)
    then = data.draw(st.lists(st.integers(0, 7), min_size=len(first), max_size=len(first)))
    after = assign(then, before)
    assert [slot_of(e) for e in after] == then
    assert len(set(after)) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new == old or slot_of(new) != slot_of(old)
        assert new == old or new not in before, "the kernel would leave it where it was"


def test_largest_table_has_replicas_to_spare() -> None:
    """Whatever a next hop loses and gains at once in 4,093 buckets, its slot has room for it."""
    first = [0] * 3993 + [1] * 100
    before = assign(first, None)
    swapped = [1] * 100 + [0] * 3893 + [0] * 100
    once = assign(swapped, before)
    assert len(set(once)) == 4093
    assert [slot_of(e) for e in once] == swapped
    reversed_ = assign([1] * 3993 + [0] * 100, once)
    assert [slot_of(e) for e in reversed_] == [1] * 3993 + [0] * 100
    full = assign([0] * 4093, None)
    assert [slot_of(e) for e in assign([1] * 4093, full)] == [1] * 4093


def test_replica_that_stands_twice_is_kept_by_nobody() -> None:
    """Which of the buckets would keep it is the kernel's choice."""
    before = assign([0, 0, 0, 1], None)
    doubled = [before[0], before[0], before[2], before[3]]
    after = assign([0, 0, 0, 1], doubled)
    assert after[2:] == before[2:]
    assert before[0] not in after
    assert len(set(after)) == 4


def test_pool_makes_only_what_is_missing_and_removes_only_whole_slots() -> None:
    gateway = parse_address("10.0.0.1")
    pool = Replicas()
    entries = assign([3, 3, 4], None)
    hops = {3: (gateway, 7), 4: (parse_address("10.0.0.2"), 7)}
    missing = pool.missing(entries, hops)
    assert [n.id for n in missing] == entries
    pool.made(missing)
    assert pool.missing(entries, hops) == []
    assert pool.unused({3, 4}) == []
    assert pool.unused({3}) == [entries[2]]
    pool.gone([entries[2]])
    assert pool.ids() == set(entries[:2])


def test_replica_0_belongs_to_plain_routes() -> None:
    pool = Replicas()
    gateway = parse_address("10.0.0.1")
    pool.adopt([NextHop(replica_id(2, n), Family.IPV4, gateway, 7) for n in range(3)])
    assert pool.ids() == {replica_id(2, 1), replica_id(2, 2)}

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.apply.slots import NoSlotLeft, Slots
from samepath.model import ours
from samepath.model.net import Family, parse_address
from samepath.netlink.objects import NextHop

A, B, C = (parse_address(f"10.9.0.{i}") for i in (2, 3, 4))


def replica(slot: int, number: int, gateway: bytes, oif: int = 3) -> NextHop:
    return NextHop(ours.replica_id(slot, number), Family.IPV4, gateway, oif)


def test_a_way_keeps_its_slot() -> None:
    slots = Slots()
    first = slots.slot(A, 3)
    assert slots.slot(B, 3) != first
    assert slots.slot(A, 4) != first
    assert slots.slot(A, 3) == first
    assert slots.way(first) == (A, 3)
    assert len(slots) == 3


def test_slots_are_read_back_from_the_kernel() -> None:
    slots = Slots()
    slots.adopt([replica(5, 0, A), replica(5, 7, A), replica(2, 1, B)])
    assert slots.slot(A, 3) == 5
    assert slots.slot(B, 3) == 2
    assert [slots.slot(C, i) for i in range(5)] == [0, 1, 3, 4, 6]


def test_what_a_slot_means_does_not_change_by_reading() -> None:
    slots = Slots()
    slots.adopt([replica(5, 0, A), replica(5, 1, B)])
    slots.adopt([replica(5, 0, C)])
    assert slots.way(5) == (A, 3)
    assert slots.slot(A, 3) == 5
    assert 5 not in (slots.slot(B, 3), slots.slot(C, 3))


def test_other_next_hops_mean_nothing() -> None:
    slots = Slots()
    slots.adopt(
        [NextHop(7, Family.IPV4, A, 3), NextHop(ours.replica_id(4, 0), Family.IPV4, None, 3)]
    )
    assert len(slots) == 0


def test_slots_that_nobody_names_are_free_again() -> None:
    slots = Slots()
    a, b, c = (slots.slot(x, 3) for x in (A, B, C))
    slots.retain({b})
    assert slots.way(a) is None
    assert slots.slot(B, 3) == b
    assert {slots.slot(C, 9), slots.slot(A, 9)} == {a, c}


def test_slots_run_out() -> None:
    slots = Slots()
    for i in range(ours.SLOTS):
        slots.slot(A, i)
    with pytest.raises(NoSlotLeft):
        slots.slot(B, 0)


_ways = st.tuples(st.sampled_from([A, B, C]), st.integers(1, 4))


@given(st.lists(st.one_of(_ways, st.sets(_ways)), max_size=40), st.lists(_ways, max_size=5))
def test_no_slot_ever_has_two_meanings(steps: list, held: list) -> None:
    slots = Slots()
    slots.adopt(replica(i * 3, 0, gateway, oif) for i, (gateway, oif) in enumerate(held))
    known: dict = {}
    for step in steps:
        if isinstance(step, set):
            known = {way: slot for way, slot in known.items() if way in step}
            slots.retain(known.values())
        else:
            known[step] = slots.slot(*step)
        assert len(set(known.values())) == len(known)
        assert all(slots.way(slot) == way for way, slot in known.items())
        assert all(slots.slot(*way) == slot for way, slot in known.items())

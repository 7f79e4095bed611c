"""A drain lasts until its flows are gone or its deadline, and stays over while its reason lasts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.plan.drains import LEAST_S, Drains

A, B = b"\xcb\0\x71\x0a", b"\xcb\0\x71\x0b"


def test_it_ends_when_no_flow_is_left() -> None:
    drains = Drains()
    drains.update({A, B}, 100.0)
    assert drains.running == {A, B}
    assert drains.counted({A: 2}, 100.5, 300.0) == frozenset(), "not before the gateways know"
    assert drains.counted({A: 1}, 100.0 + LEAST_S, 300.0) == {B}
    assert drains.running == {A}
    assert drains.over == {B}
    assert drains.rows[A].flows == 1
    assert drains.counted({}, 110.0, 300.0) == {A}
    drains.update({A, B}, 400.0)
    assert drains.over == {A, B}, "as long as the reason lasts"
    drains.update({A}, 401.0)
    drains.update({A, B}, 402.0)
    assert drains.running == {B}, "a new drain of its own"


def test_it_ends_at_the_deadline() -> None:
    drains = Drains()
    drains.update({A}, 100.0)
    assert drains.counted({A: 5}, 129.0, 30.0) == frozenset()
    assert drains.counted(None, 130.0, 30.0) == {A}, "even if nobody can count"


def test_flows_that_cannot_be_counted_end_nothing() -> None:
    drains = Drains()
    drains.update({A}, 100.0)
    assert drains.counted(None, 120.0, 30.0) == frozenset()


def test_after_a_restart_it_may_end_at_once() -> None:
    drains = Drains()
    drains.update({A}, 100.0, starting=True)
    assert drains.counted({}, 100.0, 300.0) == {A}


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from([A, B])), st.booleans(), st.integers(0, 2)), max_size=12
    )
)
def test_rows_are_what_drains_now(steps: list[tuple[set[bytes], bool, int]]) -> None:
    drains, now = Drains(), 0.0
    over: set[bytes] = set()
    for draining, counts, flows in steps:
        now += 1.0
        drains.update(draining, now)
        over &= draining
        if counts:
            over |= drains.counted({A: flows}, now, 5.0)
        assert drains.rows.keys() == draining
        assert drains.over == over
        assert drains.running == draining - over

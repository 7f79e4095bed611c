"""A kind whose objects are gone all at once."""

from __future__ import annotations

import math

from samepath.kube.vanished import BACK_S, DOUBT_S, TOGETHER_S, Vanished
from samepath.model.kinds import Namespace

A, B = (("", name) for name in "ab")
TWO = {A: Namespace(name="a"), B: Namespace(name="b")}


def held(one: Vanished) -> set[str]:
    return {name for _, name in one.held}


def test_all_of_it_goes_and_the_kind_too() -> None:
    one = Vanished()
    assert not one.look(TWO, is_missing=False, now=0)
    assert not one.look({B: TWO[B]}, is_missing=False, now=100)  # one by one
    assert held(one) == set()
    assert one.look({}, is_missing=False, now=100.5)
    assert held(one) == {"a", "b"}
    assert one.until == 100.5 + DOUBT_S
    assert "a, b" in one.text("peers")
    one.look({}, is_missing=True, now=103)
    assert one.until == math.inf
    assert not one.look({}, is_missing=True, now=9999)
    assert "not installed any more" in one.text("peers")
    # It is back, and so are they, one after the other.
    one.look({}, is_missing=False, now=10_000)
    assert one.until == 10_000 + BACK_S
    assert "is back" in one.text("peers")
    assert one.look({A: Namespace(name="a", labels={"x": "y"})}, is_missing=False, now=10_001)
    assert held(one) == {"b"}
    assert one.look(TWO, is_missing=False, now=10_002)
    assert (held(one), one.until, one.text("peers")) == (set(), math.inf, "")


def test_somebody_has_deleted_them_and_means_it() -> None:
    one = Vanished()
    one.look(TWO, is_missing=False, now=0)
    one.look({B: TWO[B]}, is_missing=False, now=10)
    one.look({}, is_missing=False, now=10 + TOGETHER_S)
    assert held(one) == {"b"}, "the other went by itself"
    assert not one.look({}, is_missing=False, now=one.until - 0.1)
    assert one.look({}, is_missing=False, now=one.until)
    assert held(one) == set()
    # Nothing of it is left for another time.
    assert not one.look({}, is_missing=True, now=1000)
    one.look({A: TWO[A]}, is_missing=False, now=1100)
    one.look({}, is_missing=False, now=1200)
    assert held(one) == {"a"}


def test_the_kind_is_back_and_they_are_not() -> None:
    one = Vanished()
    one.look(TWO, is_missing=False, now=0)
    # The kind is away, with its objects, for a moment that nobody has seen.
    one.look(TWO, is_missing=True, now=1)
    one.look({}, is_missing=False, now=2)
    assert held(one) == {"a", "b"}
    assert one.until == 2 + BACK_S
    assert one.look({}, is_missing=False, now=2 + BACK_S)
    assert held(one) == set()


def test_a_kind_that_was_never_there_holds_nothing() -> None:
    one = Vanished()
    for missing in (True, False, True):
        assert not one.look({}, is_missing=missing, now=1)
    assert one.until == math.inf

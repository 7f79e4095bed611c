"""Whose blocks are free again: after a grace, and never many at once by mistake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.kube.kinds import claim_name
from samepath.model.kinds import BlockClaim
from samepath.model.net import Family, make_nlri
from samepath.plan.dead_nodes import Missing, examine


def claim(number: int, node: str) -> BlockClaim:
    cidr = make_nlri(bytes((10, 0, number, 0)), 26)
    return BlockClaim(
        name=claim_name(Family.IPV4, cidr),
        family=Family.IPV4,
        cidr=cidr,
        node=node,
        uid=str(number),
    )


CLAIMS = [claim(1, "a"), claim(2, "b"), claim(3, "b"), claim(4, "c")]


def test_after_the_grace() -> None:
    found = examine({"a", "c"}, CLAIMS, Missing(), 100.0, 900.0)
    assert (dict(found.since), found.due) == ({"b": 100.0}, ())
    found = examine({"a", "c"}, CLAIMS, found, 999.0, 900.0)
    assert found.due == ()
    found = examine({"a", "c"}, CLAIMS, found, 1000.0, 900.0)
    assert [c.node for c in found.due] == ["b", "b"]


def test_one_that_comes_back_begins_anew() -> None:
    found = examine({"a", "c"}, CLAIMS, Missing(), 0.0, 900.0)
    found = examine({"a", "b", "c"}, CLAIMS, found, 899.0, 900.0)
    assert found == Missing()
    found = examine({"a", "c"}, CLAIMS, found, 901.0, 900.0)
    assert not found.due


def test_too_many_at_once_is_our_mistake() -> None:
    missing = Missing(since={"b": 0.0, "c": 0.0})
    found = examine({"a"}, CLAIMS, missing, 1e6, 900.0)
    assert "2 of 3 nodes" in found.halted
    assert (dict(found.since), found.due) == ({}, ())
    found = examine({"a", "c"}, CLAIMS, found, 1e6, 900.0)
    assert not found.halted
    assert not found.due, "the grace begins anew"
    assert examine(set(), CLAIMS, missing, 1e6, 900.0).halted
    assert examine(set(), [], Missing(), 0.0, 900.0) == Missing()


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.floats(1.0, 500.0)), max_size=20),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from("abcdef")), max_size=12),
)
def test_nothing_of_a_node_that_was_seen_within_the_grace(
    history: list[tuple[set[str], float]], owners: list[tuple[int, str]]
) -> None:
    claims = [claim(number, node) for number, node in dict(owners).items()]
    seen_at = dict.fromkeys("abcdef", 0.0)
    state, now = Missing(), 0.0
    for nodes, passed_s in history:
        now += passed_s
        seen_at.update(dict.fromkeys(nodes, now))
        state = examine(nodes, claims, state, now, 900.0)
        for found in state.due:
            assert found.node not in nodes
            assert now - seen_at[found.node] >= 900.0
            every = {c.node for c in claims} | nodes
            assert 2 * len({c.node for c in claims} - nodes) <= len(every)

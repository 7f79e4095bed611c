"""Other import rules for a thousand neighbours: whom they do not concern they cost nothing."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from test_bgp_ownership import A, B, C, held, rib, tell

from samepath.bgp.attributes import PathAttributes
from samepath.bgp.policy import ImportRule
from samepath.model.neighbor import Import
from samepath.model.net import Family, make_nlri

LISTS = [
    "10.0.0.0/8",
    "10.244.0.0/16",
    "192.0.2.0/24",
    "192.0.2.0/25",
    "2001:db8::/32",
    "0.0.0.0/0",
]
TOLD = ["10.1.0.0/16", "10.244.1.0/24", "192.0.2.1/32", "192.0.2.200/32", "2001:db8:9::/48",
        "198.51.100.0/24"]  # fmt: skip
rules = st.builds(
    Import,
    services=st.lists(st.sampled_from(LISTS), unique=True, max_size=3),
    pods=st.lists(st.sampled_from(LISTS), unique=True, max_size=3),
    routes=st.lists(st.sampled_from(LISTS), unique=True, max_size=3),
    max_prefixes=st.sampled_from((3, 10_000)),
    next_hop=st.sampled_from(("any", "peer")),
)
told = st.lists(st.tuples(st.sampled_from((A, B, C)), st.sampled_from(TOLD)), max_size=12)


@given(told, rules, rules)
def test_whoever_is_not_affected_has_the_same_as_if_everything_were_looked_at_again(
    said: list[tuple[bytes, str]], before: Import, after: Import
) -> None:
    old, new = ImportRule(before), ImportRule(after)
    short, whole = rib(A, B, C, rule=old), rib(A, B, C, rule=old)
    for peer, text in said:
        tell(short, peer, text)
        tell(whole, peer, text)
    affected = short.affected(old, new)
    asks = []
    for peer in (A, B, C):
        whole.reimport(peer, new)
        if affected is None or peer in affected:
            short.reimport(peer, new)
        elif short.take_rule(peer, new):
            asks.append(peer)
    assert held(short) == held(whole)
    # Who is asked again says what it said before; the others have had nothing refused by lists.
    for peer, text in said:
        tell(whole, peer, text)
        if peer in asks or affected is None or peer in affected:
            tell(short, peer, text)
    assert held(short) == held(whole)


def test_a_pool_more_concerns_nobody_and_takes_no_time() -> None:
    """A thousand neighbours with a hundred services each: looking at all of them took seconds."""
    before = Import(services=["198.18.0.0/16"], next_hop="peer")
    after = Import(services=["198.18.0.0/16", "203.0.113.0/24"], next_hop="peer")
    old, new = ImportRule(before), ImportRule(after)
    peers = [bytes((10, 10, n >> 8, n & 255)) for n in range(1000)]
    table = rib(*peers, rule=old)
    services = [make_nlri((0xC6120000 + n).to_bytes(4, "big"), 32) for n in range(5000)]
    for number, peer in enumerate(peers):
        start = number % 50 * 100
        table.announce(peer, Family.IPV4, services[start : start + 100], PathAttributes(peer))
    table.take_changed()
    began = time.perf_counter()
    assert table.affected(old, new) == set()
    asked = [peer for peer in peers if table.take_rule(peer, new)]
    one_by_one = time.perf_counter() - began
    assert asked == []
    assert not table.is_changed
    began = time.perf_counter()
    for peer in peers[:20]:
        table.reimport(peer, new)
    assert one_by_one < (time.perf_counter() - began) * 5, "fifty times the neighbours"
    narrower = ImportRule(Import(services=["198.18.0.0/24"], next_hop="peer"))
    assert len(table.affected(new, narrower) or ()) == len(peers) - 40


def test_a_block_stays_its_owners_while_what_it_told_is_looked_at_again() -> None:
    """And the routes that go by it are refused one after the other meanwhile."""
    both = {"pods": ["10.0.0.0/8"], "next_hop": "peer"}
    table = rib(A, B, rule=ImportRule(Import(**both, routes=["192.0.2.0/24"])))  # type: ignore[arg-type]
    tell(table, B, "10.1.0.0/16", "192.0.2.0/25")
    tell(table, A, "10.1.0.0/16")
    table.reimport(B, ImportRule(Import(**both)))  # type: ignore[arg-type]
    assert held(table) == {"10.1.0.0/16": ["10.9.0.2"]}


def test_who_waits_for_a_block_is_affected_by_a_rule_that_forbids_it() -> None:
    old, new = ImportRule(Import(pods=["10.0.0.0/8"], next_hop="peer")), ImportRule(Import())
    table = rib(A, B, rule=old)
    tell(table, A, "10.1.0.0/16")
    tell(table, B, "10.1.0.0/16")
    assert table.affected(old, ImportRule(Import(next_hop="peer"))) == {A, B}
    for peer in (A, B):
        table.reimport(peer, new)
    assert held(table) == {}

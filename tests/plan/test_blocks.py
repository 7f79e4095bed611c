"""Which blocks are ours, which we claim next, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import IPPool, Node, make_cluster
from samepath.model.net import Family, make_nlri, parse_prefix
from samepath.plan.addresses import Block
from samepath.plan.blocks import (
    Gives,
    Next,
    Origin,
    OwnBlock,
    Situation,
    families,
    next_block,
    overlapping,
    own_blocks,
    owned_blocks,
)

POOL_BASE = 0x0A050000
"""10.5.0.0"""


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


def pool(
    name: str, cidr: str, size: int = 26, *, disabled: bool = False, selector: str = "all()"
) -> IPPool:
    family, nlri = parse_prefix(cidr)
    return IPPool(name, family, nlri, size, disabled=disabled, node_selector=selector)


def node(name: str, *cidrs: str, **labels: str) -> Node:
    return Node(name, tuple(parse_prefix(text) for text in cidrs), labels=labels)


def situation(
    *things: IPPool | Node,
    me: str = "n1",
    configured: tuple[str, ...] = (),
    claims: Mapping[str, str] | None = None,
) -> Situation:
    owners = None if claims is None else {block(text): owner for text, owner in claims.items()}
    return Situation(make_cluster(things), me, tuple(map(block, configured)), owners)


def own(here: Situation) -> dict[str, tuple[Origin, Gives, str]]:
    return {str(o.block): (o.origin, o.gives, o.pool) for o in own_blocks(here)}


def test_configured_blocks_go_before_those_of_the_node() -> None:
    me = node("n1", "10.1.0.0/24", "fd00:1::/64")
    assert own(situation(me, node("n2", "10.2.0.0/24"))) == {
        "10.1.0.0/24": (Origin.NODE, Gives.YES, ""),
        "fd00:1::/64": (Origin.NODE, Gives.YES, ""),
    }
    here = situation(me, configured=("10.9.0.0/24",), claims={"10.5.0.0/26": "n1"})
    assert own(here) == {
        "10.9.0.0/24": (Origin.CONFIGURED, Gives.YES, ""),
        "10.5.0.0/26": (Origin.CLAIMED, Gives.NO_POOL, ""),
    }
    assert own(situation(me="n7")) == {}


def test_claimed_blocks_are_ours_whatever_becomes_of_their_pool() -> None:
    claims = {"10.5.0.64/26": "n1", "10.5.0.0/26": "n1", "10.5.0.128/26": "n2"}
    for things, gives, name in (
        ((pool("p", "10.5.0.0/16"),), Gives.YES, "p"),
        ((pool("p", "10.5.0.0/16", disabled=True),), Gives.POOL_DISABLED, "p"),
        ((pool("p", "10.5.0.0/16", selector="has(x)"),), Gives.NOT_SELECTED, "p"),
        ((pool("p", "10.5.0.0/16", selector="has(x)"), node("n1", x="")), Gives.YES, "p"),
        ((pool("p", "10.5.0.0/27"),), Gives.NO_POOL, ""),
        ((), Gives.NO_POOL, ""),
    ):
        found = own(situation(*things, claims=claims))
        assert list(found) == ["10.5.0.0/26", "10.5.0.64/26"]
        assert set(found.values()) == {(Origin.CLAIMED, gives, name)}


def test_a_configured_block_needs_no_pool_but_heeds_one_that_is_disabled() -> None:
    assert own(situation(configured=("10.5.0.0/24",)))["10.5.0.0/24"][1] is Gives.YES
    here = situation(pool("p", "10.0.0.0/8", disabled=True), configured=("10.5.0.0/24",))
    assert own(here)["10.5.0.0/24"] == (Origin.CONFIGURED, Gives.POOL_DISABLED, "p")
    here = situation(pool("p", "10.0.0.0/8", selector="has(x)"), configured=("10.5.0.0/24",))
    assert own(here)["10.5.0.0/24"] == (Origin.CONFIGURED, Gives.YES, "p")


def test_a_claim_within_a_block_that_is_ours_already_adds_nothing() -> None:
    here = situation(configured=("10.5.0.0/24",), claims={"10.5.0.64/26": "n1"})
    assert list(own(here)) == ["10.5.0.0/24"]


def test_why_there_is_nothing_to_claim() -> None:
    def why(*things: IPPool | Node, claims: Mapping[str, str] | None = None) -> Next:
        return next_block(situation(*things, claims=claims), Family.IPV4).why

    assert why(pool("p", "10.5.0.0/16")) is Next.NO_CLAIMS
    assert why(pool("p", "fd00::/48", 122), claims={}) is Next.NO_POOL
    assert why(pool("p", "10.5.0.0/16", disabled=True), claims={}) is Next.POOLS_DISABLED
    labelled = pool("p", "10.5.0.0/16", selector='zone == "a"')
    assert why(labelled, node("n1", zone="b"), claims={}) is Next.NO_POOL_SELECTS_NODE
    assert why(labelled, claims={}) is Next.NO_POOL_SELECTS_NODE
    assert why(labelled, node("n1", zone="a"), claims={}) is Next.CLAIM
    full = {"10.5.0.0/26": "n2", "10.5.0.64/26": "n3"}
    assert why(pool("p", "10.5.0.0/25"), claims=full) is Next.POOL_EXHAUSTED
    choice = next_block(situation(pool("p", "10.5.0.0/25"), claims=full), Family.IPV4)
    assert choice.text == "ipv4: every block of the IPPools that this node may use is taken (p)"


def test_the_next_pool_when_one_is_full() -> None:
    here = situation(
        pool("a", "10.5.0.0/26"), pool("b", "10.6.0.0/26"), claims={"10.5.0.0/26": "n2"}
    )
    choice = next_block(here, Family.IPV4)
    assert (choice.block, choice.pools) == (block("10.6.0.0/26"), ("b",))


def test_nodes_start_at_different_places() -> None:
    wide = pool("p", "10.0.0.0/8")
    starts = {
        next_block(situation(wide, me=f"n{i}", claims={}), Family.IPV4).block for i in range(100)
    }
    assert len(starts) > 98
    huge = pool("p", "fd00::/48", 122)
    again = [next_block(situation(huge, claims={}), Family.IPV6).block for _ in range(2)]
    assert again[0] == again[1] is not None


@given(
    sizes=st.lists(st.sampled_from([24, 25, 26, 27, 28]), max_size=20),
    places=st.lists(st.integers(0, 1023), min_size=20, max_size=20),
    nodes=st.lists(st.integers(0, 15), max_size=4),
    size=st.sampled_from([25, 26, 27]),
)
def test_claiming_takes_every_free_block_and_touches_no_other(
    sizes: list[int], places: list[int], nodes: list[int], size: int
) -> None:
    """Until the pool is exhausted: no block overlaps anything that has an owner, and none that is
    free is passed over."""
    taken: dict[Block, str] = {}
    for length, place in zip(sizes, places, strict=False):
        other = Block(Family.IPV4, make_nlri((POOL_BASE + place * 4).to_bytes(4, "big"), length))
        if not any(other.overlaps(b) for b in taken):
            taken[other] = "other"
    fixed = [node(f"m{i}", f"10.5.{i}.0/24") for i in set(nodes)]
    cluster = make_cluster([pool("p", "10.5.0.0/20", size), *fixed])
    owned = {*taken, *(Block(*cidr) for n in fixed for cidr in n.pod_cidrs)}
    parts = [
        Block(Family.IPV4, make_nlri(value.to_bytes(4, "big"), size))
        for value in range(POOL_BASE, POOL_BASE + 4096, 1 << (32 - size))
    ]
    free = {part for part in parts if not any(part.overlaps(other) for other in owned)}
    found: set[Block] = set()
    while True:
        choice = next_block(Situation(cluster, "n1", (), taken), Family.IPV4)
        if choice.block is None:
            assert choice.why is Next.POOL_EXHAUSTED
            break
        assert choice.block in free - found
        found.add(choice.block)
        taken = {**taken, choice.block: "n1"}
    assert found == free


def test_the_families_of_a_new_pod() -> None:
    both = node("n1", "10.1.0.0/24", "fd00:1::/64")
    assert families(situation(both)) == (Family.IPV4, Family.IPV6)
    assert families(situation(node("n1", "10.1.0.0/24"))) == (Family.IPV4,)
    six = pool("six", "fd00::/48", 122)
    assert families(situation(six)) == ()
    assert families(situation(six, claims={})) == (Family.IPV6,)
    assert families(situation(both, pool("p", "10.0.0.0/8", disabled=True))) == (Family.IPV6,)


def test_of_overlapping_pools_the_first_by_name_stands() -> None:
    pools = [
        pool("d", "10.0.0.0/8"),
        pool("b", "10.1.0.0/16"),
        pool("a", "10.2.0.0/16"),
        pool("c", "10.2.128.0/17"),
        pool("e", "10.3.0.0/16"),
        pool("f", "fd00::/48", 122),
    ]
    assert overlapping(pools) == {"c": "a", "d": "a"}
    assert overlapping(reversed(pools)) == {"c": "a", "d": "a"}
    # A slip in a new one ends nothing that is in use.
    newer = replace(pool("A", "10.0.0.0/8"), created="2026-02-02T00:00:00Z")
    assert overlapping([newer, *pools[1:]]) == {"c": "a", "A": "a"}


def test_every_owner() -> None:
    here = situation(
        node("n1", "10.1.0.0/24"),
        node("n2", "10.2.0.0/24"),
        configured=("10.9.0.0/24",),
        claims={"10.5.0.0/26": "n3"},
    )
    assert [(str(b), n, o) for b, n, o in owned_blocks(here)] == [
        ("10.2.0.0/24", "n2", Origin.NODE),
        ("10.5.0.0/26", "n3", Origin.CLAIMED),
        ("10.9.0.0/24", "n1", Origin.CONFIGURED),
    ]
    assert own_blocks(here) == (OwnBlock(block("10.9.0.0/24"), Origin.CONFIGURED),)

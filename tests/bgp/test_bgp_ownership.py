"""What a neighbour may say: of itself and of others, of prefixes and paths; with its reasons."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp.attributes import AsPath, PathAttributes, UnknownAttribute
from samepath.bgp.ownership import INNER_BLOCKS, NEXT_HOPS_OWNED, Ownership
from samepath.bgp.policy import (
    AS_PATH_MOST,
    COMMUNITIES_MOST,
    ITEMS_A_PREFIX,
    ImportRule,
    Own,
    Reason,
    items,
    why_refused,
)
from samepath.bgp.rib import Rib
from samepath.model.neighbor import Import
from samepath.model.net import (
    Family,
    address_text,
    make_nlri,
    parse_address,
    parse_prefix,
    prefix_text,
)

V4, V6 = Family.IPV4, Family.IPV6
A, B, C = (bytes((10, 9, 0, n)) for n in (1, 2, 3))
US = parse_address("10.9.0.254")
OWN = Own(asn=64512, router_id=1, cluster_id=1, addresses=frozenset((US,)))
LISTS = {
    "services": ["192.0.2.0/24", "2001:db8:100::/64"],
    "pods": ["10.244.0.0/16", "2001:db8:244::/48"],
}
RULE = ImportRule(Import(**LISTS, next_hop="peer"))  # type: ignore[arg-type]


def rib(*peers: bytes, rule: ImportRule = RULE) -> Rib:
    made = Rib(OWN)
    for peer in peers or (A, B):
        made.peer_up(peer, external=False, router_id=peer[3], rule=rule, asn=64512)
    return made


def tell(to: Rib, peer: bytes, *prefixes: str, via: str = "") -> None:
    for text in prefixes:
        family, nlri = parse_prefix(text)
        hop = parse_address(via) if via else peer
        if not via and family is V6:
            hop = parse_address(f"2001:db8:9::{peer[3]}")
        to.announce(peer, family, (nlri,), PathAttributes(hop))


def take_back(to: Rib, peer: bytes, text: str) -> None:
    family, nlri = parse_prefix(text)
    to.withdraw(peer, family, (nlri,))


def refused(of: Rib) -> dict[str, Reason]:
    return {prefix_text(r.family, r.nlri): r.reason for r in of.refusals()}


def held(of: Rib) -> dict[str, list[str]]:
    return {
        prefix_text(family, nlri): [address_text(p.peer) for p in paths.paths]
        for family in Family
        for nlri, paths in of.items(family)
    }


# Pod blocks


def test_the_first_owner_of_a_block_stands_until_it_withdraws() -> None:
    table = rib(A, B)
    tell(table, A, "10.244.2.0/24", "2001:db8:244:2::/64")
    taken = ["10.244.2.0/24", "10.244.2.128/25", "10.244.2.7/32", "10.244.0.0/16",
             "2001:db8:244:2::/64", "2001:db8:244:2:8000::/80", "2001:db8:244::/48"]  # fmt: skip
    tell(table, B, *taken, "10.244.3.0/24")
    assert refused(table) == dict.fromkeys(taken, Reason.BLOCK_OF_ANOTHER)
    assert table.refused_for(B) == {Reason.BLOCK_OF_ANOTHER: len(taken)}
    assert held(table)["10.244.2.0/24"] == ["10.9.0.1"]
    assert held(table)["10.244.3.0/24"] == ["10.9.0.2"]
    table.take_changed()
    take_back(table, A, "10.244.2.0/24")
    wanted = {"10.244.2.0/24", "10.244.2.128/25", "10.244.2.7/32", "10.244.0.0/16"}
    assert {t for t, peers in held(table).items() if peers == ["10.9.0.2"]} >= wanted
    assert {prefix_text(V4, n) for n in table.take_changed()[V4]} == wanted
    assert set(refused(table)) == set(taken[4:])


def test_its_own_blocks_may_lie_in_one_another() -> None:
    table = rib(A)
    tell(table, A, "10.244.2.0/24", "10.244.2.128/25", "10.244.2.0/23", "10.244.2.0/24")
    assert refused(table) == {}


def test_the_loss_of_the_owner_frees_its_blocks_and_what_is_stale_is_still_its() -> None:
    table = rib(A, B)
    tell(table, A, "10.244.2.0/24")
    tell(table, B, "10.244.2.0/24")
    table.peer_down(A, keep={V4, V6})
    assert held(table) == {"10.244.2.0/24": ["10.9.0.1"]}
    table.drop_stale(A)
    assert held(table) == {"10.244.2.0/24": ["10.9.0.2"]}
    table.peer_up(A, external=False, router_id=1, rule=RULE, asn=64512)
    tell(table, A, "10.244.2.0/24")
    assert held(table) == {"10.244.2.0/24": ["10.9.0.2"]}
    assert refused(table) == {"10.244.2.0/24": Reason.BLOCK_OF_ANOTHER}


def test_a_claim_that_is_taken_back_is_forgotten() -> None:
    table = rib(A, B)
    tell(table, A, "10.244.2.0/24")
    tell(table, B, "10.244.2.0/24")
    take_back(table, B, "10.244.2.0/24")
    take_back(table, A, "10.244.2.0/24")
    assert held(table) == {}
    assert refused(table) == {}


def test_services_and_neighbours_that_speak_for_others_share() -> None:
    table = rib(A, B)
    for peer in (A, B):
        tell(table, peer, "192.0.2.1/32")
    assert held(table) == {"192.0.2.1/32": ["10.9.0.1", "10.9.0.2"]}
    reflecting = ImportRule(Import(**LISTS))  # type: ignore[arg-type]
    table = rib(A, B, rule=reflecting)
    for peer in (A, B):
        tell(table, peer, "10.244.2.0/24", via="10.9.0.9")
    assert held(table) == {"10.244.2.0/24": ["10.9.0.1", "10.9.0.2"]}


def test_what_max_prefixes_refuses_is_nobodys() -> None:
    few = ImportRule(Import(**LISTS, next_hop="peer", max_prefixes=1))  # type: ignore[arg-type]
    table = rib(A, B, rule=few)
    tell(table, A, "10.244.1.0/24", "10.244.2.0/24")
    tell(table, B, "10.244.2.0/24")
    assert held(table) == {"10.244.1.0/24": ["10.9.0.1"], "10.244.2.0/24": ["10.9.0.2"]}


def test_a_rule_that_changes_makes_owners_and_unmakes_them() -> None:
    table = rib(A, B)
    tell(table, A, "10.244.2.0/24")
    tell(table, B, "10.244.2.0/24")
    table.reimport(A, ImportRule(Import(**LISTS, next_hop="peer", max_prefixes=5)))  # type: ignore[arg-type]
    assert held(table) == {"10.244.2.0/24": ["10.9.0.1"]}, "the owner stays"
    table.reimport(A, ImportRule(Import(**LISTS)))  # type: ignore[arg-type]
    assert held(table) == {"10.244.2.0/24": ["10.9.0.1", "10.9.0.2"]}


def test_a_block_that_covers_very_many_is_refused() -> None:
    table = rib(A)
    tell(table, A, *(f"10.244.{i}.0/24" for i in range(INNER_BLOCKS + 1)))
    tell(table, A, "10.244.0.0/16")
    assert refused(table) == {"10.244.0.0/16": Reason.BLOCK_OF_ANOTHER}


blocks = st.builds(
    lambda third, length: make_nlri(bytes((10, 244, third, 0)), length),
    st.integers(0, 7),
    st.integers(20, 26),
)
steps = st.lists(st.tuples(st.booleans(), st.sampled_from([A, B, C]), blocks), max_size=40)


@given(steps)
@settings(max_examples=200)
def test_no_two_owners_overlap_and_nobody_waits_for_what_is_free(
    taken: list[tuple[bool, bytes, bytes]],
) -> None:
    """Beside the standard library's own arithmetic."""
    table, told = rib(A, B, C), set()
    for is_told, peer, nlri in taken:
        if is_told:
            table.announce(peer, V4, (nlri,), PathAttributes(peer))
            told.add((peer, nlri))
        else:
            table.withdraw(peer, V4, (nlri,))
            told.discard((peer, nlri))
    owned = [(p.peer, n) for n, paths in table.items(V4) for p in paths.paths]
    nets = {n: ipaddress.ip_network(prefix_text(V4, n)) for _, n in told}
    for peer, nlri in owned:
        assert all(p == peer or not nets[nlri].overlaps(nets[n]) for p, n in owned)
    for peer, nlri in told - set(owned):
        assert any(p != peer and nets[nlri].overlaps(nets[n]) for p, n in owned)
    assert len(owned) == sum(table.counts(p, V4).accepted for p in (A, B, C))


# Next hops


def test_a_next_hop_is_the_neighbour_itself() -> None:
    table = rib(A, B)
    tell(table, A, "192.0.2.1/32", via="10.9.0.2")
    tell(table, A, "192.0.2.2/32", via="10.9.0.77")
    tell(table, A, "192.0.2.3/32", via="10.9.0.254")
    tell(table, A, "192.0.2.4/32")
    assert refused(table) == {
        "192.0.2.1/32": Reason.NEXT_HOP_NOT_PEER,
        "192.0.2.2/32": Reason.NEXT_HOP_NOT_PEER,
        "192.0.2.3/32": Reason.OWN_NEXT_HOP,
    }
    assert set(held(table)) == {"192.0.2.4/32"}


def test_a_next_hop_of_the_other_family_belongs_to_the_first_that_uses_it() -> None:
    service = "2001:db8:100::1/128"
    table = rib(A, B)
    tell(table, A, service, via="2001:db8:9::1")
    tell(table, B, service, via="2001:db8:9::1")
    assert refused(table) == {service: Reason.NEXT_HOP_OF_ANOTHER}
    table.peer_down(A)
    tell(table, B, service, via="2001:db8:9::1")
    assert refused(table) == {}


def test_nobody_has_the_session_address_of_another() -> None:
    six = parse_address("2001:db8:9::2")
    table = rib(A, six)
    tell(table, A, "2001:db8:100::1/128", via="2001:db8:9::2")
    assert refused(table) == {"2001:db8:100::1/128": Reason.NEXT_HOP_OF_ANOTHER}


def test_the_next_hops_of_one_neighbour_are_few() -> None:
    owners = Ownership()
    hops = [parse_address(f"2001:db8::{i}") for i in range(NEXT_HOPS_OWNED + 1)]
    reasons = [owners.take_next_hop(A, hop, ()) for hop in hops]
    assert reasons == [*[None] * NEXT_HOPS_OWNED, Reason.NEXT_HOP_NOT_PEER]
    assert owners.take_next_hop(A, hops[0], ()) is None
    owners.forget_next_hops(A)
    assert owners.take_next_hop(B, hops[0], ()) is None


# Prefixes and paths


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("127.1.0.0/16", Reason.MARTIAN),
        ("0.1.0.0/16", Reason.MARTIAN),
        ("169.254.7.0/24", Reason.MARTIAN),
        ("239.0.0.1/32", Reason.MARTIAN),
        ("255.255.255.255/32", Reason.MARTIAN),
        ("fe80::/64", Reason.MARTIAN),
        ("ff02::1/128", Reason.MARTIAN),
        ("::1/128", Reason.MARTIAN),
        ("::ffff:a00:0/104", Reason.MARTIAN),
        ("0.0.0.0/0", Reason.DEFAULT_ROUTE),
        ("::/0", Reason.DEFAULT_ROUTE),
        ("10.9.0.254/32", Reason.OWN_ADDRESS),
        ("203.0.113.1/32", None),
        ("128.0.0.0/1", None),
        ("2001:db8::/32", None),
    ],
)
def test_prefixes_where_everything_is_allowed(prefix: str, reason: Reason | None) -> None:
    table = rib(A, rule=ImportRule(Import(services=["0.0.0.0/0", "::/0"])))
    tell(table, A, prefix)
    assert refused(table) == ({prefix: reason} if reason else {})


def test_what_a_list_names_is_meant() -> None:
    rule = ImportRule(Import(services=["127.9.0.0/16"], routes=["0.0.0.0/0", "64:ff9b::/96"]))
    table = rib(A, rule=rule)
    tell(table, A, "127.9.1.1/32", "0.0.0.0/0", "64:ff9b::/96")
    assert refused(table) == {}


def attributes(*asns: int, **more: object) -> PathAttributes:
    return PathAttributes(A, as_path=AsPath.of(*asns), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "external_as", "reason"),
    [
        (attributes(65001, 65002), 65001, None),
        (attributes(65002, 65001), 65001, Reason.FIRST_AS),
        (attributes(), 65001, Reason.FIRST_AS),
        (attributes(), None, None),
        (attributes(65001, 64512), 65001, Reason.OWN_AS),
        (attributes(65001, 23456), 65001, Reason.RESERVED_AS),
        (attributes(65001, 65535), 65001, Reason.RESERVED_AS),
        (attributes(65001, 4294967295), 65001, Reason.RESERVED_AS),
        (attributes(*[65001] * AS_PATH_MOST), 65001, None),
        (attributes(*[65001] * (AS_PATH_MOST + 1)), 65001, Reason.LONG_AS_PATH),
        (attributes(communities=tuple(range(COMMUNITIES_MOST))), None, None),
        (
            attributes(communities=tuple(range(COMMUNITIES_MOST)), large_communities=((1, 2, 3),)),
            None,
            Reason.MANY_COMMUNITIES,
        ),
        (PathAttributes(US), None, Reason.OWN_NEXT_HOP),
    ],
)
def test_paths(told: PathAttributes, external_as: int | None, reason: Reason | None) -> None:
    assert why_refused(told, OWN, external_as) is reason


# Memory


def test_attributes_of_one_neighbour_are_bounded_and_room_comes_back() -> None:
    rule = ImportRule(Import(services=["10.0.0.0/8"], max_prefixes=100))
    table = rib(A, B, rule=rule)

    def large(i: int, size: int = 30_000) -> PathAttributes:
        return PathAttributes(A, med=i, unknown=(UnknownAttribute(99, bytes(size)),))

    def nlri(i: int) -> tuple[bytes]:
        return (make_nlri((0x0A000000 + i).to_bytes(4, "big"), 32),)

    for i in range(90):
        table.announce(A, V4, nlri(i), large(i))
    fit = 100 * ITEMS_A_PREFIX // items(large(0))
    assert table.counts(A, V4).accepted == fit == 10
    assert table.refused_for(A) == {Reason.TOO_LARGE: 80}
    table.announce(B, V4, nlri(1), large(1))
    assert table.counts(B, V4).accepted == 1, "another's is another's"
    for i in range(fit):
        table.withdraw(A, V4, nlri(i))
    for i in range(180):  # counted again only now and then, so that to ask costs little
        table.announce(A, V4, nlri(i % 90), large(1000 + i % 90, 100))
    assert table.counts(A, V4).accepted == 90, "smaller ones fit"

"""Several paths a prefix on the way out, and IPv6 next hops of IPv4 prefixes.

RFC 7911 §3, §5; RFC 8950 §4; RFC 9494 §4.3.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp import message
from samepath.bgp import path_ids as ids
from samepath.bgp.adjout import AdjRibOut, Advertisement, Export, Offered, Routes
from samepath.bgp.attributes import LLGR_STALE, NO_ADVERTISE, PathAttributes
from samepath.bgp.path_ids import PathIds
from samepath.model.net import Address, Family, Nlri, parse_address, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
PEER = parse_address("192.0.2.7")
OTHERS = [bytes((192, 0, 2, i)) for i in range(10, 16)]
OWN_HOPS = {V4: parse_address("192.0.2.1"), V6: parse_address("2001:db8::1")}
PREFIX = parse_prefix("10.1.0.0/24")[1]


def from_peer(source: Address, path_id: int = 0, **said: object) -> Advertisement:
    hop = source if said.pop("keeps_hop", True) else b""
    attributes = PathAttributes(next_hop=hop, **said)  # type: ignore[arg-type]
    return Advertisement(attributes, source, path_id)


class Session:
    """Our side of a session, and what its peer knows by the octets."""

    def __init__(self, *, several: bool = True, **options: object) -> None:
        send = BOTH if several else frozenset()
        self.context = message.Context(
            four_octet_as=True,
            families=BOTH,
            internal=True,
            add_path_send=send,
            extended_next_hop=bool(options.get("extended_next_hop")),
        )
        self.reads = replace(self.context, add_path_receive=send)
        export = Export(
            peer=PEER,
            peer_router_id=7,
            local_as=65000,
            internal=True,
            **{"several": send, "next_hops": OWN_HOPS, **options},  # type: ignore[arg-type]
        )
        self.out = AdjRibOut(export, self.context, tuple(Family))
        self.knows: dict[tuple[Family, Nlri, int], PathAttributes] = {}
        self.octets = 0

    def set(self, routes: Routes) -> Session:
        self.out.set(routes)
        return self

    def tell(self) -> Session:
        data = b""
        while not self.out.is_idle:
            data += self.out.pull()
        self.octets = len(data)
        messages, used = message.split(data)
        assert used == len(data)
        for kind, body in messages:
            update = message.decode(kind, body, self.reads)
            assert isinstance(update, message.Update)
            assert not update.problems
            for gone in update.withdrawals:
                for nlri in gone.nlris:
                    del self.knows[gone.family, nlri, gone.path_id]
            for reach in update.reaches:
                for nlri in reach.nlris:
                    self.knows[reach.family, nlri, reach.path_id] = reach.attributes
        return self

    def paths(self) -> dict[int, Address]:
        return {i: a.next_hop for (_, nlri, i), a in self.knows.items() if nlri == PREFIX}


def offered(*advertisements: Advertisement) -> Routes:
    value: Offered = advertisements if len(advertisements) > 1 else advertisements[0]
    return {V4: {PREFIX: value}}


def test_a_path_keeps_its_identifier_whatever_becomes_of_the_others() -> None:
    session = Session().set(offered(*map(from_peer, OTHERS[:3]))).tell()
    first = session.paths()
    assert set(first.values()) == set(OTHERS[:3])
    session.set(offered(*map(from_peer, OTHERS[1:3]))).tell()
    assert session.paths() == {i: hop for i, hop in first.items() if hop != OTHERS[0]}
    session.set(offered(*map(from_peer, OTHERS[2::-1]))).tell()
    assert session.paths() == first
    assert session.set(offered(*map(from_peer, OTHERS[:3]))).tell().octets == 0
    session.set({}).tell()
    assert session.paths() == {}


def test_two_paths_of_one_peer_are_two_paths() -> None:
    session = Session()
    hops = [from_peer(OTHERS[0], 1), replace(from_peer(OTHERS[1]), source_peer=OTHERS[0])]
    session.set(offered(*hops)).tell()
    assert len(session.paths()) == 2


def test_who_takes_one_path_gets_the_first_that_it_may_have() -> None:
    session = Session(several=False)
    own = from_peer(PEER)
    secret = from_peer(OTHERS[0], communities=(NO_ADVERTISE,))
    session.set(offered(own, secret, from_peer(OTHERS[1]), from_peer(OTHERS[2]))).tell()
    assert session.paths() == {0: OTHERS[1]}
    session.set(offered(own, from_peer(OTHERS[2]))).tell()
    assert session.paths() == {0: OTHERS[2]}
    session.set(offered(own, secret)).tell()
    assert session.paths() == {}


def test_nothing_goes_back_to_where_it_came_from_of_several_either() -> None:
    session = Session().set(offered(from_peer(PEER), from_peer(OTHERS[1]))).tell()
    assert list(session.paths().values()) == [OTHERS[1]]


PREFIXES = [parse_prefix(f"10.0.{i}.0/24")[1] for i in range(4)]
CHOICES = [from_peer(source, i, med=med) for source in OTHERS[:2] for i in (0, 5) for med in (1, 2)]


def distinct(chosen: list[Advertisement]) -> Offered:
    by_source = {(a.source_peer, a.source_path_id): a for a in chosen}
    return tuple(by_source.values())


STEPS = st.one_of(
    st.dictionaries(
        st.sampled_from(PREFIXES),
        st.lists(st.sampled_from(CHOICES), min_size=1, max_size=4).map(distinct),
    ),
    st.sampled_from(["pull", "refresh"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=10), st.booleans())
def test_the_peer_ends_up_with_what_was_set_last(
    steps: list[dict[Nlri, Offered] | str], several: bool
) -> None:
    session = Session(several=several)
    last: Routes = {}
    for step in steps:
        if step == "pull":
            session.tell()
        elif step == "refresh":
            session.out.refresh(V4)
        else:
            assert isinstance(step, dict)
            last = {V4: step}
            session.set(last)
    session.tell()
    fresh = Session(several=several).set(last).tell()

    def content(knows: Session) -> list[tuple[Nlri, Address, int | None]]:
        return sorted((n, a.next_hop, a.med) for (_, n, _), a in knows.knows.items())

    assert content(session) == content(fresh)


def test_identifiers_are_found_again_and_room_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "KEPT", 10)
    known = PathIds()
    given_out = {i: known.of((OTHERS[0], i)) for i in range(11)}
    assert len(set(given_out.values())) == 11
    assert known.are_many
    kept = {given_out[3], given_out[7]}
    known.forget_unused(kept)
    assert not known.are_many
    assert known.of((OTHERS[0], 3)) == given_out[3]
    later = {known.of((OTHERS[1], i)) for i in range(5)}
    assert not later & kept


def test_identifiers_come_round_without_taking_one_that_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ids, "_MOST", 5)
    known = PathIds()
    first = known.of((OTHERS[0], 1))
    for i in range(2, 6):
        known.of((OTHERS[0], i))
    known.forget_unused({first})
    assert first not in {known.of((OTHERS[1], i)) for i in range(3)}


# IPv6 next hops.

ONLY_V6 = {V6: OWN_HOPS[V6]}


def test_our_ipv4_prefixes_go_by_our_ipv6_address_where_there_is_no_other() -> None:
    own = {V4: {PREFIX: Advertisement(PathAttributes(next_hop=b""))}}
    assert Session(next_hops=ONLY_V6).set(own).tell().paths() == {}
    by_v6 = Session(several=False, next_hops=ONLY_V6, extended_next_hop=True).set(own).tell()
    assert by_v6.paths() == {0: OWN_HOPS[V6]}
    both = Session(several=False, extended_next_hop=True).set(own).tell()
    assert both.paths() == {0: OWN_HOPS[V4]}, "an IPv4 next hop is understood by everybody"


def test_a_learned_ipv6_next_hop_goes_only_to_who_understands_it() -> None:
    learned = {V4: {PREFIX: from_peer(parse_address("2001:db8::5"))}}
    assert Session().set(learned).tell().paths() == {}
    knows = Session(several=False, extended_next_hop=True).set(learned).tell()
    assert knows.paths() == {0: parse_address("2001:db8::5")}


def test_an_ipv4_next_hop_is_none_of_an_ipv6_prefix() -> None:
    wrong = {V6: {parse_prefix("2001:db8:1::/48")[1]: from_peer(OTHERS[0])}}
    assert Session(extended_next_hop=True).set(wrong).tell().knows == {}


def test_what_is_stale_for_long_goes_only_to_who_knows() -> None:
    stale = offered(from_peer(OTHERS[0], communities=(LLGR_STALE,)))
    assert Session().set(stale).tell().paths() == {}
    assert list(Session(long_lived=True).set(stale).tell().paths().values()) == [OTHERS[0]]

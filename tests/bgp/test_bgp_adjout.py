"""What goes out, by its bytes: transforms, differences, order, marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp import message
from samepath.bgp.adjout import PULL_PREFIXES, AdjRibOut, Advertisement, Export, Routes, reflect
from samepath.bgp.attributes import (
    GRACEFUL_SHUTDOWN,
    NO_ADVERTISE,
    NO_EXPORT,
    AsPath,
    PathAttributes,
)
from samepath.bgp.decision import Path
from samepath.bgp.policy import ImportRule, Own
from samepath.bgp.rib import Rib
from samepath.model.neighbor import Import
from samepath.model.net import Family, Nlri, make_nlri, parse_address, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
PEER = parse_address("192.0.2.7")
OWN_HOPS = {V4: parse_address("192.0.2.1"), V6: parse_address("2001:db8::1")}
OWN = Advertisement(PathAttributes(next_hop=b""))


def nlri(text: str) -> Nlri:
    return parse_prefix(text)[1]


def make(*, internal: bool = False, marks: bool = False, **options: object) -> AdjRibOut:
    hops = options.get("next_hops", OWN_HOPS)
    export = Export(
        peer=PEER,
        peer_router_id=7,
        local_as=65000,
        internal=internal,
        next_hops=hops,  # type: ignore[arg-type]
    )
    context = message.Context(four_octet_as=True, families=frozenset(Family), internal=internal)
    return AdjRibOut(export, context, tuple(Family), marks_refresh=marks)


def read(out: AdjRibOut) -> list[message.Message]:
    """All that the session would write now, decoded."""
    data = b""
    while not out.is_idle:
        data += out.pull()
    assert out.pull() == b""
    messages, used = message.split(data)
    assert used == len(data)
    context = message.Context(
        four_octet_as=True, families=frozenset(Family), internal=out.export.internal
    )
    return [message.decode(kind, body, context) for kind, body in messages]


def prepare(out: AdjRibOut) -> None:
    """Up to where the first message would be made."""
    while out._routes is not None or out._preparation is not None:
        assert out.pull() == b""


def table(messages: list[message.Message]) -> dict[tuple[Family, Nlri], PathAttributes | None]:
    """What the messages say of each prefix at last."""
    known: dict[tuple[Family, Nlri], PathAttributes | None] = {}
    for update in messages:
        assert isinstance(update, message.Update)
        for withdrawal in update.withdrawals:
            known.update({(withdrawal.family, n): None for n in withdrawal.nlris})
        for reach in update.reaches:
            known.update({(reach.family, n): reach.attributes for n in reach.nlris})
    return known


def exported(attributes: PathAttributes, *, internal: bool, source: bytes | None = None) -> object:
    out = make(internal=internal)
    out.set({V4: {nlri("10.0.0.0/24"): Advertisement(attributes, source)}})
    return table(read(out)).get((V4, nlri("10.0.0.0/24")))


FULL = PathAttributes(
    next_hop=parse_address("192.0.2.33"),
    as_path=AsPath.of(65001),
    med=9,
    local_pref=200,
    originator_id=33,
    cluster_list=(5,),
    communities=(GRACEFUL_SHUTDOWN,),
    extended_communities=(bytes.fromhex("4004fde800000000"), bytes.fromhex("0002fde800000001")),
)


def test_to_an_external_peer() -> None:
    sent = exported(FULL, internal=False, source=parse_address("192.0.2.33"))
    assert sent == replace(
        FULL,
        as_path=AsPath.of(65000, 65001),
        local_pref=None,
        originator_id=None,
        cluster_list=(),
        med=None,
        extended_communities=FULL.extended_communities[:1],
    )


def test_our_own_to_an_external_peer_keeps_med_and_bandwidth() -> None:
    sent = exported(FULL, internal=False)
    assert isinstance(sent, PathAttributes)
    assert sent.med == 9
    assert sent.extended_communities == FULL.extended_communities


def test_to_an_internal_peer() -> None:
    assert exported(FULL, internal=True, source=parse_address("192.0.2.33")) == FULL
    plain = exported(PathAttributes(next_hop=b""), internal=True)
    assert plain == PathAttributes(next_hop=OWN_HOPS[V4], local_pref=100)


@pytest.mark.parametrize(
    ("community", "internal", "goes"),
    [
        (NO_ADVERTISE, True, False),
        (NO_ADVERTISE, False, False),
        (NO_EXPORT, True, True),
        (NO_EXPORT, False, False),
    ],
)
def test_well_known_communities(community: int, internal: bool, goes: bool) -> None:
    sent = exported(PathAttributes(next_hop=b"", communities=(community,)), internal=internal)
    assert (sent is not None) == goes


def test_nothing_goes_back_to_where_it_came_from() -> None:
    assert exported(FULL, internal=True, source=PEER) is None
    assert exported(replace(FULL, originator_id=7), internal=True) is None


def test_next_hops() -> None:
    out = make(next_hops={V4: OWN_HOPS[V4]})
    kept = Advertisement(PathAttributes(next_hop=parse_address("2001:db8::33")))
    wrong = Advertisement(PathAttributes(next_hop=parse_address("192.0.2.33")))
    out.set({
        V4: {nlri("10.0.0.0/24"): OWN},
        V6: {nlri("2001:db8:1::/48"): OWN, nlri("2001:db8:2::/48"): kept,
             nlri("2001:db8:3::/48"): wrong},
    })  # fmt: skip
    hops = {key: a.next_hop for key, a in table(read(out)).items() if a is not None}
    assert hops == {
        (V4, nlri("10.0.0.0/24")): OWN_HOPS[V4],
        (V6, nlri("2001:db8:2::/48")): parse_address("2001:db8::33"),
    }


def test_other_next_hops_are_told_without_a_new_session() -> None:
    out = make()
    routes = {V4: {nlri("10.0.0.0/24"): OWN}}
    out.set(routes)
    read(out)
    out.export.next_hops = {V4: parse_address("192.0.2.2")}
    out.set(routes)
    (attributes,) = table(read(out)).values()
    assert attributes is not None
    assert attributes.next_hop == parse_address("192.0.2.2")


def test_what_did_not_change_costs_no_byte() -> None:
    out = make()
    first = {V4: {nlri("10.0.0.0/24"): OWN, nlri("10.0.1.0/24"): Advertisement(FULL)}}
    out.set(first)
    assert len(table(read(out))) == 2
    again = {
        V4: {
            nlri("10.0.1.0/24"): Advertisement(replace(FULL)),
            nlri("10.0.0.0/24"): Advertisement(PathAttributes(next_hop=b"")),
        }
    }
    out.set(again)
    assert read(out) == []


def test_there_and_back_before_it_was_written_costs_no_byte() -> None:
    out = make()
    out.set({V4: {nlri("10.0.0.0/24"): OWN}})
    read(out)
    out.set({V4: {}})
    prepare(out)
    out.set({V4: {nlri("10.0.0.0/24"): OWN}})
    assert read(out) == []


def test_a_change_costs_only_itself() -> None:
    out = make()
    block = {nlri(f"10.0.{i}.0/24"): OWN for i in range(200)}
    out.set({V4: block})
    read(out)
    drained = Advertisement(PathAttributes(next_hop=b"", communities=(GRACEFUL_SHUTDOWN,)))
    out.set({V4: {**block, nlri("10.0.7.0/24"): drained, nlri("10.1.0.0/24"): OWN}})
    told = table(read(out))
    assert set(told) == {(V4, nlri("10.0.7.0/24")), (V4, nlri("10.1.0.0/24"))}


def test_end_of_rib_waits_for_release_and_for_the_routes_and_comes_once() -> None:
    out = make()
    out.set({V4: {nlri("10.0.0.0/24"): OWN}})
    assert [u.end_of_rib for u in read(out)] == [None]  # type: ignore[union-attr]
    out.release_end_of_rib()
    assert [u.end_of_rib for u in read(out)] == [V4, V6]  # type: ignore[union-attr]
    out.set({V4: {}})
    assert [u.end_of_rib for u in read(out)] == [None]  # type: ignore[union-attr]
    early = make()
    early.release_end_of_rib()
    assert early.is_idle
    early.set({V4: {nlri("10.0.0.0/24"): OWN}})
    assert [u.end_of_rib for u in read(early)] == [None, V4, V6]  # type: ignore[union-attr]


def test_large_tables_come_in_parts() -> None:
    out = make()
    prefixes = [make_nlri(i.to_bytes(4, "big"), 32) for i in range(2 * PULL_PREFIXES + 1)]
    out.set({V4: dict.fromkeys(prefixes, OWN)})
    prepare(out)
    parts = 0
    while not out.is_idle:
        assert len(out.pull()) < 8 * PULL_PREFIXES
        parts += 1
    assert parts == 3
    assert out.advertised(V4) == len(prefixes)


def test_a_refresh_sends_everything_again_between_its_marks() -> None:
    out = make(marks=True)
    out.set({V4: {nlri("10.0.0.0/24"): OWN}})
    out.release_end_of_rib()
    read(out)
    out.refresh(V4)
    begin, update, end = read(out)
    assert begin == message.RouteRefresh(V4, message.RefreshKind.BEGIN)
    assert end == message.RouteRefresh(V4, message.RefreshKind.END)
    assert table([update]).keys() == {(V4, nlri("10.0.0.0/24"))}


def test_a_refresh_before_end_of_rib_has_no_marks() -> None:
    out = make(marks=True)
    out.set({V4: {nlri("10.0.0.0/24"): OWN}})
    read(out)
    out.refresh(V4)
    assert len(read(out)) == 1


def test_a_change_during_a_refresh_loses_nothing() -> None:
    out = make()
    prefixes = [make_nlri(i.to_bytes(4, "big"), 32) for i in range(2 * PULL_PREFIXES)]
    routes = dict.fromkeys(prefixes, OWN)
    out.set({V4: routes})
    read(out)
    out.refresh(V4)
    out.pull()
    rest = {n: a for n, a in routes.items() if n != prefixes[0]}
    before = out.advertised(V4)
    out.set({V4: rest})
    told = table(read(out))
    assert before == len(prefixes)
    assert told[V4, prefixes[0]] is None
    assert len(told) == PULL_PREFIXES + 1 or len(told) == PULL_PREFIXES


PREFIXES = [nlri(f"10.0.{i}.0/24") for i in range(5)]
OFFERS = [
    OWN,
    Advertisement(FULL),
    Advertisement(FULL, PEER),
    Advertisement(replace(FULL, med=1)),
    Advertisement(replace(FULL, local_pref=1)),
]
STEPS = st.one_of(
    st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(OFFERS)),
    st.just("pull"),
    st.just("refresh"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=12), st.booleans())
def test_the_peer_ends_up_with_what_was_set_last(
    steps: list[dict[Nlri, Advertisement] | str], internal: bool
) -> None:
    """History does not matter: the peer's table is that of a session that saw only the last."""
    out = make(internal=internal)
    peer: dict[tuple[Family, Nlri], PathAttributes | None] = {}
    last: Routes = {}
    for step in steps:
        if step == "pull":
            peer |= table(read(out))
        elif step == "refresh":
            out.refresh(V4)
        else:
            assert isinstance(step, dict)
            last = {V4: step}
            out.set(last)
    peer |= table(read(out))
    fresh = make(internal=internal)
    fresh.set(last)
    assert {k: v for k, v in peer.items() if v is not None} == table(read(fresh))


def test_reflection() -> None:
    rib = Rib(Own(65000, 1, 1))
    rule = ImportRule(Import(pods=["10.0.0.0/8"]))
    rib.peer_up(PEER, external=False, router_id=7, rule=rule)
    rib.announce(PEER, V4, [nlri("10.1.0.0/24")], PathAttributes(next_hop=PEER))
    held = rib.paths(V4, nlri("10.1.0.0/24"))
    assert held is not None
    path: Path = held.best[0]
    once = reflect(path, cluster_id=1)
    assert (once.originator_id, once.cluster_list, once.next_hop) == (7, (1,), PEER)
    twice = reflect(Path(PEER, once, "pods", False, 99), cluster_id=2)
    assert (twice.originator_id, twice.cluster_list) == (7, (2, 1))

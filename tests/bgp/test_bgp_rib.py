"""The RIB against a model that is a plain dictionary, and its decision against the standard."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.bgp.adjin import REFUSALS_KEPT
from samepath.bgp.attributes import (
    BLACKHOLE,
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_LLGR,
    AsPath,
    Origin,
    PathAttributes,
)
from samepath.bgp.policy import ImportRule, Own, Reason
from samepath.bgp.rib import Rib
from samepath.model.neighbor import Import
from samepath.model.net import Family, Nlri, make_nlri, parse_prefix

V4, V6 = Family.IPV4, Family.IPV6
OWN = Own(asn=65000, router_id=1, cluster_id=1)
RULE = ImportRule(Import(services=["10.0.0.0/8"], pods=["10.244.0.0/16"], routes=["0.0.0.0/0"]))
PEERS = [bytes((192, 0, 2, i)) for i in range(5)]
BASE = PathAttributes(next_hop=b"\xc0\x00\x02\x09", as_path=AsPath.of(65001))


def nlri(text: str) -> Nlri:
    return parse_prefix(text)[1]


def make(peers: int = 3, *, external: bool = True, rule: ImportRule = RULE) -> Rib:
    rib = Rib(OWN)
    for i, peer in enumerate(PEERS[:peers]):
        rib.peer_up(peer, external=external, router_id=i + 10, rule=rule)
    return rib


def best(rib: Rib, text: str = "10.0.0.1/32") -> list[bytes]:
    paths = rib.paths(V4, nlri(text))
    return [p.peer for p in paths.best] if paths else []


ONE = (nlri("10.0.0.1/32"),)


@pytest.mark.parametrize(
    ("other", "winners"),
    [
        (BASE, [0, 1]),
        (replace(BASE, next_hop=b"\xc0\x00\x02\x08"), [0, 1]),
        (replace(BASE, as_path=AsPath.of(65001, 65001)), [0]),
        (replace(BASE, as_path=AsPath()), [1]),
        (replace(BASE, origin=Origin.INCOMPLETE), [0]),
        (replace(BASE, med=5), [0]),
        (replace(BASE, med=0), [0, 1]),
        (replace(BASE, med=5, as_path=AsPath.of(65002)), [0, 1]),
        (replace(BASE, local_pref=200), [0, 1]),
        (replace(BASE, communities=(GRACEFUL_SHUTDOWN,)), [0, 1]),
    ],
    ids=["same", "next hop", "longer", "shorter", "origin", "med", "med 0 is none",
         "med of another AS", "LOCAL_PREF of an external peer", "draining"],
)  # fmt: skip
def test_which_of_two_is_best(other: PathAttributes, winners: list[int]) -> None:
    rib = make(2)
    rib.announce(PEERS[0], V4, ONE, BASE)
    rib.announce(PEERS[1], V4, ONE, other)
    assert best(rib) == [PEERS[i] for i in winners]


def test_local_pref_counts_inside_and_external_comes_first() -> None:
    rib = make(2, external=False)
    rib.announce(PEERS[0], V4, ONE, replace(BASE, local_pref=100))
    rib.announce(PEERS[1], V4, ONE, BASE)
    assert best(rib) == PEERS[:2]
    rib.announce(PEERS[1], V4, ONE, replace(BASE, local_pref=101))
    assert best(rib) == [PEERS[1]]
    rib.announce(PEERS[1], V4, ONE, BASE)
    rib.peer_up(PEERS[2], external=True, router_id=30, rule=RULE)
    rib.announce(PEERS[2], V4, ONE, BASE)
    assert best(rib) == [PEERS[2]]


def test_there_is_no_limit_of_equal_paths() -> None:
    rib = Rib(OWN)
    peers = [bytes((192, 0, i // 256, i % 256)) for i in range(300)]
    for i, peer in enumerate(reversed(peers)):
        rib.peer_up(peer, external=True, router_id=i + 1, rule=RULE)
        rib.announce(peer, V4, ONE, replace(BASE, next_hop=peer))
    assert best(rib) == peers


def test_paths_and_sets_are_shared() -> None:
    rib = make(2)
    two = (nlri("10.0.0.1/32"), nlri("10.0.0.2/32"))
    rib.announce(PEERS[0], V4, two[:1], BASE)
    rib.announce(PEERS[0], V4, two[1:], replace(BASE))
    rib.announce(PEERS[1], V4, two, BASE)
    assert rib.paths(V4, two[0]) is rib.paths(V4, two[1])


def test_the_same_again_is_no_change() -> None:
    rib = make(2)
    rib.announce(PEERS[0], V4, ONE, BASE)
    assert rib.take_changed() == {V4: set(ONE), V6: set()}
    rib.announce(PEERS[0], V4, ONE, replace(BASE))
    assert not rib.is_changed
    worse = replace(BASE, as_path=AsPath.of(1, 2, 3))
    rib.announce(PEERS[1], V4, ONE, worse)
    assert not rib.is_changed
    rib.withdraw(PEERS[1], V4, ONE)
    assert not rib.is_changed
    rib.withdraw(PEERS[0], V4, ONE)
    assert rib.take_changed() == {V4: set(ONE), V6: set()}
    assert not rib.items(V4)


def test_who_passes_nothing_on_takes_paths_of_its_own_as() -> None:
    rib = make(1)
    rib.own = replace(OWN, asn=None)
    rib.announce(PEERS[0], V4, ONE, replace(BASE, as_path=AsPath.of(65001, 65000)))
    assert rib.paths(V4, ONE[0]) is not None
    rib.announce(PEERS[0], V4, ONE, replace(BASE, originator_id=1))
    assert [r.reason for r in rib.refusals()] == [Reason.OWN_ORIGINATOR]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (replace(BASE, as_path=AsPath.of(65001, 65000)), Reason.OWN_AS),
        (replace(BASE, originator_id=1), Reason.OWN_ORIGINATOR),
        (replace(BASE, cluster_list=(7, 1)), Reason.OWN_CLUSTER),
    ],
)
def test_loops_are_refused_and_replace_what_was_there(
    attributes: PathAttributes, reason: Reason
) -> None:
    rib = make(1)
    rib.announce(PEERS[0], V4, ONE, BASE)
    rib.announce(PEERS[0], V4, ONE, attributes)
    assert rib.paths(V4, ONE[0]) is None
    (refusal,) = rib.refusals()
    assert (refusal.peer, refusal.nlri, refusal.reason) == (PEERS[0], ONE[0], reason)
    assert "10.0.0.1/32 from 192.0.2.0" in refusal.text
    rib.announce(PEERS[0], V4, ONE, BASE)
    assert rib.refusals() == ()


def test_kinds_by_the_longest_list() -> None:
    rib = make(1)
    texts = ["10.1.0.0/32", "10.244.3.0/24", "0.0.0.0/0", "10.0.0.0/7"]
    rib.announce(PEERS[0], V4, [nlri(t) for t in texts], BASE)
    kinds = [rib.paths(V4, nlri(t)).best[0].kind for t in texts]  # type: ignore[union-attr]
    assert kinds == ["services", "pods", "routes", "routes"]


def test_what_no_list_allows_is_refused() -> None:
    rib = make(1, rule=ImportRule(Import(services=["10.0.0.0/8"])))
    rib.announce(PEERS[0], V4, [nlri("10.0.0.1/32"), nlri("11.0.0.1/32")], BASE)
    rib.announce(PEERS[0], V6, [parse_prefix("2001:db8::/32")[1]], BASE)
    assert [r.reason for r in rib.refusals()] == [Reason.NOT_ALLOWED] * 2
    assert rib.counts(PEERS[0], V4).accepted == 1
    assert rib.counts(PEERS[0], V4).refused == 1
    rib.withdraw(PEERS[0], V4, [nlri("11.0.0.1/32")])
    assert len(rib.refusals()) == 1


def test_prefixes_beyond_the_limit_are_refused_and_others_stay() -> None:
    rib = make(1, rule=ImportRule(Import(services=["10.0.0.0/8"], max_prefixes=3)))
    five = [nlri(f"10.0.0.{i}/32") for i in range(5)]
    rib.announce(PEERS[0], V4, [*five, five[0]], BASE)
    assert len(rib.items(V4)) == 3
    assert {r.reason for r in rib.refusals()} == {Reason.TOO_MANY}
    assert {r.nlri for r in rib.refusals()} == set(five[3:])
    rib.announce(PEERS[0], V4, five[:3], replace(BASE, med=1))
    assert len(rib.items(V4)) == 3
    rib.withdraw(PEERS[0], V4, five[:1])
    rib.announce(PEERS[0], V4, five[4:], BASE)
    assert rib.counts(PEERS[0], V4).accepted == 3
    assert {r.nlri for r in rib.refusals()} == {five[3]}


def test_refusals_are_kept_within_bounds_and_all_counted() -> None:
    rib = make(1, rule=ImportRule(Import()))
    many = [make_nlri(i.to_bytes(4, "big"), 32) for i in range(REFUSALS_KEPT + 500)]
    rib.announce(PEERS[0], V4, many, BASE)
    assert len(rib.refusals()) == REFUSALS_KEPT
    assert rib.counts(PEERS[0], V4).refused == len(many)


def test_a_changed_rule_applies_to_what_is_there() -> None:
    rib = make(1)
    rib.announce(PEERS[0], V4, [nlri("10.0.0.1/32"), nlri("10.244.0.0/24")], BASE)
    rib.take_changed()
    rib.reimport(PEERS[0], ImportRule(Import(pods=["10.0.0.0/24"])))
    assert rib.paths(V4, nlri("10.0.0.1/32")).best[0].kind == "pods"  # type: ignore[union-attr]
    assert rib.paths(V4, nlri("10.244.0.0/24")) is None
    assert rib.take_changed()[V4] == {nlri("10.0.0.1/32"), nlri("10.244.0.0/24")}


def test_a_lower_limit_applies_to_what_is_there() -> None:
    rib = make(1)
    rib.announce(PEERS[0], V4, [nlri(f"10.0.0.{i}/32") for i in range(5)], BASE)
    rib.reimport(PEERS[0], ImportRule(Import(services=["10.0.0.0/8"], max_prefixes=2)))
    assert rib.counts(PEERS[0], V4).accepted == 2
    assert len(rib.items(V4)) == 2
    assert len(rib.refusals()) == 3


def test_a_peer_that_is_gone_leaves_nothing_behind() -> None:
    rib = make(2)
    block = tuple(nlri(f"10.0.0.{i}/32") for i in range(50))
    for peer in PEERS[:2]:
        rib.announce(peer, V4, block, replace(BASE, next_hop=peer))
    rib.peer_down(PEERS[0])
    rib.peer_down(PEERS[1])
    assert not rib.items(V4)
    rib._steps.clear()
    gc.collect()
    assert not rib._known_paths
    assert not rib._known_sets
    assert not rib._peers


PREFIXES = [nlri(f"10.0.0.{i}/32") for i in range(6)]
ATTRIBUTES = [BASE, replace(BASE, med=3), replace(BASE, as_path=AsPath.of(65001, 65002)),
              replace(BASE, as_path=AsPath.of(65003)), replace(BASE, communities=(5,)),
              replace(BASE, as_path=AsPath.of(65000)),
              replace(BASE, communities=(GRACEFUL_SHUTDOWN,)),
              replace(BASE, communities=(NO_LLGR,))]  # fmt: skip
PEER = st.integers(0, 3)
PATH_ID = st.integers(0, 2)
BLOCK = st.lists(st.sampled_from(PREFIXES), max_size=8)
STEPS = st.one_of(
    st.tuples(st.just("announce"), PEER, BLOCK, st.integers(0, len(ATTRIBUTES) - 1), PATH_ID),
    st.tuples(st.just("withdraw"), PEER, BLOCK, PATH_ID),
    st.tuples(st.just("down"), PEER, st.booleans()),
    st.tuples(st.just("end"), PEER),
    st.tuples(st.just("refresh"), PEER),
    st.tuples(st.just("drop"), PEER),
    st.tuples(st.just("long"), PEER),
    st.tuples(st.just("reimport"), PEER),
    st.tuples(st.just("take")),
)


class Model:
    """The same in the plainest way: one dictionary a peer, and a set of what is stale."""

    def __init__(self) -> None:
        self.told: list[dict[tuple[Nlri, int], PathAttributes]] = [{} for _ in range(4)]
        self.stale: list[set[tuple[Nlri, int]]] = [set() for _ in range(4)]

    def purge(self, peer: int) -> None:
        for prefix in self.stale[peer]:
            self.told[peer].pop(prefix, None)
        self.stale[peer].clear()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_the_rib_agrees_with_the_model(steps: list[tuple[object, ...]]) -> None:
    rib, model = make(4), Model()
    seen: dict[Nlri, object] = {}
    for step in steps:
        _apply(rib, model, step)
        for i, peer in enumerate(PEERS[:4]):
            told = [(n, p) for n, held in rib.items(V4) for p in held.of(peer)]
            have = {(n, p.path_id): p.attributes for n, p in told}
            assert have == model.told[i]
            assert all(rib.paths(V4, n).by(*p.key) is p for n, p in told)  # type: ignore[union-attr]
            counts = rib.counts(peer, V4)
            assert (counts.accepted, counts.stale) == (len(have), len(model.stale[i]))
        if step[0] == "take":
            changed = rib.take_changed()[V4]
            now = {n: p.best for n, p in rib.items(V4)}
            really = {n for n in now.keys() | seen.keys() if now.get(n) != seen.get(n)}
            assert really <= changed
            seen = dict(now)


def _apply(rib: Rib, model: Model, step: tuple[object, ...]) -> None:
    if step[0] == "take":
        return
    i = step[1]
    assert isinstance(i, int)
    peer = PEERS[i]
    match step:
        case ("announce", _, list(block), int(which), int(path_id)):
            attributes = ATTRIBUTES[which]
            rib.announce(peer, V4, tuple(block), attributes, path_id)
            for prefix in ((n, path_id) for n in block):
                model.stale[i].discard(prefix)
                if 65000 in attributes.as_path.asns:
                    model.told[i].pop(prefix, None)
                else:
                    model.told[i][prefix] = attributes
        case ("withdraw", _, list(block), int(path_id)):
            rib.withdraw(peer, V4, block, path_id)
            for prefix in ((n, path_id) for n in block):
                model.stale[i].discard(prefix)
                model.told[i].pop(prefix, None)
        case ("down", _, bool(keep)):
            rib.peer_down(peer, {V4} if keep else ())
            model.purge(i)
            if keep:
                model.stale[i] = set(model.told[i])
            else:
                model.told[i].clear()
            rib.peer_up(peer, external=True, router_id=i + 10, rule=RULE, keep={V4, V6})
        case ("refresh", _):
            rib.begin_refresh(peer, V4)
            model.stale[i] = set(model.told[i])
        case ("end", _):
            rib.end_of_rib(peer, V4)
            model.purge(i)
        case ("drop", _):
            rib.drop_stale(peer)
            model.purge(i)
        case ("long", _):
            rib.keep_long(peer, V4)
            for prefix in list(model.stale[i]):
                told = model.told[i][prefix]
                if told.has(NO_LLGR):
                    model.stale[i].remove(prefix)
                    del model.told[i][prefix]
                else:
                    communities = (*told.communities, LLGR_STALE)
                    model.told[i][prefix] = replace(told, communities=communities)
        case ("reimport", _):
            rib.reimport(peer, RULE)


# Several paths from one neighbour (RFC 7911).


def test_paths_of_one_peer_stand_beside_each_other() -> None:
    rib = make(2)
    hops = [replace(BASE, next_hop=bytes((10, 9, 0, i))) for i in range(3)]
    for path_id in (2, 0, 1):
        rib.announce(PEERS[0], V4, ONE, hops[path_id], path_id)
    rib.announce(PEERS[1], V4, ONE, BASE)
    held = rib.paths(V4, ONE[0])
    assert held is not None
    assert [p.attributes for p in held.best] == [*hops, BASE]
    assert rib.counts(PEERS[0], V4).accepted == 3
    rib.withdraw(PEERS[0], V4, ONE, 1)
    rib.announce(PEERS[0], V4, ONE, BASE, 2)
    held = rib.paths(V4, ONE[0])
    assert held is not None
    assert [(p.path_id, p.attributes) for p in held.of(PEERS[0])] == [(0, hops[0]), (2, BASE)]
    rib.peer_down(PEERS[0])
    assert best(rib) == [PEERS[1]]


def test_paths_of_a_prefix_beyond_the_limit_are_refused_and_others_stay() -> None:
    rule = ImportRule(Import(services=["10.0.0.0/8"], max_paths=2, max_prefixes=5))
    rib = make(2, rule=rule)
    two = (nlri("10.0.0.1/32"), nlri("10.0.0.2/32"))
    for path_id in range(4):
        rib.announce(PEERS[0], V4, two, BASE, path_id)
    rib.announce(PEERS[0], V4, two, replace(BASE, med=1), 1)
    assert {r.reason for r in rib.refusals()} == {Reason.TOO_MANY_PATHS}
    assert {(r.nlri, r.path_id) for r in rib.refusals()} == {(n, i) for n in two for i in (2, 3)}
    rib.withdraw(PEERS[0], V4, two, 2)
    assert {r.path_id for r in rib.refusals()} == {3}
    assert rib.counts(PEERS[0], V4).accepted == 4
    third = (nlri("10.0.0.3/32"),)
    for path_id in range(2):
        rib.announce(PEERS[0], V4, third, BASE, path_id)
    assert rib.counts(PEERS[0], V4).accepted == 5
    assert rib.refusals()[-1].reason is Reason.TOO_MANY
    rib.announce(PEERS[1], V4, ONE, BASE)
    assert best(rib) == [PEERS[0], PEERS[1]]


def test_a_lower_limit_of_paths_applies_to_what_is_there() -> None:
    rib = make(1)
    for path_id in range(4):
        rib.announce(PEERS[0], V4, ONE, BASE, path_id)
    rib.reimport(PEERS[0], ImportRule(Import(services=["10.0.0.0/8"], max_paths=3)))
    held = rib.paths(V4, ONE[0])
    assert held is not None
    assert len(held.paths) == rib.counts(PEERS[0], V4).accepted == 3


def test_a_pod_block_is_free_when_the_last_of_its_owners_paths_is_gone() -> None:
    rule = ImportRule(Import(pods=["10.244.0.0/16"], next_hop="peer"))
    rib = make(2, rule=rule)
    block = (nlri("10.244.1.0/24"),)
    for path_id in (1, 2):
        rib.announce(PEERS[0], V4, block, replace(BASE, next_hop=PEERS[0]), path_id)
    rib.announce(PEERS[1], V4, block, replace(BASE, next_hop=PEERS[1]), 7)
    rib.withdraw(PEERS[0], V4, block, 1)
    assert best(rib, "10.244.1.0/24") == [PEERS[0]]
    rib.withdraw(PEERS[0], V4, block, 2)
    assert best(rib, "10.244.1.0/24") == [PEERS[1]]


# Stale for long (RFC 9494).


def test_what_is_stale_for_long_is_the_last_choice_and_still_drains() -> None:
    rib = make(2)
    draining = replace(BASE, communities=(GRACEFUL_SHUTDOWN,))
    rib.announce(PEERS[0], V4, ONE, draining)
    rib.announce(PEERS[1], V4, ONE, replace(BASE, as_path=AsPath.of(65001, 65001, 65001)))
    rib.peer_down(PEERS[0], {V4})
    assert best(rib) == [PEERS[0]]
    rib.take_changed()
    rib.keep_long(PEERS[0], V4)
    assert best(rib) == [PEERS[1]]
    assert rib.take_changed()[V4] == set(ONE)
    assert rib.counts(PEERS[0], V4).stale == 1
    rib.withdraw(PEERS[1], V4, ONE)
    held = rib.paths(V4, ONE[0])
    assert held is not None
    assert held.best[0].attributes.communities == (GRACEFUL_SHUTDOWN, LLGR_STALE)
    rib.peer_up(PEERS[0], external=True, router_id=10, rule=RULE, keep={V4})
    rib.announce(PEERS[0], V4, ONE, draining)
    assert rib.counts(PEERS[0], V4).stale == 0
    assert best(rib) == [PEERS[0]]


def test_what_asks_not_to_be_kept_for_long_goes() -> None:
    rib = make(1)
    rib.announce(PEERS[0], V4, ONE, replace(BASE, communities=(NO_LLGR,)))
    rib.peer_down(PEERS[0], {V4})
    assert best(rib) == [PEERS[0]]
    rib.keep_long(PEERS[0], V4)
    assert not rib.items(V4)


def test_blackhole_is_refused_with_its_reason() -> None:
    rib = make(1)
    rib.announce(PEERS[0], V4, ONE, replace(BASE, communities=(BLACKHOLE,)))
    assert [r.reason for r in rib.refusals()] == [Reason.BLACKHOLE]
    assert not rib.items(V4)

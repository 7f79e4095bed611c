"""Paths to targets: draining, weights, and what is advertised onward."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.attributes import (
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    Origin,
    PathAttributes,
    link_bandwidth_community,
)
from samepath.bgp.decision import Path
from samepath.bgp.rib import PathSet
from samepath.hashing.table import Member
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Address, Family, Nlri, parse_address, parse_prefix
from samepath.plan.gateway import Hop, service_onward, wanted
from samepath.plan.onward import DEFAULT_NLRI, Offers, Snapshot
from samepath.plan.sync import Why, decide

A, B, C = (parse_address(f"10.0.0.{n}") for n in (1, 2, 3))


def path(
    hop: Address,
    *,
    weight: float | None = None,
    draining: bool = False,
    kind: str = "services",
    peer: Address | None = None,
) -> Path:
    attributes = PathAttributes(
        origin=Origin.IGP,
        next_hop=hop,
        communities=(GRACEFUL_SHUTDOWN,) if draining else (),
        extended_communities=()
        if weight is None
        else (link_bandwidth_community(64512, weight * 125_000),),
    )
    return Path(peer or hop, attributes, kind, False, 1)  # type: ignore[arg-type]


def hops(*paths: Path) -> tuple[Hop, ...]:
    what = wanted(paths)
    assert what is not None
    return what.target.hops


def test_no_paths_want_nothing() -> None:
    assert wanted([]) is None


def test_hops_are_sorted_whatever_the_order_of_paths() -> None:
    assert hops(path(C), path(A), path(B)) == hops(path(A), path(B), path(C))
    assert [h.address for h in hops(path(C), path(A))] == [A, C]


def test_weights_are_divided_by_their_divisor() -> None:
    assert [h.weight for h in hops(path(A, weight=2), path(B, weight=4))] == [1, 2]


def test_one_path_without_weight_makes_all_equal() -> None:
    assert [h.weight for h in hops(path(A, weight=2), path(B))] == [1, 1]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_nonsense_for_a_weight_makes_all_equal(weight: float) -> None:
    assert [h.weight for h in hops(path(A, weight=weight), path(B, weight=3))] == [1, 1]


def test_two_paths_to_one_hop_are_one_hop() -> None:
    two = path(A, weight=1, draining=True, peer=B), path(A, weight=3, peer=C)
    assert hops(*two, path(B, weight=3)) == (Hop(A, 1, False), Hop(B, 1, False))


def test_draining_gets_no_share_unless_all_drain() -> None:
    def everything(_: Address) -> bool:
        return True

    some = wanted([path(A, draining=True), path(B)])
    assert some is not None
    assert some.target.members(everything) == (Member(B, 1),)
    every = wanted([path(A, draining=True), path(B, draining=True)])
    assert every is not None
    assert every.target.members(everything) == (Member(A, 1), Member(B, 1))
    assert some.target.members(lambda address: address == A) == (Member(A, 1),), (
        "the active one is not usable, so the draining one serves"
    )


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans(), st.integers(1, 5))))
def test_hops_do_not_depend_on_order(what: list[tuple[Address, bool, int]]) -> None:
    paths = [path(a, draining=d, weight=w) for a, d, w in what]
    assert wanted(paths) == wanted(paths[::-1])


def test_pod_block_has_one_next_hop_and_a_route_has_all() -> None:
    pods = wanted([path(A, kind="pods"), path(B, kind="pods")])
    routes = wanted([path(A, kind="routes"), path(B, kind="routes")])
    assert pods is not None
    assert routes is not None
    assert pods.gateways == (A,)
    assert routes.gateways == (A, B)


SERVICE = parse_prefix("192.0.2.1/32")[1]
BLOCK = parse_prefix("10.244.1.0/26")[1]


def snapshot(services: tuple[Nlri, ...] = (), ways_out: tuple[Family, ...] = ()) -> Snapshot:
    paths = {
        SERVICE: PathSet((path(A), path(B, draining=True))),
        BLOCK: PathSet((path(A, kind="pods"),)),
    }
    return Snapshot(
        services={Family.IPV4: services, Family.IPV6: ()},
        pods={Family.IPV4: (BLOCK,), Family.IPV6: ()},
        ways_out=ways_out,
        paths=lambda family, nlri: paths.get(nlri),
        connected=lambda address: 2 if address.startswith(b"\x0a\0\0") else 3,
        cluster_id=7,
    )


def neighbor(*export: str, **more: object) -> Neighbor:
    settings = {"range": "10.0.0.0/24", "remote_as": 64512} | more
    return Neighbor(export=list(export), import_=Import(), **settings)  # type: ignore[arg-type]


def advertisements(neighbor: Neighbor, snapshot: Snapshot) -> Routes:
    steps = Offers().steps([neighbor], snapshot)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            routes: Routes = done.value[neighbor.name]
            return routes


def test_services_go_upstream_through_us_without_draining_or_weight() -> None:
    upstream = neighbor("services", range=None, address="172.16.0.1")
    routes = advertisements(upstream, snapshot(services=(SERVICE,)))[Family.IPV4]
    assert routes[SERVICE].attributes.next_hop == b""
    assert routes[SERVICE].attributes.communities == ()
    assert advertisements(upstream, snapshot())[Family.IPV4] == {}, "not in the kernel, not told"


def test_pod_blocks_keep_their_node_as_next_hop_on_a_shared_segment() -> None:
    node = advertisements(neighbor("pods"), snapshot())[Family.IPV4][BLOCK]
    assert node.attributes.next_hop == A
    assert node.attributes.cluster_list == (7,)
    assert node.source_peer == A
    upstream = neighbor("pods", range=None, address="172.16.0.1")
    assert advertisements(upstream, snapshot())[Family.IPV4][BLOCK].attributes.next_hop == b""


def test_default_route_only_with_a_way_out() -> None:
    assert DEFAULT_NLRI not in advertisements(neighbor("default"), snapshot())[Family.IPV4]
    offered = advertisements(neighbor("default"), snapshot(ways_out=(Family.IPV4,)))
    assert DEFAULT_NLRI in offered[Family.IPV4]
    assert DEFAULT_NLRI not in offered[Family.IPV6]


@pytest.mark.parametrize(
    ("adopted", "heard", "peers", "since", "why"),
    [
        ({A, B}, {A, B, C}, 0, 0, Why.ALL_HEARD),
        ({A, B}, {A}, 5, 0, Why.WAITING_FOR_HOPS),
        ({A, B}, {A}, 0, 60, Why.DEFERRAL_OVER),
        ((), {A}, 1, 0, Why.WAITING_FOR_PEERS),
        ((), {A, B}, 2, 0, Why.ENOUGH_HEARD),
        ((), (), 0, 60, Why.DEFERRAL_OVER),
    ],
)
def test_in_sync(
    adopted: set[Address], heard: set[Address], peers: int, since: int, why: Why
) -> None:
    sync = decide(
        adopted=adopted, heard=heard, peers_heard=peers, expected_peers=2,
        since_start_s=since, deferral_s=60,
    )  # fmt: skip
    assert sync.why is why
    assert sync.in_sync == (why in (Why.ALL_HEARD, Why.ENOUGH_HEARD, Why.DEFERRAL_OVER))


def test_all_equal_paths_of_a_block_go_to_who_takes_several() -> None:
    two = PathSet((path(A, kind="pods"), path(B, kind="pods")))
    shown = replace(snapshot(), paths=lambda family, nlri: two)
    one = advertisements(neighbor("pods", add_path="receive"), shown)[Family.IPV4][BLOCK]
    both = advertisements(neighbor("pods", add_path="send"), shown)[Family.IPV4][BLOCK]
    assert isinstance(one, Advertisement)
    assert isinstance(both, tuple)
    assert both[0] == one
    assert [a.attributes.next_hop for a in both] == [A, B]
    assert [a.source_peer for a in both] == [A, B]


def said(*communities: int) -> Path:
    return replace(path(A), attributes=PathAttributes(A, communities=communities))


@pytest.mark.parametrize(
    ("of_a", "of_b", "told"),
    [
        ((NO_EXPORT,), (NO_EXPORT,), (NO_EXPORT,)),
        ((NO_EXPORT,), (), ()),
        ((NO_ADVERTISE, GRACEFUL_SHUTDOWN), (NO_ADVERTISE,), (NO_ADVERTISE,)),
        ((GRACEFUL_SHUTDOWN, LLGR_STALE, 5), (GRACEFUL_SHUTDOWN, LLGR_STALE, 5), ()),
    ],
)
def test_a_service_stays_in_if_all_its_nodes_say_so(
    of_a: tuple[int, ...], of_b: tuple[int, ...], told: tuple[int, ...]
) -> None:
    assert service_onward([said(*of_a), said(*of_b)]).communities == told


def test_a_reflected_block_keeps_what_says_who_may_have_it() -> None:
    held = PathSet((said(NO_EXPORT, LLGR_STALE, GRACEFUL_SHUTDOWN, 5),))
    shown = replace(snapshot(), paths=lambda family, nlri: held)
    told = advertisements(neighbor("pods"), shown)[Family.IPV4][BLOCK]
    assert isinstance(told, Advertisement)
    assert told.attributes.communities == (LLGR_STALE, NO_EXPORT)

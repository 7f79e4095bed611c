"""What was decided before does not matter: a world comes to the same for whoever saw others."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import (
    Cluster,
    Endpoint,
    EndpointSlice,
    IPPool,
    Node,
    NodeDrain,
    Object,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise, AgentConfig
from samepath.model.kinds import (
    BGPAdvertisement,
    IPAddressPool,
    Operator,
    Range,
    Requirement,
    Selector,
)
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.netlink.fake import FakeKernel
from samepath.programs.serving import Serving, World

A = parse_address
VIPS = tuple(map(A, ("203.0.113.1", "203.0.113.2", "198.51.100.1", "2001:db8::1")))
LABELS: list[dict[str, str]] = [{}, {"tier": "front"}]
SELECTOR = Selector((Requirement("tier", Operator.IN, ("front",)),))

nodes = st.builds(
    Node,
    st.sampled_from(("n1", "n2")),
    st.sampled_from(((), (parse_prefix("10.1.0.0/24"),))),
    drain=st.sampled_from((None, *NodeDrain)),
    addresses=st.sampled_from(((), (A("192.0.2.1"),))),
    labels=st.sampled_from(LABELS),
)
services = st.builds(
    Service,
    st.just("default"),
    st.sampled_from(("a", "b", "c")),
    st.sampled_from(((), (ServicePort(80),), (ServicePort(80), ServicePort(81, name="x")))),
    cluster_ips=st.sampled_from(((), (A("10.97.0.1"),))),
    external_ips=st.sampled_from(((), VIPS[2:3])),
    load_balancer=st.booleans(),
    load_balancer_ips=st.sampled_from((VIPS[:1], VIPS[1:2], VIPS[3:], VIPS)),
    external_local=st.booleans(),
    health_check_node_port=st.sampled_from((None, 30000, 30001)),
    labels=st.sampled_from(LABELS),
)
endpoints = st.builds(
    Endpoint,
    st.sampled_from((A("10.1.0.5"), A("10.2.0.5"))),
    st.sampled_from((None, "n1", "n2")),
    st.booleans(),
    st.booleans(),
)
slices = st.builds(
    EndpointSlice,
    st.just("default"),
    st.sampled_from(("s1", "s2", "s3")),
    st.sampled_from(("a", "b", "c", "")),
    st.just(Family.IPV4),
    st.sampled_from(((SlicePort(8080),), (SlicePort(8080), SlicePort(8081, name="x")))),
    st.lists(endpoints, max_size=3).map(tuple),
)
pools = st.builds(
    IPAddressPool,
    name=st.sampled_from(("p1", "p2")),
    addresses=st.sampled_from(((Range(VIPS[0], VIPS[1]),), (Range(VIPS[3], VIPS[3]),))),
)
advertisements = st.builds(
    BGPAdvertisement,
    name=st.sampled_from(("x", "y")),
    ip_address_pools=st.sampled_from(((), ("p1",))),
    node_selectors=st.sampled_from(((), (SELECTOR,))),
    service_selectors=st.sampled_from(((), (SELECTOR,))),
    peers=st.sampled_from(((), ("gw1",), ("gw2",))),
)
ip_pools = st.builds(
    lambda nat: IPPool("pods", *parse_prefix("10.1.0.0/16"), 26, nat_outgoing=nat), st.booleans()
)
things: st.SearchStrategy[Object] = st.one_of(
    nodes, services, services, slices, slices, pools, advertisements, ip_pools
)


def config(**more: Any) -> AgentConfig:
    return AgentConfig(
        router_id="192.0.2.1",
        local_as=65000,
        node="n1",
        neighbors=[],
        run_dir="/run/nowhere",
        manifests="/nowhere",
        **more,
    )


worlds = st.builds(
    lambda cluster, proxy, cluster_ips, taken, neighbors: World(
        cluster,
        config(service_proxy=proxy, advertise=Advertise(cluster_ips=cluster_ips)),
        frozenset(taken),
        frozenset(neighbors),
    ),
    st.lists(things, max_size=12).map(make_cluster),
    st.sampled_from(("nftables", "none")),
    st.booleans(),
    st.lists(st.sampled_from(VIPS), max_size=1),
    st.lists(st.sampled_from(("gw1", "gw2")), max_size=2),
)


def plan(serving: Serving, world: World, in_place: list[int], drained: list[int]) -> None:
    if world.config.service_proxy != "none":
        serving.in_place = frozenset(VIPS[i] for i in in_place)
    serving.drains.update([VIPS[i] for i in drained], 0.0)
    serving.drains.counted({}, 1e9, 1.0)
    asyncio.run(serving.plan(world))


def what(serving: Serving) -> tuple[object, ...]:
    return (
        serving.rows,
        serving.offers,
        serving.told,
        serving.rules_of_pools,
        serving.ruleset,
        serving.in_place,
        serving._checks,
        serving.health.conflicts,
    )


indices = st.lists(st.integers(0, 3), max_size=4)


@given(st.lists(st.tuples(worlds, indices, indices), min_size=1, max_size=5))
def test_what_was_decided_before_does_not_matter(
    steps: list[tuple[World, list[int], list[int]]],
) -> None:
    old = Serving(FakeKernel())
    for step in steps:
        new = Serving(FakeKernel())
        plan(old, *step)
        plan(new, *step)
        assert what(old) == what(new)


def test_a_change_that_changes_no_row_leaves_the_offers_alone() -> None:
    """With policy Cluster the endpoints come and go, and nobody is told anything."""
    service = Service(
        "default", "a", (ServicePort(80),), load_balancer=True, load_balancer_ips=VIPS[:1]
    )
    serving, offers = Serving(FakeKernel()), []
    for ready in (True, False):
        ends = (Endpoint(A("10.1.0.5"), "n2"), Endpoint(A("10.2.0.5"), "n2", ready, ready))
        part = EndpointSlice("default", "s", "a", Family.IPV4, (SlicePort(8080),), ends)
        cluster: Cluster = make_cluster([Node("n1"), service, part])
        plan(serving, World(cluster, config(), frozenset()), [0], [])
        offers.append(serving.offers)
    assert offers[0]
    assert offers[0] is offers[1]

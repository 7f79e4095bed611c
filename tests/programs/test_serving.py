"""What was decided before does not matter: a world comes to the same for whoever saw others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import AsyncMock, patch

from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.kube.objects import object_key
from samepath.model.cluster import (
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
from samepath.plan.ruleset import Ruleset
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


FIRST: list[Object] = [
    Node("n1"),
    IPAddressPool(name="p1", addresses=(Range(VIPS[0], VIPS[1]),)),
    BGPAdvertisement(name="x", service_selectors=(SELECTOR,)),
    BGPAdvertisement(name="y", communities=("65000:1",)),
    *(
        Service(
            "default",
            name,
            (ServicePort(80),),
            load_balancer=True,
            load_balancer_ips=(vip,),
            external_local=name == "a",
            health_check_node_port=30000 if name == "a" else None,
            labels=LABELS[1],
        )
        for name, vip in zip("abc", VIPS, strict=False)
    ),
    *(
        EndpointSlice(
            "default",
            f"s{number}",
            name,
            Family.IPV4,
            (SlicePort(8080),),
            (Endpoint(A("10.1.0.5"), "n1"), Endpoint(A("10.2.0.5"), "n2")),
        )
        for number, name in enumerate("abc", 1)
    ),
]


@dataclass(frozen=True)
class State:
    """All that a decision depends on."""

    objects: Mapping[str, Object]
    proxy: Literal["nftables", "none"] = "nftables"
    cluster_ips: bool = False
    taken: frozenset[bytes] = frozenset()
    neighbors: frozenset[str] = frozenset({"gw1"})
    in_place: frozenset[bytes] = frozenset(VIPS)
    drained: frozenset[bytes] = frozenset()


some_vips = st.frozensets(st.sampled_from(VIPS))
Step = Object | str | tuple[str, Any]
"""An object as it is now; the key of one that is gone; or something else, and its value."""
steps: st.SearchStrategy[Step] = st.one_of(
    things,
    things,
    st.sampled_from([object_key(thing) for thing in FIRST]),
    st.sampled_from([replace(thing, labels={}) for thing in FIRST if isinstance(thing, Service)]),
    st.tuples(st.just("proxy"), st.sampled_from(("nftables", "none"))),
    st.tuples(st.just("cluster_ips"), st.booleans()),
    st.tuples(st.sampled_from(("taken", "in_place", "drained")), some_vips),
    st.tuples(st.just("neighbors"), st.frozensets(st.sampled_from(("gw1", "gw2")))),
)


def after(state: State, step: Step) -> State:
    if isinstance(step, tuple):
        name, value = step
        return replace(state, **{name: value})
    if isinstance(step, str):
        return replace(state, objects={k: t for k, t in state.objects.items() if k != step})
    return replace(state, objects={**state.objects, object_key(step): step})


def plan(serving: Serving, state: State) -> None:
    if state.proxy != "none":
        serving.in_place = state.in_place
    serving.drains.update(state.drained, 0.0)
    serving.drains.counted({}, 1e9, 1.0)
    advertise = Advertise(cluster_ips=state.cluster_ips)
    world = World(
        make_cluster(state.objects.values()),
        config(service_proxy=state.proxy, advertise=advertise),
        state.taken,
        state.neighbors,
    )
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


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(("nftables", "none")), st.lists(steps, min_size=1, max_size=8))
def test_what_was_decided_before_does_not_matter(
    proxy: Literal["nftables", "none"], changes: list[Step]
) -> None:
    state = State({object_key(thing): thing for thing in FIRST}, proxy)
    old = Serving(FakeKernel())
    plan(old, state)
    for change in changes:
        state = after(state, change)
        new = Serving(FakeKernel())
        plan(old, state)
        plan(new, state)
        assert what(old) == what(new)


def test_a_change_that_changes_no_row_leaves_the_offers_alone() -> None:
    """With policy Cluster the endpoints come and go, and nobody is told anything."""
    serving, offers = Serving(FakeKernel()), []
    state = State({object_key(thing): thing for thing in FIRST})
    for ready in (True, False):
        ends = (Endpoint(A("10.1.0.5"), "n2"), Endpoint(A("10.2.0.5"), "n2", ready, ready))
        part = EndpointSlice("default", "s2", "b", Family.IPV4, (SlicePort(8080),), ends)
        plan(serving, after(state, part))
        offers.append(serving.offers)
    assert VIPS[1] in offers[0]
    assert offers[0] is offers[1]


def test_what_is_new_waits_for_its_rules_and_what_is_gone_does_not() -> None:
    """An endpoint that comes where there was none: the rules still say that there is none."""
    kernel = FakeKernel()
    kernel.add_link("lo")
    serving = Serving(kernel)
    vip = VIPS[0]
    seen: list[bool] = []

    async def write(ruleset: Ruleset) -> None:
        seen.append(vip in serving.may_be_told)

    async def forgotten(flow: object) -> None:
        pass

    async def live(ready: bool) -> None:
        part = EndpointSlice(
            "default", "s1", "a", Family.IPV4, (SlicePort(8080),),
            (Endpoint(A("10.1.0.5"), "n1", ready, ready),),
        )  # fmt: skip
        service = Service(
            "default", "a", (ServicePort(80),), load_balancer=True, load_balancer_ips=(vip,)
        )
        world = World(
            make_cluster([Node("n1"), service, part]), config(), frozenset(), frozenset({"gw1"})
        )
        await serving.plan(world)
        seen.append(vip in serving.may_be_told)
        await serving.settle(world)
        seen.append(vip in serving.may_be_told)

    with (
        patch.object(serving.rules, "apply", write),
        patch("samepath.apply.conntrack.flows_to", AsyncMock(return_value=set())),
        patch("samepath.apply.conntrack.forget", forgotten),
    ):
        for ready, expected in (
            (False, [False, False, False]),
            (True, [False, False, True]),
            (True, [True, True, True]),
            (False, [False, False, False]),
        ):
            seen.clear()
            asyncio.run(live(ready))
            assert seen == expected

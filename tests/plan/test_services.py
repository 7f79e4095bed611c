"""The endpoint rule, in tables and for every combination."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepath.model.cluster import (
    Allocation,
    Cluster,
    Endpoint,
    EndpointSlice,
    Node,
    NodeDrain,
    Service,
    ServicePort,
    SlicePort,
    make_cluster,
)
from samepath.model.config import Advertise
from samepath.model.net import Family, family_of, parse_address
from samepath.plan.services import (
    Offer,
    Reach,
    Row,
    State,
    View,
    Why,
    draining,
    offers,
    rows,
    why_endpoints,
)

VIP4, VIP6 = parse_address("203.0.113.10"), parse_address("2001:db8::10")


def pod(number: int, node: str, conditions: str = "R", family: Family = Family.IPV4) -> Endpoint:
    """Conditions: R ready, S serving and terminating, T terminating, N neither."""
    address = parse_address(f"10.1.0.{number}" if family is Family.IPV4 else f"fd00::{number}")
    ready, serving, terminating = {
        "R": (True, True, False),
        "S": (False, True, True),
        "T": (False, False, True),
        "N": (False, False, False),
    }[conditions]
    return Endpoint(address, node, ready, serving, terminating)


def slice_of(*endpoints: Endpoint, name: str = "web-1", service: str = "web") -> EndpointSlice:
    family = family_of(endpoints[0].address) if endpoints else Family.IPV4
    return EndpointSlice("default", name, service, family, (SlicePort(8080),), endpoints)


def web(local: bool = True, name: str = "web", **more: object) -> Service:
    return Service(
        "default",
        name,
        (ServicePort(80),),
        load_balancer=True,
        load_balancer_ips=(VIP4,),
        external_local=local,
        **more,  # type: ignore[arg-type]
    )


def world(
    *things: Node | Service | EndpointSlice, drain: NodeDrain | None = None, **more: object
) -> View:
    cluster = make_cluster((Node("n1", drain=drain), Node("n2"), *things))
    return View(cluster, "n1", Advertise(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("local", "pods", "why", "weight"),
    [
        (True, [], Why.NO_ENDPOINTS, 0),
        (True, [("n2", "R")], Why.NO_LOCAL_ENDPOINT, 0),
        (True, [("n1", "R"), ("n2", "R")], Why.ACTIVE, 1),
        (True, [("n1", "R"), ("n1", "R"), ("n1", "S"), ("n2", "R")], Why.ACTIVE, 2),
        (True, [("n1", "S"), ("n2", "R")], Why.DRAINING_ENDPOINTS_TERMINATING, 1),
        (True, [("n1", "S"), ("n1", "S"), ("n1", "T")], Why.DRAINING_ENDPOINTS_TERMINATING, 2),
        (True, [("n1", "T"), ("n2", "R")], Why.NOT_SERVING, 0),
        (True, [("n1", "N")], Why.NOT_SERVING, 0),
        (False, [], Why.NO_ENDPOINTS, 0),
        (False, [("n2", "R"), ("n2", "R")], Why.ACTIVE, 1),
        (False, [("n2", "S")], Why.DRAINING_ENDPOINTS_TERMINATING, 1),
        (False, [("n2", "N"), ("n1", "T")], Why.NOT_SERVING, 0),
    ],
)
def test_endpoints_decide(local: bool, pods: list[tuple[str, str]], why: Why, weight: int) -> None:
    endpoints = [pod(i, node, conditions) for i, (node, conditions) in enumerate(pods, 1)]
    view = world(web(local), slice_of(*endpoints))
    assert rows(view) == (Row("default/web", VIP4, Reach.LOAD_BALANCER, why, weight),)


def rule_in_words(local_only: bool, pods: list[tuple[bool, bool, bool, bool]]) -> State:
    """The sentence of the decision, said again and differently."""
    in_scope = [p for p in pods if p[0] or not local_only]
    if any(ready for _, ready, _, _ in in_scope):
        return State.ACTIVE
    if any(serving for _, _, serving, _ in in_scope):
        return State.DRAINING
    return State.WITHDRAWN


EVERY_POD = list(itertools.product((True, False), repeat=4))


def test_every_combination_of_two_endpoints() -> None:
    for local_only in (True, False):
        for pods in itertools.product(EVERY_POD, repeat=2):
            check_rule(local_only, list(pods))


@given(st.booleans(), st.lists(st.sampled_from(EVERY_POD), max_size=8))
def test_every_combination(local_only: bool, pods: list[tuple[bool, bool, bool, bool]]) -> None:
    check_rule(local_only, pods)


def check_rule(local_only: bool, pods: list[tuple[bool, bool, bool, bool]]) -> None:
    endpoints = tuple(
        Endpoint(parse_address(f"10.1.0.{i}"), "n1" if local else "n2", ready, serving, terminating)
        for i, (local, ready, serving, terminating) in enumerate(pods, 1)
    )
    cluster = make_cluster([web(local_only), slice_of(*endpoints)])
    why, weight = why_endpoints(cluster, web(local_only), VIP4, "n1", local_only=local_only)
    state = rule_in_words(local_only, pods)
    assert why.state is state
    if state is State.WITHDRAWN:
        assert weight == 0
    elif not local_only:
        assert weight == 1
    else:
        counts = [p[1] if state is State.ACTIVE else p[2] for p in pods if p[0]]
        assert weight == sum(counts)


@pytest.mark.parametrize(
    ("drain", "why"),
    [
        (NodeDrain.LABEL, Why.DRAINING_NODE_LABEL),
        (NodeDrain.ANNOTATION, Why.DRAINING_ANNOTATION),
        (None, Why.ACTIVE),
    ],
)
def test_a_node_drains_all_that_it_serves(drain: NodeDrain | None, why: Why) -> None:
    served = (web(), slice_of(pod(1, "n1")))
    (row,) = rows(world(*served, drain=drain))
    assert (row.why, row.weight) == (why, 1)
    (row,) = rows(world(web(), slice_of(pod(1, "n2")), drain=drain))
    assert row.why is Why.NO_LOCAL_ENDPOINT


def test_the_end_of_a_drain() -> None:
    served = (web(), slice_of(pod(1, "n1")))
    (row,) = rows(world(*served, drain=NodeDrain.LABEL, drained={VIP4}))
    assert (row.why, row.weight) == (Why.DRAIN_OVER, 0)
    assert draining([row]) == {VIP4}  # as long as the reason lasts
    (row,) = rows(world(*served, drained={VIP4}))
    assert row.why is Why.ACTIVE
    assert draining([row]) == frozenset()


def test_nothing_before_its_rules() -> None:
    served = (web(), slice_of(pod(1, "n1")))
    (row,) = rows(world(*served, in_place=frozenset()))
    assert row.why is Why.RULES_NOT_READY
    (row,) = rows(world(*served, in_place={VIP4}))
    assert row.why is Why.ACTIVE


def test_no_service_takes_the_nodes_own_address() -> None:
    (row,) = rows(world(web(), slice_of(pod(1, "n1")), taken={VIP4}))
    assert row.why is Why.ADDRESS_TAKEN


def test_an_unknown_node_serves_nothing() -> None:
    cluster = make_cluster([web(), slice_of(pod(1, "n1"))])
    (row,) = rows(View(cluster, "n1", Advertise()))
    assert row.why is Why.NODE_UNKNOWN


def test_classes_and_addresses() -> None:
    other = web(load_balancer_class="example.com/lb")
    assert [r.why for r in rows(world(other))] == [Why.CLASS_NOT_OURS]
    empty = Service("default", "web", (ServicePort(80),), load_balancer=True)
    assert [r.why for r in rows(world(empty))] == [Why.NO_ADDRESS]
    given = web(load_balancer_class="example.com/lb", allocation=Allocation(("main",)))
    assert [r.why for r in rows(world(given))] == [Why.NO_ENDPOINTS]
    ours = web(load_balancer_class="samepath.dev/bgp")
    assert [r.why for r in rows(world(ours))] == [Why.NO_ENDPOINTS]


def test_families_are_apart() -> None:
    both = Service(
        "default", "web", (ServicePort(80),), load_balancer=True, load_balancer_ips=(VIP4, VIP6)
    )
    view = world(both, slice_of(pod(1, "n1", family=Family.IPV6)))
    assert {r.address: r.why for r in rows(view)} == {VIP4: Why.NO_ENDPOINTS, VIP6: Why.ACTIVE}


def test_which_addresses() -> None:
    service = Service(
        "default",
        "web",
        (ServicePort(80),),
        cluster_ips=(parse_address("10.96.0.1"),),
        external_ips=(parse_address("198.51.100.1"),),
        load_balancer=True,
        load_balancer_ips=(VIP4,),
        external_local=True,
    )
    cluster = make_cluster([Node("n1"), service, slice_of(pod(1, "n2"))])
    for advertise, reaches in [
        (Advertise(), {Reach.LOAD_BALANCER, Reach.EXTERNAL}),
        (Advertise(cluster_ips=True), set(Reach)),
        (Advertise(load_balancer_ips=False, external_ips=False), set()),
    ]:
        found = rows(View(cluster, "n1", advertise))
        assert {r.reach for r in found} == reaches
    by_reach = {r.reach: r.why for r in rows(View(cluster, "n1", Advertise(cluster_ips=True)))}
    assert by_reach[Reach.LOAD_BALANCER] is Why.NO_LOCAL_ENDPOINT
    assert by_reach[Reach.CLUSTER] is Why.ACTIVE


def test_ports_are_matched_by_name() -> None:
    service = Service(
        "default",
        "web",
        (ServicePort(80, name="http"), ServicePort(443, name="https")),
        load_balancer=True,
        load_balancer_ips=(VIP4,),
        external_local=True,
    )
    ports = (SlicePort(8080, name="http"), SlicePort(8443, name="https"))
    part = EndpointSlice("default", "web-1", "web", Family.IPV4, ports, (pod(1, "n1"),))
    (row,) = rows(world(service, part))
    assert (row.why, row.weight) == (Why.ACTIVE, 1)  # one pod, though two ports
    unnamed = EndpointSlice(
        "default", "web-1", "web", Family.IPV4, (SlicePort(8080),), (pod(1, "n1"),)
    )
    (row,) = rows(world(service, unnamed))
    assert row.why is Why.NO_ENDPOINTS


def test_an_endpoint_in_two_slices_counts_once_and_at_its_best() -> None:
    view = world(web(), slice_of(pod(1, "n1", "S")), slice_of(pod(1, "n1", "R"), name="web-2"))
    (row,) = rows(view)
    assert (row.why, row.weight) == (Why.ACTIVE, 1)


def test_services_that_share_an_address() -> None:
    def row(name: str, why: Why, weight: int) -> Row:
        return Row(name, VIP4, Reach.LOAD_BALANCER, why, weight)

    for decided, offer in [
        ([row("a", Why.ACTIVE, 3), row("b", Why.ACTIVE, 2)], Offer(State.ACTIVE, 2)),
        ([row("a", Why.ACTIVE, 3), row("b", Why.NOT_SERVING, 0)], Offer(State.ACTIVE, 3)),
        (
            [row("a", Why.DRAINING_ENDPOINTS_TERMINATING, 1), row("b", Why.ACTIVE, 2)],
            Offer(State.ACTIVE, 2),
        ),
        ([row("a", Why.DRAINING_NODE_LABEL, 1)], Offer(State.DRAINING, 1)),
    ]:
        for order in (decided, decided[::-1]):
            assert offers(order) == {VIP4: offer}
    assert offers([row("a", Why.DRAIN_OVER, 0)]) == {}
    mixed = [row("a", Why.DRAINING_NODE_LABEL, 1), row("b", Why.ACTIVE, 2)]
    assert draining(mixed) == frozenset()


def test_reasons_are_distinct() -> None:
    assert len({w.text for w in Why}) == len(Why) == len(set(Why))
    assert isinstance(Cluster(), Cluster)

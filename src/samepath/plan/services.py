"""What a node advertises of each service, and why.

Called by `programs.agent` with all that is known; every service address gets a reason (`Why`), and
the addresses that are served become advertisements in `plan.agent`. Pure: drains that are over and
rules that stand come in as arguments.

The rule (docs/decisions/0007): a ready endpoint makes a service active; with none ready, one that
is still serving makes it draining, so that its old flows keep their path; otherwise it is
withdrawn. With externalTrafficPolicy Local only endpoints on this node count and their number is
the weight; with Cluster those of the whole cluster count and the weight is 1. A node that is to
take no new flows drains all its services.

Kubernetes API: Service traffic policies; EndpointSlice conditions.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from samepath.model.cluster import Cluster, Node, NodeDrain, Service, Target
from samepath.model.config import Advertise
from samepath.model.memo import Last, Memo
from samepath.model.net import Address, PrefixSet, family_of
from samepath.plan.allocation_rules import CLASS


class State(enum.Enum):
    ACTIVE = "active"
    DRAINING = "draining"
    WITHDRAWN = "withdrawn"


class Why(enum.Enum):
    """Why a service address is advertised by this node, or is not."""

    ACTIVE = (State.ACTIVE, "ready endpoints")
    DRAINING_ENDPOINTS_TERMINATING = (State.DRAINING, "no endpoint is ready, some still serve")
    DRAINING_NODE_LABEL = (State.DRAINING, f"the node has the label {NodeDrain.LABEL.value}")
    DRAINING_ANNOTATION = (
        State.DRAINING,
        f"the node has the annotation {NodeDrain.ANNOTATION.value}",
    )
    NO_ENDPOINTS = (State.WITHDRAWN, "no endpoint anywhere")
    NO_LOCAL_ENDPOINT = (State.WITHDRAWN, "no endpoint on this node, and its policy is Local")
    NOT_SERVING = (State.WITHDRAWN, "no endpoint is ready or serving")
    NODE_UNKNOWN = (State.WITHDRAWN, "our Node object is not known")
    NO_ADVERTISEMENT = (State.WITHDRAWN, "no BGPAdvertisement names its IPAddressPool")
    ADVERTISED_ELSEWHERE = (
        State.WITHDRAWN,
        "the BGPAdvertisements of its IPAddressPool do not select this node",
    )
    ADVERTISEMENT_REFUSED = (State.WITHDRAWN, "the BGPAdvertisement of its pool is refused")
    SERVICE_NOT_SELECTED = (
        State.WITHDRAWN,
        "no BGPAdvertisement of its IPAddressPool selects the service",
    )
    NO_SUCH_PEER = (
        State.WITHDRAWN,
        "the BGPAdvertisements of its IPAddressPool name no neighbour of this node",
    )
    RULES_NOT_READY = (State.WITHDRAWN, "its rules or address are not in place yet")
    DRAIN_OVER = (State.WITHDRAWN, "drained: no flow was left, or the deadline passed")
    NO_ADDRESS = (State.WITHDRAWN, "status.loadBalancer.ingress has no address")
    ADDRESS_TAKEN = (State.WITHDRAWN, "the address is the node's own or a neighbour's")
    CLASS_NOT_OURS = (State.WITHDRAWN, f"spec.loadBalancerClass is not {CLASS}")

    def __init__(self, state: State, text: str) -> None:
        self.state = state
        self.text = text

    # Reasons may share a state and, formatted, a text; they are themselves.
    __hash__ = object.__hash__


class Reach(enum.Enum):
    """Which kind of address: it decides which traffic policy applies."""

    LOAD_BALANCER = "load balancer"
    EXTERNAL = "external"
    CLUSTER = "cluster"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Row:
    """One service at one of its addresses (None: it has none)."""

    service: str
    """namespace/name"""
    address: Address | None
    reach: Reach
    why: Why
    weight: int = 0
    """Ready local endpoints, serving ones while it drains; 1 for policy Cluster."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is advertised of an address, all services that share it considered."""

    state: State
    weight: int


@dataclass(frozen=True, slots=True)
class View:
    """All that the decisions depend on."""

    cluster: Cluster
    node: str
    advertise: Advertise
    in_place: Container[Address] | None = None
    """Addresses whose rules stand; None: that is not for us to know (serviceProxy none)."""
    drained: Container[Address] = ()
    """Addresses whose drain is over."""
    taken: Container[Address] = ()
    """Addresses that no service may have here: the node's own, the neighbours'."""
    untold: Mapping[tuple[str, Address], Why] = field(default_factory=dict)
    """(service, address) -> why no neighbour is to be told (`plan.advertising`)."""


class Known:
    """What `rows` has made of each service; kept by the caller between calls."""

    def __init__(self) -> None:
        self.by_endpoints: Memo[str, tuple[Row, ...]] = Memo()
        self.decided: Memo[str, tuple[Row, ...]] = Memo()
        self.whole: Last[tuple[Row, ...]] = Last()


def rows(view: View, known: Known | None = None) -> tuple[Row, ...]:
    """Every service at every address that could be advertised, in order of name."""
    known = known or Known()
    cluster = view.cluster
    node = cluster.nodes.get(view.node)
    by_endpoints = known.by_endpoints.update(
        lambda key: tuple(_rows(view, cluster.services[key])),
        (cluster.services, cluster.slices),
        (view.node, view.advertise),
    )
    decided = known.decided.update(
        lambda key: tuple(_and_the_node(view, node, row) for row in by_endpoints[key]),
        (by_endpoints,),
        (node and (node.drain,), view.in_place, view.drained, view.taken, view.untold),
    )
    return known.whole.of(lambda: _flat(decided), decided)


def _flat(decided: Mapping[str, tuple[Row, ...]]) -> tuple[Row, ...]:
    return tuple(itertools.chain.from_iterable(map(decided.__getitem__, sorted(decided))))


def _rows(view: View, service: Service) -> Iterator[Row]:
    """As the endpoints alone would have it."""
    addresses = dict(service_addresses(service, view.advertise))
    if service.load_balancer and view.advertise.load_balancer_ips:
        if not is_ours(service):
            yield Row(service.key, None, Reach.LOAD_BALANCER, Why.CLASS_NOT_OURS)
        elif not service.load_balancer_ips:
            yield Row(service.key, None, Reach.LOAD_BALANCER, Why.NO_ADDRESS)
    for address, reach in addresses.items():
        local = service.internal_local if reach is Reach.CLUSTER else service.external_local
        why, weight = why_endpoints(view.cluster, service, address, view.node, local_only=local)
        yield Row(service.key, address, reach, why, weight)


def is_ours(service: Service) -> bool:
    """Without a class, or of ours. What our controller gave addresses to is, whatever class it was
    configured with."""
    return service.load_balancer_class in (None, CLASS) or bool(service.allocation.pools)


def service_addresses(service: Service, advertise: Advertise) -> Iterable[tuple[Address, Reach]]:
    """The addresses to advertise. One that stands in two roles has the last one of these."""
    if advertise.cluster_ips:
        yield from ((a, Reach.CLUSTER) for a in service.cluster_ips)
    if service.external_ips:
        told = advertise.external_ips
        within = _prefixes(tuple(told)) if isinstance(told, list) else None
        external = service.external_ips if told is not False else ()
        yield from ((a, Reach.EXTERNAL) for a in external if within is None or within.contains(a))
    if advertise.load_balancer_ips and service.load_balancer and is_ours(service):
        yield from ((a, Reach.LOAD_BALANCER) for a in service.load_balancer_ips)


@functools.lru_cache(maxsize=8)
def _prefixes(texts: tuple[str, ...]) -> PrefixSet:
    return PrefixSet(texts)


def advertised(cluster: Cluster, advertise: Advertise) -> frozenset[Address]:
    """All addresses that could be."""
    services = cluster.services.values()
    return frozenset(a for s in services for a, _ in service_addresses(s, advertise))


def why_endpoints(
    cluster: Cluster, service: Service, address: Address, node: str, *, local_only: bool
) -> tuple[Why, int]:
    """The endpoints' part of the decision, and the weight that goes with it."""
    family = family_of(address)
    targets: set[Target] = set()
    for port in service.ports:
        targets.update(cluster.targets(service, port, family, node))
    if not targets:
        return Why.NO_ENDPOINTS, 0
    if local_only:
        targets = {t for t in targets if t.local}
        if not targets:
            return Why.NO_LOCAL_ENDPOINT, 0
    # A pod with several ports is one endpoint.
    ready = {t.address for t in targets if t.ready}
    serving = {t.address for t in targets if t.serving}
    if ready:
        return Why.ACTIVE, len(ready) if local_only else 1
    if serving:
        return Why.DRAINING_ENDPOINTS_TERMINATING, len(serving) if local_only else 1
    return Why.NOT_SERVING, 0


def _and_the_node(view: View, node: Node | None, row: Row) -> Row:
    """What node, rules and the state of a drain make of the endpoints' reason."""
    if row.address is None:
        return row
    why = _why(view, node, row, row.address)
    if why is row.why:
        return row
    weight = 0 if why.state is State.WITHDRAWN else row.weight
    return Row(row.service, row.address, row.reach, why, weight)


def _why(view: View, node: Node | None, row: Row, address: Address) -> Why:
    why = row.why
    if address in view.taken:
        return Why.ADDRESS_TAKEN
    if node is None:
        return Why.NODE_UNKNOWN
    if (row.service, address) in view.untold:
        return view.untold[row.service, address]
    if why.state is State.WITHDRAWN:
        return why
    if node.drain is NodeDrain.LABEL:
        why = Why.DRAINING_NODE_LABEL
    elif node.drain is NodeDrain.ANNOTATION:
        why = Why.DRAINING_ANNOTATION
    if why.state is State.DRAINING and address in view.drained:
        return Why.DRAIN_OVER
    if view.in_place is not None and address not in view.in_place:
        return Why.RULES_NOT_READY
    return why


def offers(decided: Iterable[Row]) -> Mapping[Address, Offer]:
    """What is advertised. Of services that share an address one active suffices to make it active;
    the weight is the smallest of those in the better state, since flows of all of them follow it.
    """
    found: dict[Address, Offer] = {}
    made: dict[tuple[Why, int], Offer | None] = {}
    for row in decided:
        key = row.why, row.weight
        if key not in made:
            state = row.why.state
            made[key] = None if state is State.WITHDRAWN else Offer(state, row.weight)
        offer = made[key]
        if row.address is None or offer is None:
            continue
        old = found.get(row.address)
        if old is None or (old.state is State.DRAINING and offer.state is State.ACTIVE):
            found[row.address] = offer
        elif old.state is offer.state:
            found[row.address] = Offer(offer.state, min(old.weight, offer.weight))
    return found


def draining(decided: Iterable[Row]) -> frozenset[Address]:
    """Addresses whose drain runs or is over: all of their services drain that are not withdrawn
    for another reason."""
    drain = {
        row.address
        for row in decided
        if row.why is not Why.ACTIVE
        and (row.why.state is State.DRAINING or row.why is Why.DRAIN_OVER)
    }
    if not drain:
        return frozenset()
    active = {row.address for row in decided if row.why is Why.ACTIVE}
    return frozenset(a for a in drain - active if a is not None)

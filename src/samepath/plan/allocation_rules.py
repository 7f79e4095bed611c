"""What is said of a Service's addresses, and the rules for one service and one pool. Pure.

Used by `plan.allocation`, which decides for all of them together, and by those who show or write
what it says.

Standards: core/v1 Service; MetalLB's IPAddressPool (`serviceAllocation`) and `allow-shared-ip`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from samepath.model.cluster import Service
from samepath.model.kinds import IPAddressPool, Namespace, any_selects
from samepath.model.net import Address, Family, address_text, family_of

CLASS = "samepath.dev/bgp"
"""`spec.loadBalancerClass` of Services that are ours whatever else is in the cluster."""


class Why(enum.Enum):
    """Why a Service has its addresses, or what it lacks some for. The text is for people."""

    ASSIGNED = "has its addresses"
    NOT_LOAD_BALANCER = "is not of type LoadBalancer"
    OTHER_CLASS = "its loadBalancerClass is another's"
    NOT_FROM_US = "has an address that is in none of our pools and not from us: it is left alone"
    BAD_REQUEST = "asks for what cannot be understood"
    NO_FAMILY = "has no cluster IP as yet, so its IP families are not known"
    WRONG_FAMILY = "asks for an address of a family that it does not have"
    NO_POOL = "there is no IPAddressPool"
    NO_SUCH_POOL = "asks for an IPAddressPool that is not there"
    NO_POOL_FOR_IT = "no IPAddressPool gives addresses to it"
    NO_POOL_OF_FAMILY = "no IPAddressPool that gives addresses to it has any of the family"
    EXHAUSTED = "every address of the IPAddressPools that give addresses to it is taken"
    NOT_IN_POOL = "asks for an address that is in no IPAddressPool that gives addresses to it"
    BUGGY = "asks for an address that avoidBuggyIPs of its pool leaves out"
    TAKEN = "asks for an address that another has"

    __hash__ = object.__hash__

    @property
    def reason(self) -> str:
        """As a condition's `reason` is spelled."""
        return "".join(part.capitalize() for part in self.name.split("_"))


OURS_NOT = (Why.NOT_LOAD_BALANCER, Why.OTHER_CLASS)
"""Services that we have nothing to say about."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the decisions here depend on."""

    services: Mapping[str, Service]
    """By `Service.key`."""
    pools: Mapping[str, IPAddressPool]
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    load_balancer_class: str = CLASS
    default_class: bool = True
    """Services without a class are ours, too."""
    avoid: frozenset[Address] = frozenset()
    """Not given unasked: nodes' own addresses."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a Service's state should say."""

    why: Why
    addresses: tuple[Address, ...] = ()
    pools: tuple[str, ...] = ()
    """Where the addresses are from; empty: they are not from us."""
    detail: str = ""
    """The names: which pools were tried, who has the address."""
    notes: tuple[str, ...] = ()
    """What is to be said though it has addresses."""

    @property
    def text(self) -> str:
        head = self.why.value + (f" ({self.detail})" if self.detail else "")
        if self.why is Why.ASSIGNED:
            head = ", ".join(map(address_text, self.addresses))
            head += f" from {', '.join(self.pools)}"
        elif self.addresses and self.pools:
            head += f"; it keeps {', '.join(map(address_text, self.addresses))}"
        return "; ".join((head, *self.notes))


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How much of a pool is used, by family."""

    refused_for: str = ""
    """The pool that it overlaps; then nothing is given from it."""
    assigned: Mapping[Family, int] = field(default_factory=dict, hash=False)
    available: Mapping[Family, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Plan:
    outcomes: Mapping[str, Outcome]
    """Of every Service, by its key."""
    pools: Mapping[str, PoolUse]
    """Of every IPAddressPool, by name."""


def is_ours(situation: Situation, service: Service) -> Why:
    """ASSIGNED if it is for us to give it addresses, else why not."""
    if not service.load_balancer:
        return Why.NOT_LOAD_BALANCER
    name = service.load_balancer_class
    if name == situation.load_balancer_class or (name is None and situation.default_class):
        return Why.ASSIGNED
    return Why.OTHER_CLASS


def families_of(service: Service) -> tuple[Family, ...]:
    """The families that it wants addresses of, in its order."""
    return service.request.families or tuple(
        dict.fromkeys(family_of(address) for address in service.cluster_ips)
    )


def may_share(one: Service, other: Service) -> bool:
    """Whether both may have the same address."""
    key = one.request.sharing_key
    if key is None or key != other.request.sharing_key:
        return False
    if one.external_local != other.external_local:
        return False
    if one.external_local and (one.namespace, one.request.selector) != (
        other.namespace,
        other.request.selector,
    ):
        return False
    ports = {(p.protocol, p.port) for p in one.ports}
    return ports.isdisjoint((p.protocol, p.port) for p in other.ports)


def may_use(pool: IPAddressPool, service: Service, namespaces: Mapping[str, Namespace]) -> bool:
    """Whether the pool's serviceAllocation lets the service have addresses of it."""
    rule = pool.allocation
    if rule is None:
        return True
    if rule.namespaces or rule.namespace_selectors:
        namespace = namespaces.get(service.namespace)
        # A Namespace object that is not there has no labels that a selector could mean.
        by_label = (
            namespace is not None
            and bool(rule.namespace_selectors)
            and any_selects(rule.namespace_selectors, namespace.labels)
        )
        if service.namespace not in rule.namespaces and not by_label:
            return False
    return any_selects(rule.service_selectors, service.labels)

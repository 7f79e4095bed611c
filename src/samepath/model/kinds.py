"""What operators write as Kubernetes objects of our own group, as the plan sees it.

Made by `samepath.kube` out of objects of any source (folder or API server), used by `samepath.plan`
and `samepath.programs`. Defaults are resolved, times are seconds, addresses are packed octets.
Field names follow MetalLB's (BGPPeer, BGPAdvertisement, IPAddressPool, BFDProfile, Community) in
our spelling; GatewayTier and BlockClaim have no model elsewhere. All of these are cluster-scoped:
a `metadata.namespace` is ignored.

Kubernetes API: apimachinery's LabelSelector for `Selector`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from samepath.model.neighbor import BfdProfile
from samepath.model.net import Address, Family, Nlri


class Operator(enum.Enum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector: all requirements hold (`matchLabels` are those of one value)."""

    requirements: tuple[Requirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(_holds(requirement, labels) for requirement in self.requirements)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value is not None and value in requirement.values
        case Operator.NOT_IN:
            return value is None or value not in requirement.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None


def any_selects(selectors: tuple[Selector, ...], labels: Mapping[str, str]) -> bool:
    """As MetalLB reads a list of selectors: one suffices; none at all selects everything."""
    return not selectors or any(s.selects(labels) for s in selectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class BGPPeer:
    """A neighbour of the nodes that `node_selectors` select."""

    name: str
    my_asn: int
    peer_asn: int | str
    """Or `external`, `internal` (`dynamicASN`)."""
    peer_address: Address
    source_address: Address | None = None
    peer_port: int = 179
    hold_time_s: int = 90
    keepalive_time_s: int | None = None
    """None: a third of the agreed hold time."""
    connect_time_s: int | None = None
    router_id: Address | None = None
    node_selectors: tuple[Selector, ...] = ()
    password: str | None = field(default=None, repr=False)
    password_secret: str | None = None
    """Name of a Secret in our namespace, with the key `password`."""
    bfd_profile: str | None = None
    graceful_restart: bool = True
    ebgp_multi_hop: bool = False
    disable_mp: bool = False
    """One family only, that of `peer_address`."""
    created: str = ""
    """`metadata.creationTimestamp`, as it is written: texts sort as times do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BGPAdvertisement:
    """Which addresses of which pools go to which peers, from which nodes, and how."""

    name: str
    ip_address_pools: tuple[str, ...] = ()
    pool_selectors: tuple[Selector, ...] = ()
    """By labels of IPAddressPools. Neither names nor selectors: all pools."""
    aggregation_length: Mapping[Family, int] = field(
        default_factory=lambda: {Family.IPV4: 32, Family.IPV6: 128}, hash=False
    )
    local_pref: int | None = None
    communities: tuple[str, ...] = ()
    """`65000:1`, `large:1:2:3`, or the name that a Community object gives one."""
    node_selectors: tuple[Selector, ...] = ()
    peers: tuple[str, ...] = ()
    """Names of BGPPeers; empty: every neighbour."""
    service_selectors: tuple[Selector, ...] = ()
    drain_deadline_s: float | None = None
    """Ours (`drainDeadline`): in place of the agent's `drain_deadline_s`."""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses first..last, both included, of one family."""

    first: Address
    last: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAllocation:
    priority: int = 0
    """The lower is tried first; 0 is last (as in MetalLB)."""
    namespaces: tuple[str, ...] = ()
    namespace_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IPAddressPool:
    """Where addresses of services come from."""

    name: str
    addresses: tuple[Range, ...]
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    auto_assign: bool = True
    avoid_buggy_ips: bool = False
    """Not .0 and .255 of IPv4."""
    allocation: ServiceAllocation | None = None
    created: str = ""
    """`metadata.creationTimestamp`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BFDProfile:
    name: str
    profile: BfdProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Community:
    """An object of kind Community: names for communities."""

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Name -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTier:
    """What all gateways of a tier must have in common, and how patient they are. None: as in
    `gateway.yaml`. The names are those of `GatewayConfig`."""

    name: str
    buckets: int | None = None
    hash_seed: int | None = None
    idle_timer_s: float | None = None
    move_deadline_s: float | None = None
    transition_idle_s: float | None = None
    transition_deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockClaim:
    """A block of an IPPool is a node's. Its name follows from the block, so that the API server
    itself refuses a second one."""

    name: str
    family: Family
    cidr: Nlri
    node: str
    pending: bool = False
    """Made, but not yet compared with all others: the block is taken, and nobody's as yet."""
    uid: str = ""
    resource_version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    name: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A password of a BGPPeer; of other Secrets nothing is kept."""

    namespace: str
    name: str
    password: str = field(repr=False)

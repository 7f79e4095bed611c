"""The cluster as the plan sees it: nodes, services and their endpoints.

Made by `samepath.kube` out of Kubernetes objects (from any source), used by `samepath.plan`.
Addresses are packed octets, defaults are resolved: nothing here is absent or unparsed. Only what
the plan needs is kept.

Kinds of our own group are in `samepath.model.kinds`.

Kubernetes API: core/v1 Node and Service, discovery.k8s.io/v1 EndpointSlice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from samepath.model.kinds import (
    BFDProfile,
    BGPAdvertisement,
    BGPPeer,
    BlockClaim,
    Community,
    GatewayTier,
    IPAddressPool,
    Namespace,
    Secret,
)
from samepath.model.memo import changed
from samepath.model.net import Address, Family, Nlri, family_of


class Protocol(enum.Enum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    __hash__ = object.__hash__


class NodeDrain(enum.Enum):
    """Why no new flow should come to a node. Cordon is not among the reasons."""

    LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
    ANNOTATION = "samepath.dev/drain"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    pod_cidrs: tuple[tuple[Family, Nlri], ...] = ()
    drain: NodeDrain | None = None
    addresses: tuple[Address, ...] = ()
    """`status.addresses` of type InternalIP, in their order."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class IPPool:
    """Where pods' addresses come from: cut into blocks, each owned by one node. Calico's IPPool."""

    name: str
    family: Family
    cidr: Nlri
    block_size: int
    """Prefix length of a block; 26 and 122 unless the pool says otherwise."""
    nat_outgoing: bool = False
    """What leaves for an address outside of all pools has the node's address as its source."""
    disabled: bool = False
    """No new address comes from it; those that are in use stay."""
    node_selector: str = "all()"
    """Calico's selector language; valid (`model.selector`)."""
    created: str = ""
    """`metadata.creationTimestamp`, as it is written: texts sort as times do."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    port: int
    protocol: Protocol = Protocol.TCP
    name: str = ""
    node_port: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a Service asks of the controller that gives it its addresses (annotations of ours, else
    MetalLB's; `spec.loadBalancerIP`; `spec.ipFamilies`)."""

    addresses: tuple[Address, ...] = ()
    pools: tuple[str, ...] = ()
    sharing_key: str | None = None
    """Services with the same key may share an address."""
    families: tuple[Family, ...] = ()
    """`spec.ipFamilies`, in their order; empty: those of the cluster IPs."""
    dual_stack: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] = "SingleStack"
    """`spec.ipFamilyPolicy`."""
    selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    """`spec.selector`: with policy Local only services of the same pods may share an address."""
    problem: str = ""
    """What is wrong with the annotations; nothing is assigned then."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What the controller has written on a Service beside its addresses."""

    pools: tuple[str, ...] = ()
    """`samepath.dev/ip-allocated-from-pool`: the addresses are from us. Empty: they are not."""
    reason: str = ""
    message: str = ""
    """Of the condition `samepath.dev/AddressAssigned`; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Service:
    namespace: str
    name: str
    ports: tuple[ServicePort, ...] = ()
    cluster_ips: tuple[Address, ...] = ()
    external_ips: tuple[Address, ...] = ()
    load_balancer: bool = False
    """`spec.type` is LoadBalancer."""
    load_balancer_ips: tuple[Address, ...] = ()
    """`status.loadBalancer.ingress`."""
    load_balancer_class: str | None = None
    external_local: bool = False
    """`spec.externalTrafficPolicy` is Local."""
    internal_local: bool = False
    """`spec.internalTrafficPolicy` is Local."""
    affinity: bool = False
    """`spec.sessionAffinity` is ClientIP."""
    affinity_timeout_s: int = 10800
    health_check_node_port: int | None = None
    source_ranges: tuple[tuple[Family, Nlri], ...] = ()
    """`spec.loadBalancerSourceRanges`: who may use the load balancer's addresses; empty: all."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    request: Request = Request()
    allocation: Allocation = Allocation()
    created: str = ""
    """`metadata.creationTimestamp`, as it is written: texts sort as times do."""
    uid: str = ""
    resource_version: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A port that the endpoints of a slice listen on, for the service's port of the same name."""

    number: int | None
    """None: all ports; the service's number is theirs, too."""
    protocol: Protocol = Protocol.TCP
    name: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address behind a service, usually a pod's."""

    address: Address
    node: str | None = None
    ready: bool = True
    serving: bool = True
    """Readiness, whether terminating or not."""
    terminating: bool = False
    pod: str = ""
    """namespace/name, for people."""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Some of a service's endpoints, of one family; more than 100 come in several slices."""

    namespace: str
    name: str
    service: str
    """Name of the service in the same namespace; empty if it belongs to none."""
    family: Family
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def service_key(self) -> str:
        return f"{self.namespace}/{self.service}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a new flow can be sent for one port of a service."""

    address: Address
    port: int
    local: bool
    ready: bool
    serving: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """All objects at one moment."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    """By `Service.key`."""
    slices: Mapping[str, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    """By the key of their service."""
    pools: Mapping[str, IPPool] = field(default_factory=dict)
    peers: Mapping[str, BGPPeer] = field(default_factory=dict)
    advertisements: Mapping[str, BGPAdvertisement] = field(default_factory=dict)
    address_pools: Mapping[str, IPAddressPool] = field(default_factory=dict)
    bfd_profiles: Mapping[str, BFDProfile] = field(default_factory=dict)
    communities: Mapping[str, Community] = field(default_factory=dict)
    tiers: Mapping[str, GatewayTier] = field(default_factory=dict)
    claims: Mapping[str, BlockClaim] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """By namespace/name."""

    def targets(
        self, service: Service, port: ServicePort, family: Family, node: str
    ) -> tuple[Target, ...]:
        """Every endpoint of the port, once, sorted; `local` as seen from `node`."""
        found: dict[tuple[Address, int], Target] = {}
        for part in self.slices.get(service.key, ()):
            if part.family is not family:
                continue
            for number in _numbers(part, port):
                for endpoint in part.endpoints:
                    new = Target(
                        endpoint.address,
                        number,
                        endpoint.node == node,
                        endpoint.ready,
                        endpoint.serving,
                    )
                    # An endpoint that is just moving between slices stands in both.
                    old = found.get((new.address, number))
                    if old is None or _better(new, old):
                        found[new.address, number] = new
        return tuple(found[key] for key in sorted(found))


def _numbers(part: EndpointSlice, port: ServicePort) -> list[int]:
    return [
        port.port if p.number is None else p.number
        for p in part.ports
        if p.name == port.name and p.protocol is port.protocol
    ]


def _better(new: Target, old: Target) -> bool:
    return (new.ready, new.serving, new.local) > (old.ready, old.serving, old.local)


Named = (
    Node
    | IPPool
    | BGPPeer
    | BGPAdvertisement
    | IPAddressPool
    | BFDProfile
    | Community
    | GatewayTier
    | BlockClaim
    | Namespace
)
"""What is known by its name alone."""
Object = Named | Service | EndpointSlice | Secret

_FIELDS: dict[type, str] = {
    Node: "nodes",
    IPPool: "pools",
    BGPPeer: "peers",
    BGPAdvertisement: "advertisements",
    IPAddressPool: "address_pools",
    BFDProfile: "bfd_profiles",
    Community: "communities",
    GatewayTier: "tiers",
    BlockClaim: "claims",
    Namespace: "namespaces",
    Service: "services",
    Secret: "secrets",
}


def make_cluster(objects: Iterable[Object]) -> Cluster:
    """The objects, indexed. Of two with one name the later counts; sources see to that."""
    found: dict[str, dict[str, Any]] = {name: {} for name in _FIELDS.values()}
    slices: dict[str, dict[str, EndpointSlice]] = {}
    for thing in objects:
        if isinstance(thing, EndpointSlice):
            slices.setdefault(thing.service_key, {})[thing.key] = thing
        else:
            found[_FIELDS[type(thing)]][_name(thing)] = thing
    ordered = {key: tuple(s for _, s in sorted(of.items())) for key, of in slices.items()}
    return Cluster(slices=ordered, **found)


def _name(thing: Named | Service | Secret) -> str:
    if isinstance(thing, Service):
        return thing.key
    return f"{thing.namespace}/{thing.name}" if isinstance(thing, Secret) else thing.name


def remake_cluster(
    cluster: Cluster, old: Mapping[str, Object], new: Mapping[str, Object]
) -> Cluster:
    """`make_cluster(new.values())`, where `cluster` is that of `old`. Both are by `object_key`.
    What has not changed is the same object in both clusters: all mappings of one kind, too."""
    found: dict[str, dict[str, Any]] = {}
    parts: dict[str, dict[str, EndpointSlice]] = {}

    def table(name: str) -> dict[str, Any]:
        if name not in found:
            found[name] = dict(getattr(cluster, name))
        return found[name]

    def slices_of(key: str) -> dict[str, EndpointSlice]:
        return parts.setdefault(key, {part.key: part for part in cluster.slices.get(key, ())})

    for key in changed(old, new):
        before, after = old.get(key), new.get(key)
        if isinstance(before, EndpointSlice):
            slices_of(before.service_key).pop(before.key, None)
        elif before is not None and after is None:
            table(_FIELDS[type(before)]).pop(_name(before), None)
        if isinstance(after, EndpointSlice):
            slices_of(after.service_key)[after.key] = after
        elif after is not None:
            table(_FIELDS[type(after)])[_name(after)] = after
    for key, of in parts.items():
        if of:
            table("slices")[key] = tuple(s for _, s in sorted(of.items()))
        else:
            table("slices").pop(key, None)
    return replace(cluster, **found) if found else cluster


def addresses_by_family(addresses: Iterable[Address]) -> dict[Family, list[Address]]:
    """Sorted, per family."""
    parted: dict[Family, list[Address]] = {f: [] for f in Family}
    for address in sorted(set(addresses)):
        parted[family_of(address)].append(address)
    return parted

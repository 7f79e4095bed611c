"""The Kubernetes objects that we read: Node, Service, EndpointSlice, and our own IPPool. One parser
for all sources.

Called by every source (the folder of manifests; later the API server) with plain data as a
`Document`; gives the frozen vocabulary of `samepath.model.cluster`. Structs are partial: a field
that we do not use is ignored, one that we use must have the API's type. Kinds that we do not read
are None, not an error. Of IPPool, which is ours, every field of `spec` must be known; Calico's is
refused, because it may ask for what we would not do (tunnels).

Where the API server would have filled in a default, so do we (namespace `default`, protocol TCP,
`ready` true). What a default cannot mend is refused with its field.

Standards: Kubernetes API core/v1, discovery.k8s.io/v1; Calico's IPPool for the fields of ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import msgspec

from samepath.model import cluster, kinds
from samepath.model.cluster import NodeDrain, Object, Protocol
from samepath.model.documents import Document, DocumentError, decode
from samepath.model.net import Address, Family, Nlri, nlri_address, parse_prefix
from samepath.model.selector import SelectorError, parse

GROUP = "samepath.dev/v1"
"""Of the kinds that are ours."""

BLOCK_SIZE = {Family.IPV4: 26, Family.IPV6: 122}
"""Unless the pool says otherwise; a pool that is smaller is one block."""
BLOCK_BITS = 16
"""A block has at most 2 to the power of so many addresses: /16 and /112."""

SERVICE_NAME = "kubernetes.io/service-name"
"""The label of an EndpointSlice that names its Service."""

_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\Z")
"""RFC 1123 subdomain, as object names are."""

T = TypeVar("T")


class _Part(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A partial struct: other fields are ignored."""


class Metadata(_Part, frozen=True, kw_only=True):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for field in (self.name, self.namespace or "default"):
            if not _NAME.match(field):
                raise ValueError(f"name: {field!r} is no object name")


class NodeSpec(_Part, frozen=True, kw_only=True):
    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class NodeAddress(_Part, frozen=True, kw_only=True):
    type: str
    address: str


class NodeStatus(_Part, frozen=True, kw_only=True):
    addresses: list[NodeAddress] | None = None


class Node(_Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class IPPoolSpec(_Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cidr: str
    block_size: int | None = None
    nat_outgoing: bool = False
    disabled: bool = False
    node_selector: str = "all()"


class IPPool(_Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: IPPoolSpec


class Port(_Part, frozen=True, kw_only=True):
    port: int
    protocol: Literal["TCP", "UDP", "SCTP"] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_port(self.port)


class ServiceSpec(_Part, frozen=True, kw_only=True):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    ports: list[Port] | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    external_traffic_policy: Literal["Local", "Cluster", ""] | None = None
    internal_traffic_policy: Literal["Local", "Cluster"] | None = None
    load_balancer_class: str | None = None
    health_check_node_port: int | None = None
    session_affinity: Literal["ClientIP", "None", ""] | None = None


class Ingress(_Part, frozen=True, kw_only=True):
    ip: str | None = None
    ip_mode: Literal["VIP", "Proxy"] | None = None


class LoadBalancerStatus(_Part, frozen=True, kw_only=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(_Part, frozen=True, kw_only=True):
    load_balancer: LoadBalancerStatus | None = None


class Service(_Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: ServiceSpec
    status: ServiceStatus | None = None


class SlicePort(_Part, frozen=True, kw_only=True):
    port: int | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.port is not None:
            _check_port(self.port)


class Conditions(_Part, frozen=True, kw_only=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(_Part, frozen=True, kw_only=True):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class Endpoint(_Part, frozen=True, kw_only=True):
    addresses: list[str]
    conditions: Conditions | None = None
    node_name: str | None = None
    target_ref: Reference | None = None


class EndpointSlice(_Part, frozen=True, kw_only=True):
    metadata: Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port: 1 to 65535, not {port}")


# -- One document to objects ------------------------------------------------------------------


class _Head(_Part, frozen=True, kw_only=True):
    kind: str
    api_version: str


def parse_objects(document: Document) -> Iterator[tuple[Document, Object]]:
    """The objects of a document: itself, or the items of a `kind: List`. Raises DocumentError."""
    head = decode(_Head, document)
    if not head.kind.endswith("List"):
        found = parse_object(document)
        if found is not None:
            yield document, found
        return
    items = document.data.get("items") or []
    if not isinstance(items, list):
        raise document.error("items", "expected array")
    for index, item in enumerate(items):
        if isinstance(item, dict) and head.kind != "List":
            # A typed list (`kind: ServiceList`) may leave out what its items are.
            item = {"kind": head.kind[:-4], "apiVersion": head.api_version, **item}
        part = document.part(f"items[{index}]", item)
        found = parse_object(part)
        if found is not None:
            yield part, found


def parse_object(document: Document) -> Object | None:
    """One object; None if it is of a kind that we do not read. Raises DocumentError."""
    head = decode(_Head, document)
    reader = _READERS.get(head.kind)
    if reader is None:
        return None
    group, read = reader
    if head.kind == "IPPool" and head.api_version.partition("/")[0] in _CALICO:
        raise document.error(
            "apiVersion",
            f"{head.api_version} is Calico's IPPool, which is not read: write {GROUP}, with cidr, "
            "blockSize, natOutgoing, disabled and nodeSelector as there",
        )
    if head.api_version != group:
        if head.api_version.rpartition("/")[0] != group.rpartition("/")[0]:
            return None  # another group's kind of the same name
        raise document.error("apiVersion", f"{head.api_version} is not read, only {group}")
    return read(document)


def object_key(thing: Object) -> str:
    """Kind and name, as people say it: `Service default/web`."""
    if isinstance(thing, cluster.Service | cluster.EndpointSlice):
        name = thing.key
    elif isinstance(thing, kinds.Secret):
        name = f"{thing.namespace}/{thing.name}"
    else:
        name = thing.name
    return f"{type(thing).__name__} {name}"


def _node(document: Document) -> cluster.Node:
    node = decode(Node, document)
    cidrs: list[tuple[Family, Nlri]] = []
    if node.spec is not None:
        if node.spec.pod_cidrs:
            cidrs = _each(document, "spec.podCIDRs", node.spec.pod_cidrs, parse_prefix)
        elif node.spec.pod_cidr:
            cidrs = [_one(document, "spec.podCIDR", node.spec.pod_cidr, parse_prefix)]
    drain = None
    if NodeDrain.LABEL.value in (node.metadata.labels or {}):
        drain = NodeDrain.LABEL
    elif (node.metadata.annotations or {}).get(NodeDrain.ANNOTATION.value, "false") != "false":
        drain = NodeDrain.ANNOTATION
    return cluster.Node(
        node.metadata.name,
        tuple(cidrs),
        drain,
        addresses=_internal_addresses(document, node),
        labels=node.metadata.labels or {},
    )


def _internal_addresses(document: Document, node: Node) -> tuple[Address, ...]:
    addresses = []
    for index, part in enumerate((node.status.addresses if node.status else None) or []):
        if part.type == "InternalIP":
            path = f"status.addresses[{index}].address"
            addresses.append(_one(document, path, part.address, _unicast))
    return tuple(dict.fromkeys(addresses))


def _pool(document: Document) -> cluster.IPPool:
    pool = decode(IPPool, document)
    spec = pool.spec
    family, cidr = _one(document, "spec.cidr", spec.cidr, _unicast_prefix)
    size = spec.block_size
    if size is None:
        size = max(BLOCK_SIZE[family], cidr[0])
    least = max(cidr[0], family.bits - BLOCK_BITS)
    if not least <= size <= family.bits:
        raise document.error(
            "spec.blockSize",
            f"a block of {spec.cidr} is /{least} to /{family.bits} (within the pool, at most "
            f"{1 << BLOCK_BITS} addresses), not /{size}",
        )
    try:
        parse(spec.node_selector)
    except SelectorError as error:
        raise document.error("spec.nodeSelector", str(error)) from error
    return cluster.IPPool(
        name=pool.metadata.name,
        family=family,
        cidr=cidr,
        block_size=size,
        nat_outgoing=spec.nat_outgoing,
        disabled=spec.disabled,
        node_selector=spec.node_selector,
    )


def _service(document: Document) -> cluster.Service:
    service = decode(Service, document)
    spec = service.spec
    named = "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"
    cluster_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    headless = spec.type == "ExternalName" or "None" in cluster_ips
    ports = tuple(
        cluster.ServicePort(p.port, Protocol(p.protocol or "TCP"), p.name or "")
        for p in spec.ports or []
    )
    seen = {(p.protocol, p.port) for p in ports}
    if len(seen) != len(ports):
        raise document.error("spec.ports", "a port stands twice")
    is_external = spec.type in ("LoadBalancer", "NodePort")
    return cluster.Service(
        namespace=service.metadata.namespace or "default",
        name=service.metadata.name,
        ports=ports,
        cluster_ips=() if headless else _addresses(document, named, cluster_ips),
        external_ips=_addresses(document, "spec.externalIPs", spec.external_ips or []),
        load_balancer=spec.type == "LoadBalancer",
        load_balancer_ips=_ingress(document, service),
        load_balancer_class=spec.load_balancer_class,
        # The API allows the field for these types, and for a ClusterIP with external IPs.
        external_local=spec.external_traffic_policy == "Local"
        and (is_external or bool(spec.external_ips)),
        internal_local=spec.internal_traffic_policy == "Local",
        affinity=spec.session_affinity == "ClientIP",
    )


def _ingress(document: Document, service: Service) -> tuple[Address, ...]:
    balancer = service.status.load_balancer if service.status else None
    addresses = []
    for index, ingress in enumerate((balancer.ingress if balancer else None) or []):
        # Mode Proxy: the address belongs to a proxy in front of the nodes, not to us.
        if ingress.ip and ingress.ip_mode != "Proxy":
            path = f"status.loadBalancer.ingress[{index}].ip"
            addresses.append(_one(document, path, ingress.ip, _unicast))
    return tuple(addresses)


def _slice(document: Document) -> cluster.EndpointSlice | None:
    part = decode(EndpointSlice, document)
    if part.address_type == "FQDN":
        return None
    family = Family.IPV4 if part.address_type == "IPv4" else Family.IPV6
    endpoints = []
    for index, endpoint in enumerate(part.endpoints or []):
        path = f"endpoints[{index}].addresses"
        addresses = _addresses(document, path, endpoint.addresses)
        if not addresses:
            raise document.error(path, "empty")
        if any(len(a) != family.octets for a in addresses):
            raise document.error(path, f"not of type {part.address_type}")
        endpoints.append(_endpoint(addresses[0], endpoint))
    return cluster.EndpointSlice(
        namespace=part.metadata.namespace or "default",
        name=part.metadata.name,
        service=(part.metadata.labels or {}).get(SERVICE_NAME, ""),
        family=family,
        ports=tuple(
            cluster.SlicePort(p.port, Protocol(p.protocol or "TCP"), p.name or "")
            for p in part.ports or []
        ),
        endpoints=tuple(endpoints),
    )


def _endpoint(address: Address, endpoint: Endpoint) -> cluster.Endpoint:
    """Absent conditions: ready true, serving as ready, terminating false. All of `addresses` are
    the same endpoint, so the first one serves (as in kube-proxy)."""
    conditions = endpoint.conditions or Conditions()
    ready = conditions.ready is not False
    target = endpoint.target_ref
    return cluster.Endpoint(
        address=address,
        node=endpoint.node_name,
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=conditions.terminating is True,
        pod=f"{target.namespace or 'default'}/{target.name}" if target and target.name else "",
    )


_READERS: dict[str, tuple[str, Callable[[Document], Object | None]]] = {
    "Node": ("v1", _node),
    "Service": ("v1", _service),
    "EndpointSlice": ("discovery.k8s.io/v1", _slice),
    "IPPool": (GROUP, _pool),
}

_CALICO = ("projectcalico.org", "crd.projectcalico.org")


def _addresses(document: Document, path: str, texts: list[str]) -> tuple[Address, ...]:
    return tuple(_each(document, path, texts, _unicast))


def _unicast(text: str) -> Address:
    """An address that a service or an endpoint may have; others would be the host's own matter."""
    address = ipaddress.ip_address(text)
    for name in ("unspecified", "loopback", "multicast", "link_local"):
        if getattr(address, f"is_{name}"):
            raise ValueError(f"{text} is {name.replace('_', '-')}")
    if text == "255.255.255.255":
        raise ValueError(f"{text} is broadcast")
    return address.packed


def _unicast_prefix(text: str) -> tuple[Family, Nlri]:
    """A prefix that pods may be in, as a whole. Raises ValueError."""
    family, nlri = parse_prefix(text)
    if nlri[0] == 0:
        raise ValueError(f"{text} is every address")
    _unicast(str(ipaddress.ip_address(nlri_address(family, nlri))))
    return family, nlri


def _each(document: Document, path: str, texts: list[str], read: Callable[[str], T]) -> list[T]:
    return [_one(document, f"{path}[{i}]", text, read) for i, text in enumerate(texts)]


def _one(document: Document, path: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise document.error(path, str(error)) from error


__all__ = ["DocumentError", "Object", "object_key", "parse_object", "parse_objects"]

"""Kubernetes' own objects that we read: Node, Service, EndpointSlice, Namespace, Secret.

Called by `kube.objects` for whatever source. Structs are partial: a field that we do not use is
ignored, one that we use must have the API's type. Where the API server would have filled in a
default, so do we (namespace `default`, protocol TCP, `ready` true). What a default cannot mend is
refused with its field, with these exceptions, because a refusal would cost more than it helps:

- a Node's InternalIP that is no unicast address is left out, the Node's other addresses stay;
- what a Service asks of the controller (`kube.requests`) is free text to the API server: what is
  wrong with it is said in `Request.problem`, and the Service is served and advertised all the same.

Of a Secret only `password` is kept; the value is in no error and no repr.

Standards: Kubernetes API core/v1, discovery.k8s.io/v1.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from samepath.kube import requests
from samepath.kube.reading import (
    Condition,
    Context,
    Metadata,
    Part,
    Reader,
    check_port,
    each,
    one,
    unicast,
)
from samepath.model import cluster, kinds
from samepath.model.cluster import NodeDrain, Protocol
from samepath.model.net import Address, Family, Nlri, parse_prefix

SERVICE_NAME = "kubernetes.io/service-name"
"""The label of an EndpointSlice that names its Service."""
AFFINITY_TIMEOUT_S = 10800
"""core/v1 DefaultClientIPServiceAffinitySeconds."""
PASSWORD_OCTETS = 80
"""TCP_MD5SIG_MAXKEYLEN, tcp(7)."""

LocalOrCluster = Literal["Local", "Cluster"]
ProtocolName = Literal["TCP", "UDP", "SCTP"]


class NodeSpec(Part, frozen=True, kw_only=True):
    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class NodeAddress(Part, frozen=True, kw_only=True):
    type: str
    address: str


class NodeStatus(Part, frozen=True, kw_only=True):
    addresses: list[NodeAddress] | None = None


class Node(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class Port(Part, frozen=True, kw_only=True):
    port: int
    protocol: ProtocolName | None = None
    name: str | None = None
    node_port: int | None = None

    def __post_init__(self) -> None:
        check_port(self.port)
        if self.node_port is not None and not 0 <= self.node_port <= 65535:
            raise ValueError(f"nodePort: 1 to 65535, not {self.node_port}")


class ClientIP(Part, frozen=True, kw_only=True):
    timeout_seconds: int | None = None


class AffinityConfig(Part, frozen=True, kw_only=True):
    client_ip: ClientIP | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(Part, frozen=True, kw_only=True):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    ports: list[Port] | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    external_traffic_policy: LocalOrCluster | Literal[""] | None = None
    internal_traffic_policy: LocalOrCluster | None = None
    load_balancer_class: str | None = None
    load_balancer_ip: str | None = msgspec.field(name="loadBalancerIP", default=None)
    load_balancer_source_ranges: list[str] | None = None
    health_check_node_port: int | None = None
    session_affinity: Literal["ClientIP", "None", ""] | None = None
    session_affinity_config: AffinityConfig | None = None
    ip_families: list[Literal["IPv4", "IPv6", ""]] | None = None
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack", ""] | None = (
        None
    )
    selector: dict[str, str] | None = None


class Ingress(Part, frozen=True, kw_only=True):
    ip: str | None = None
    ip_mode: Literal["VIP", "Proxy"] | None = None


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(Part, frozen=True, kw_only=True):
    load_balancer: LoadBalancerStatus | None = None
    conditions: list[Condition] | None = None


class Service(Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: ServiceSpec
    status: ServiceStatus | None = None


class SlicePort(Part, frozen=True, kw_only=True):
    port: int | None = None
    protocol: ProtocolName | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.port is not None:
            check_port(self.port)


class Conditions(Part, frozen=True, kw_only=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(Part, frozen=True, kw_only=True):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class Endpoint(Part, frozen=True, kw_only=True):
    addresses: list[str]
    conditions: Conditions | None = None
    node_name: str | None = None
    target_ref: Reference | None = None


class EndpointSlice(Part, frozen=True, kw_only=True):
    metadata: Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


class Namespace(Part, frozen=True, kw_only=True):
    metadata: Metadata


class SecretData(Part, frozen=True, kw_only=True):
    password: str | None = None

    def __repr__(self) -> str:
        return "SecretData(...)"


class Secret(Part, frozen=True, kw_only=True):
    metadata: Metadata
    data: SecretData | None = None
    string_data: SecretData | None = None


# -- Structs to objects -----------------------------------------------------------------------


def read_node(node: Node, context: Context) -> cluster.Node:
    cidrs: list[tuple[Family, Nlri]] = []
    if node.spec is not None:
        if node.spec.pod_cidrs:
            cidrs = each(context, "spec.podCIDRs", node.spec.pod_cidrs, parse_prefix)
        elif node.spec.pod_cidr:
            cidrs = [one(context, "spec.podCIDR", node.spec.pod_cidr, parse_prefix)]
    drain = None
    if NodeDrain.LABEL.value in (node.metadata.labels or {}):
        drain = NodeDrain.LABEL
    elif (node.metadata.annotations or {}).get(NodeDrain.ANNOTATION.value, "false") != "false":
        drain = NodeDrain.ANNOTATION
    return cluster.Node(
        node.metadata.name,
        tuple(cidrs),
        drain,
        addresses=_internal_addresses(node.status),
        labels=node.metadata.labels or {},
    )


def _internal_addresses(status: NodeStatus | None) -> tuple[Address, ...]:
    """Those that can be used; the kubelet reports whatever its interfaces have."""
    addresses: list[Address] = []
    for part in (status.addresses if status else None) or []:
        if part.type == "InternalIP":
            try:
                addresses.append(unicast(part.address))
            except ValueError:
                continue
    return tuple(dict.fromkeys(addresses))


def read_service(service: Service, context: Context) -> cluster.Service:
    spec, metadata = service.spec, service.metadata
    named = "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"
    cluster_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    headless = spec.type == "ExternalName" or "None" in cluster_ips
    is_external = spec.type in ("LoadBalancer", "NodePort")
    annotations = metadata.annotations or {}
    ranges, range_problem = requests.source_ranges(
        spec.load_balancer_source_ranges or [], annotations, context
    )
    return cluster.Service(
        namespace=metadata.namespace or "default",
        name=metadata.name,
        ports=_ports(spec, context),
        cluster_ips=() if headless else _addresses(context, named, cluster_ips),
        external_ips=_addresses(context, "spec.externalIPs", spec.external_ips or []),
        load_balancer=spec.type == "LoadBalancer",
        load_balancer_ips=_ingress(service.status, context),
        load_balancer_class=spec.load_balancer_class,
        # The API allows the field for these types, and for a ClusterIP with external IPs.
        external_local=spec.external_traffic_policy == "Local"
        and (is_external or bool(spec.external_ips)),
        internal_local=spec.internal_traffic_policy == "Local",
        affinity=spec.session_affinity == "ClientIP",
        affinity_timeout_s=_affinity_timeout_s(spec, context),
        health_check_node_port=spec.health_check_node_port or None,
        source_ranges=ranges,
        labels=metadata.labels or {},
        request=requests.read_request(
            annotations,
            spec.load_balancer_ip,
            families=tuple(name for name in spec.ip_families or [] if name),
            policy=spec.ip_family_policy or "SingleStack",
            selector=spec.selector or {},
            problem=range_problem,
        ),
        allocation=requests.read_allocation(
            annotations, (service.status.conditions if service.status else None) or []
        ),
        created=metadata.creation_timestamp or "",
        uid=metadata.uid or "",
        resource_version=metadata.resource_version or "",
    )


def _ports(spec: ServiceSpec, context: Context) -> tuple[cluster.ServicePort, ...]:
    ports = tuple(
        cluster.ServicePort(
            p.port, Protocol(p.protocol or "TCP"), p.name or "", node_port=p.node_port or None
        )
        for p in spec.ports or []
    )
    seen = {(p.protocol, p.port) for p in ports}
    if len(seen) != len(ports):
        raise context.error("spec.ports", "a port stands twice")
    return ports


def _affinity_timeout_s(spec: ServiceSpec, context: Context) -> int:
    config = spec.session_affinity_config
    given = config.client_ip.timeout_seconds if config and config.client_ip else None
    if given is None:
        return AFFINITY_TIMEOUT_S
    if not 1 <= given <= 86400:
        raise context.error(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds", f"1 to 86400, not {given}"
        )
    return given


def _ingress(status: ServiceStatus | None, context: Context) -> tuple[Address, ...]:
    balancer = status.load_balancer if status else None
    addresses = []
    for index, ingress in enumerate((balancer.ingress if balancer else None) or []):
        # Mode Proxy: the address belongs to a proxy in front of the nodes, not to us.
        if ingress.ip and ingress.ip_mode != "Proxy":
            path = f"status.loadBalancer.ingress[{index}].ip"
            addresses.append(one(context, path, ingress.ip, unicast))
    return tuple(addresses)


def read_slice(part: EndpointSlice, context: Context) -> cluster.EndpointSlice | None:
    if part.address_type == "FQDN":
        return None
    family = Family.IPV4 if part.address_type == "IPv4" else Family.IPV6
    endpoints = []
    for index, endpoint in enumerate(part.endpoints or []):
        path = f"endpoints[{index}].addresses"
        addresses = _addresses(context, path, endpoint.addresses)
        if not addresses:
            raise context.error(path, "empty")
        if any(len(a) != family.octets for a in addresses):
            raise context.error(path, f"not of type {part.address_type}")
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


def read_namespace(namespace: Namespace, _context: Context) -> kinds.Namespace:
    return kinds.Namespace(name=namespace.metadata.name, labels=namespace.metadata.labels or {})


def read_secret(secret: Secret, context: Context) -> kinds.Secret | None:
    """None: a Secret without `password`, which is nothing to us."""
    # The API server has merged stringData into data; in a manifest it overrides data.
    if secret.string_data is not None and secret.string_data.password is not None:
        path, octets = "stringData.password", secret.string_data.password.encode()
    elif secret.data is not None and secret.data.password is not None:
        path = "data.password"
        try:
            octets = base64.b64decode(secret.data.password, validate=True)
        except (binascii.Error, ValueError):
            raise context.error(path, "not base64") from None
    else:
        return None
    # A file that was made a Secret usually ends with its line.
    octets = octets.split(b"\n", 1)[0].removesuffix(b"\r")
    if not 1 <= len(octets) <= PASSWORD_OCTETS:
        raise context.error(path, f"1 to {PASSWORD_OCTETS} octets, not {len(octets)}")
    try:
        password = octets.decode()
    except UnicodeDecodeError:
        raise context.error(path, "not UTF-8") from None
    return kinds.Secret(
        namespace=secret.metadata.namespace or "default",
        name=secret.metadata.name,
        password=password,
    )


def _addresses(context: Context, path: str, texts: list[str]) -> tuple[Address, ...]:
    return tuple(each(context, path, texts, unicast))


READERS: dict[str, Reader] = {
    "Node": Reader("v1", Node, read_node),
    "Service": Reader("v1", Service, read_service),
    "EndpointSlice": Reader("discovery.k8s.io/v1", EndpointSlice, read_slice),
    "Namespace": Reader("v1", Namespace, read_namespace),
    "Secret": Reader("v1", Secret, read_secret),
}

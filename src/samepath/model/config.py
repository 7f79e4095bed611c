"""What an operator writes: `gateway.yaml` and `agent.yaml`.

Plain structs; the reading (file, YAML, line of an error) is `samepath.model.documents`. Every field
has its unit in its name and its default here, and nowhere else. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from samepath.model.neighbor import (
    BfdProfile,
    Import,
    Mesh,
    Neighbor,
    Nodes,
    as_number,
    passwords_within_ranges,
    positive,
)
from samepath.model.net import PrefixSet, parse_address
from samepath.model.route_protocols import number

Dataplane = Literal["kernel", "plain", "bpf", "auto"]


class Bgp(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The part that gateway and agent share."""

    router_id: str
    """An IPv4 address, RFC 6286."""
    local_as: int = msgspec.field(name="as")
    listen: list[str] = []
    """Addresses to accept neighbours on; empty: none are accepted, we only connect."""
    listen_port: int = 179
    next_hops: list[str] = []
    """Our own addresses as next hops, at most one a family; left out: the session's local address
    and, for the other family, the first global address of the same interface."""
    neighbors: list[Neighbor]
    bfd_profiles: dict[str, BfdProfile] = {}
    bfdd: str | None = None
    """The control socket of FRR's bfdd (`bfdd --bfdctl`), which then watches the neighbours in our
    place. Left out: a process of our own, with intervals of 50 ms and more."""
    run_dir: str = "/run/samepath"
    """Where the control socket lives; created with mode 0700."""

    def __post_init__(self) -> None:
        self._check_identity()
        for text in (*self.listen, *self.next_hops):
            parse_address(text)
        names = [n.name for n in self.neighbors]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"neighbors: {twice} stands twice")
        for neighbor in self.neighbors:
            if neighbor.bfd is not None and neighbor.bfd not in self.bfd_profiles:
                raise ValueError(f"neighbors: {neighbor.name}: bfd: no profile {neighbor.bfd!r}")
        for name, profile in self.bfd_profiles.items():
            shortest_ms = min(profile.receive_interval_ms, profile.transmit_interval_ms)
            if shortest_ms < 50 and self.bfdd is None:
                raise ValueError(
                    f"bfd_profiles: {name}: {shortest_ms} ms: below 50 ms it takes bfdd "
                    "(docs/bfd.md)"
                )
        passwords_within_ranges(self.neighbors)

    def _check_identity(self) -> None:
        _router_id(self.router_id)
        as_number("as", self.local_as)


class Kubernetes(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The API server as the source of cluster state, and where states are written."""

    kubeconfig: str | None = None
    """Left out: the service account of our pod."""
    context: str | None = None
    namespace: str = "samepath-system"
    """Where our Secrets, Lease and pods are."""


class KernelRoutes(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A routing daemon beside us (FRR, BIRD) speaks BGP: its routes in the kernel are our source of
    services (docs/gateway.md)."""

    services: list[str]
    """Only routes to prefixes within these are looked at."""
    protocols: list[str] = msgspec.field(default_factory=lambda: ["bgp", "bird"])
    """Who made them, as `ip route` says after `proto`: FRR's BGP is `bgp`, BIRD is `bird`."""

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("kernel_routes: services: at least one prefix")
        PrefixSet(self.services)
        for name in self.protocols:
            number(name)


class GatewayConfig(Bgp, frozen=True, kw_only=True):
    kernel_routes: KernelRoutes | None = None
    """Take services from a routing daemon's routes. `neighbors` is empty then: the daemon speaks
    BGP, also upstream."""
    manifests: str | None = None
    """A folder of Kubernetes manifests, for `nodes` and `tier`."""
    kubernetes: Kubernetes | None = None
    """In place of `manifests`."""
    nodes: Nodes | None = None
    """The cluster's Nodes are neighbours, besides those of `neighbors`."""
    tier: str | None = None
    """Name of a GatewayTier object, whose values come before those of this file."""
    buckets: int = 1021
    """Buckets of a table, 1 to 4093; the same on all gateways of a tier; never follows
    the members."""
    hash_seed: int = 0
    """net.ipv4.fib_multipath_hash_seed: non-zero, the same on all gateways of a tier. Only with a
    `tier` it may be left out: it is the GatewayTier's then."""
    idle_timer_s: float = 120.0
    """A bucket without a packet for so long may move to its new owner."""
    move_deadline_s: float | None = None
    """A busy bucket moves after so long all the same; none: never."""
    dataplane: Dataplane = "kernel"
    """`bpf`: a program in the packets' path, over the kernel's groups (docs/gateway.md); `auto`:
    the same where it can be loaded. `plain` is the kernel's own mpath group rebuilt on each change:
    the control of the lab."""
    attach: Literal["tc", "xdp"] = "tc"
    """Where the BPF program sits. `xdp` is for cards whose driver has it."""
    attach_links: list[str] = []
    """The links that the BPF program is attached to; left out: every Ethernet link that is no port
    of a bridge or bond."""
    flow_table_entries: int = 262_144
    """Flows that the BPF data plane can track at once, 84 octets each. It should hold the new
    connections that reach buckets in transition, for as long as these last."""
    transition_idle_s: float = 600.0
    """BPF: a bucket in transition is done when no flow of its former owners was seen for so long.
    A flow that is silent for longer can be moved."""
    transition_deadline_s: float | None = None
    """BPF: a bucket in transition is done after so long, whatever its flows do; none: never."""
    expected_peers: int = 0
    """With an empty kernel: in sync when so many neighbours have sent End-of-RIB. With `nodes`: so
    many besides the Nodes, each of which is expected."""
    selection_deferral_s: float = 60.0
    """In sync at the latest after so long."""
    route_metric: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.buckets <= 4093:
            raise ValueError(f"buckets: 1 to 4093, not {self.buckets}")
        if not 1 <= self.hash_seed <= 0xFFFFFFFF and (self.tier is None or self.hash_seed):
            raise ValueError("hash_seed: 1 to 4294967295; only a `tier` may have it in our place")
        _source_of(self)
        positive("idle_timer_s", self.idle_timer_s)
        positive("transition_idle_s", self.transition_idle_s)
        if self.kernel_routes is not None and self.neighbors:
            raise ValueError("neighbors: none with kernel_routes: the routing daemon speaks BGP")
        if self.kernel_routes is not None and self.dataplane == "plain":
            raise ValueError("dataplane: plain: not with kernel_routes")
        if self.transition_deadline_s is not None:
            positive("transition_deadline_s", self.transition_deadline_s)
        if not 1024 <= self.flow_table_entries <= 1 << 26:
            raise ValueError(
                f"flow_table_entries: 1024 to {1 << 26}, not {self.flow_table_entries}"
            )


def _source_of(config: GatewayConfig) -> None:
    has_source = config.manifests is not None or config.kubernetes is not None
    if config.manifests is not None and config.kubernetes is not None:
        raise ValueError("manifests: either a folder of `manifests`, or `kubernetes`")
    if has_source != (config.nodes is not None or config.tier is not None):
        raise ValueError(
            "nodes, tier: they come from `manifests` or `kubernetes`, which serve nothing else"
        )
    if config.nodes is None:
        return
    if config.kernel_routes is not None:
        raise ValueError("nodes: not with kernel_routes: the routing daemon speaks BGP")
    if config.nodes.bfd is not None and config.nodes.bfd not in config.bfd_profiles:
        raise ValueError(f"nodes: bfd: no profile {config.nodes.bfd!r}")


class Advertise(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    load_balancer_ips: bool = True
    external_ips: bool | list[str] | None = None
    """Or those within these prefixes. Left out: with `manifests` all; with `kubernetes` none, since
    whoever may make a Service may write any address there."""
    cluster_ips: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.external_ips, list):
            PrefixSet(self.external_ips)


class Cni(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The agent's side of the CNI plugin, which asks at `run_dir`/cni.sock."""

    store: str = "/var/lib/samepath/attachments.db"
    """Which container has which addresses."""
    block_claims: str | None = None
    """A file that all nodes share, in which blocks of the IPPools are claimed under a lock. Left
    out: with `kubernetes` they are claimed by BlockClaim objects; else our blocks are `pod_cidrs`,
    or `spec.podCIDRs` of our Node."""
    mtu: int | None = None
    """Of pods' links; left out: the smallest of the links towards our neighbours."""

    def __post_init__(self) -> None:
        if self.mtu is not None and not 1280 <= self.mtu <= 65535:
            raise ValueError(f"mtu: 1280 to 65535, not {self.mtu}")


class AgentConfig(Bgp, frozen=True, kw_only=True):
    """One file may serve all nodes of a cluster: what differs from node to node may be left out."""

    node: str = ""
    """The name of our Node object; left out: `--node`, or SAMEPATH_NODE."""
    router_id: str = ""
    """Left out: the node's address (`--node-ip`) if that is IPv4, else made of the node's name."""
    local_as: int = msgspec.field(name="as", default=0)
    """Left out: `myASN` of the BGPPeers that select this node."""
    neighbors: list[Neighbor] = []
    """Besides these, the BGPPeers that select this node."""
    peer_import: Import | None = None
    """What the neighbours that are BGPPeers may tell us; left out: pod blocks of the cluster
    (`cluster_cidrs`), which gateways reflect, and no other routes."""
    manifests: str | None = None
    """A folder of Kubernetes manifests (*.yaml, *.yml, *.json)."""
    kubernetes: Kubernetes | None = None
    """In place of `manifests`."""
    advertise: Advertise = msgspec.field(default_factory=Advertise)
    """Of an address within an IPAddressPool a BGPAdvertisement is needed besides."""
    service_proxy: Literal["nftables", "none"] = msgspec.field(
        name="serviceProxy", default="nftables"
    )
    drain_deadline_s: float = 300.0
    """A draining service is withdrawn when no flow is left, or after so long."""
    pod_cidrs: list[str] = []
    """Left out: `spec.podCIDRs` of our Node."""
    cluster_cidrs: list[str] = []
    """All pods' addresses: traffic from them to a service may use any endpoint. Left out: all
    IPPools, and `spec.podCIDRs` of all Nodes."""
    cni: Cni | None = None
    """Left out: we give no pods their network."""
    mesh: bool | Mesh = False
    """Every other Node is a neighbour in our AS, at its first InternalIP: of IPv4, unless one of
    the two has none. We listen on ours. Else pod blocks come by the gateways, which reflect them.
    `true`, or a mapping with other terms than the usual ones."""
    status_writes_per_s: float = 2.0
    """With `kubernetes`: so many states (BGPSessionState, ServiceBGPStatus) are written, on
    average."""
    status_services: int = 500
    """ServiceBGPStatus objects that we have at most; 0: none."""
    status_cluster_services: bool = False
    """ServiceBGPStatus also of services whose traffic policy is Cluster, of which every node says
    the same: as many objects as there are nodes, times services."""
    route_metric: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("status_writes_per_s", self.status_writes_per_s)
        if self.status_services < 0:
            raise ValueError(f"status_services: 0 or more, not {self.status_services}")
        if (self.manifests is None) == (self.kubernetes is None):
            raise ValueError("manifests: either a folder of `manifests`, or `kubernetes`")
        if self.advertise.external_ips is None:
            told = msgspec.structs.replace(self.advertise, external_ips=self.kubernetes is None)
            msgspec.structs.force_setattr(self, "advertise", told)

    def _check_identity(self) -> None:
        if self.router_id:
            _router_id(self.router_id)
        if self.local_as:
            as_number("as", self.local_as)


class Election(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which of several controllers acts: the one that holds a Lease in our namespace."""

    lease: str = "samepath-controller"
    duration_s: int = 15
    """A Lease that was not renewed for so long may be taken by another."""
    renew_deadline_s: float = 10.0
    """A leader that could not renew its Lease for so long stops."""
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_deadline_s < self.duration_s:
            raise ValueError("retry_s < renew_deadline_s < duration_s")


class ControllerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    kubernetes: Kubernetes = msgspec.field(default_factory=Kubernetes)
    load_balancer_class: str = "samepath.dev/bgp"
    """`spec.loadBalancerClass` of the Services that get their addresses from us."""
    default_class: bool = True
    """So do Services without a class. `false` where another controller serves those."""
    dead_node_grace_s: float = 900.0
    """Blocks of a node whose Node object has been missing for so long are free again."""
    writes_at_once: int = 8
    """Services whose states are being written at one time."""
    events_per_s: float = 5.0
    """Events that are written, on average; what is beyond is left out, and counted."""
    election: Election = msgspec.field(default_factory=Election)
    run_dir: str = "/run/samepath"
    """Where the control socket lives; created with mode 0700."""

    def __post_init__(self) -> None:
        positive("dead_node_grace_s", self.dead_node_grace_s)
        positive("writes_at_once", self.writes_at_once)
        positive("events_per_s", self.events_per_s)
        if not self.load_balancer_class:
            raise ValueError("load_balancer_class: not empty")


def _router_id(text: str) -> None:
    if len(parse_address(text)) != 4:
        raise ValueError(f"router_id: an IPv4 address, not {text}")

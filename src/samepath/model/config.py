"""What an operator writes: `gateway.yaml` and `agent.yaml`.

Plain structs; the reading (file, YAML, line of an error) is `samepath.model.documents`. Every field
has its unit in its name and its default here, and nowhere else. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from samepath.model.net import Family, PrefixSet, parse_address, parse_prefix
from samepath.model.route_protocols import number
from samepath.model.selector import parse as parse_selector

Kind = Literal["services", "pods", "routes"]
"""What a prefix means to us: a service IP (resilient table), a node's pod block (plain route,
reflected), or any other route, such as a default route (plain route)."""


Dataplane = Literal["kernel", "plain", "bpf", "auto"]


class Import(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which prefixes a neighbour may advertise to us. What is in none of the lists is refused."""

    services: list[str] = []
    pods: list[str] = []
    routes: list[str] = []
    max_prefixes: int = 10_000
    """Accepted prefixes per session and family; those beyond are refused with a reason. Of a prefix
    with several paths (`add_path`) each counts."""
    max_paths: int = 16
    """Accepted paths of one prefix from one neighbour that sends several."""
    warn_percent: int = 80
    """Of `max_prefixes`: said in the log and in the status when so many are accepted."""
    beyond: Literal["refuse", "restart"] = "refuse"
    """What more than `max_prefixes` lead to: they are refused, or the session is ended, its paths
    go, and it is tried again after `restart_s`."""
    restart_s: float = 300.0
    next_hop: Literal["any", "peer"] = "any"
    """`peer`: neighbours speak for themselves alone. Their next hops must be their own, and a pod
    block belongs to the first that advertises it (docs/security.md)."""

    def __post_init__(self) -> None:
        for texts in (self.services, self.pods, self.routes):
            PrefixSet(texts)
        _positive("max_prefixes", self.max_prefixes)
        _positive("max_paths", self.max_paths)
        _positive("restart_s", self.restart_s)
        if not 1 <= self.warn_percent <= 100:
            raise ValueError(f"warn_percent: 1 to 100, not {self.warn_percent}")


class BfdProfile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How BFD watches a neighbour. RFC 5880; the fields are those of MetalLB's BFDProfile."""

    receive_interval_ms: int = 300
    """We ask the neighbour for a packet so often at most."""
    transmit_interval_ms: int = 300
    """We send so often, or more seldom if the neighbour wants that."""
    detect_multiplier: int = 3
    """After so many of our packets have not arrived, the neighbour holds us for lost."""
    passive: bool = False
    """Silent until the neighbour has spoken."""
    minimum_ttl: int = 254
    """Of packets from neighbours over several hops (RFC 5883). From neighbours on our own link it
    is 255, whatever stands here (RFC 5881 §5)."""
    down_loses_forwarding: bool = True
    """What it means when BFD goes down: the neighbour forwards no more, its paths go at once,
    graceful restart or not (RFC 5882 §4.3). False, for a neighbour whose BFD ends with its BGP
    daemon: as if the TCP connection were lost, so that graceful restart may keep its paths."""
    echo_mode: bool = False
    echo_receive_interval_ms: int | None = None
    echo_transmit_interval_ms: int | None = None

    def __post_init__(self) -> None:
        for name in ("receive_interval_ms", "transmit_interval_ms"):
            if not 10 <= getattr(self, name) <= 60_000:
                raise ValueError(f"{name}: 10 to 60000, not {getattr(self, name)}")
        if not 2 <= self.detect_multiplier <= 255:
            raise ValueError(f"detect_multiplier: 2 to 255, not {self.detect_multiplier}")
        if not 1 <= self.minimum_ttl <= 254:
            raise ValueError(f"minimum_ttl: 1 to 254, not {self.minimum_ttl}")
        echo = (self.echo_mode, self.echo_receive_interval_ms, self.echo_transmit_interval_ms)
        if any(echo):
            raise ValueError(
                "echo_*: there is no echo function here: it needs a data plane that returns "
                "packets to their sender, and detects nothing that short intervals do not"
            )


class Terms(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """On what terms a session is held, and what is taken and told: all of a neighbour but who."""

    remote_as: int | Literal["external", "internal"]
    """Its AS; or any other than ours, or ours."""
    port: int = 179
    local_address: str | None = None
    next_hops: list[str] = []
    """Our own addresses as next hops towards this neighbour, at most one a family: for a router
    whose sides differ. Left out: as for the whole program."""
    passive: bool = False
    """Wait for the neighbour to connect. Neighbours by range are always passive."""
    families: list[Literal["ipv4", "ipv6"]] = msgspec.field(
        default_factory=lambda: ["ipv4", "ipv6"]
    )
    hold_time_s: int = 90
    """RFC 4271 §4.2: 0 or at least 3. Keepalives are sent every third of the agreed time."""
    connect_retry_s: int = 5
    graceful_restart_s: int = 120
    """Restart time that we announce (RFC 4724); 0 switches graceful restart off. The neighbour's
    paths stay for as long as it announces itself when its TCP connection is lost."""
    graceful_restart_stale_s: int = 360
    """Paths of a neighbour that is gone stay no longer than this, whatever it announces; when it is
    back, what it has not repeated goes after so long, if it sends no End-of-RIB."""
    graceful_restart_notification: bool = False
    """Paths stay also when the hold timer expires or after a NOTIFICATION, if the neighbour wants
    that, too (RFC 8538). Left out, a node that crashed loses its flows to others at once."""
    long_lived_stale_s: int = 0
    """When the restart time is over, paths stay for so long as the last choice (RFC 9494), if the
    neighbour wants that, too. 0: they go."""
    add_path: Literal["receive", "send", "both"] | None = None
    """Several paths of one prefix (RFC 7911), in these directions."""
    extended_next_hop: bool = False
    """IPv4 prefixes with IPv6 next hops, in both directions (RFC 8950)."""
    password_file: str | None = None
    """TCP-MD5 (RFC 2385): the first line of this file, 1 to 80 octets, on both sides the same. The
    file is looked at every few seconds; another password ends the session."""
    ttl_security: bool | int = False
    """GTSM (RFC 5082): packets that have come through more routers than these are dropped, and
    ours leave with TTL 255, as the other side must want it. `true` or 1: the neighbour is on our
    link; N: at most N - 1 routers are in between."""
    ebgp_multihop: int = 1
    """TTL of what we send to an external neighbour: 1 if it is on our link."""
    bfd: str | None = None
    """Name of one of `bfd_profiles`; left out: no BFD with this neighbour."""
    import_: Import = msgspec.field(name="import", default_factory=Import)
    export: list[Literal["services", "pods", "default"]] = []
    """What we advertise to this neighbour. Gateway: learned services (next hop self), the nodes'
    pod blocks (next hop unchanged, reflected), a default route to ourselves. Agent: its own
    services and pod blocks; left empty it advertises both."""

    def __post_init__(self) -> None:
        for text in (self.local_address, *self.next_hops):
            if text is not None:
                parse_address(text)
        _session_times(self)
        if isinstance(self.remote_as, int):
            _as_number("remote_as", self.remote_as)
        _within("graceful_restart_stale_s", self.graceful_restart_stale_s, 1, 86400)
        _within("long_lived_stale_s", self.long_lived_stale_s, 0, 0xFFFFFF)
        if self.long_lived_stale_s and not self.graceful_restart_s:
            raise ValueError("long_lived_stale_s: only with graceful_restart_s")
        for name in ("ebgp_multihop", "ttl_security"):
            if not isinstance(getattr(self, name), bool) and not 1 <= getattr(self, name) <= 255:
                raise ValueError(f"{name}: 1 to 255, not {getattr(self, name)}")
        if self.ttl_security and self.ebgp_multihop > 1:
            raise ValueError("ttl_security: a number of hops in place of ebgp_multihop, not both")
        if not self.families:
            raise ValueError("families: at least one of ipv4, ipv6")

    @property
    def address_families(self) -> tuple[Family, ...]:
        return tuple(f for f in Family if f.label in self.families)


class Neighbor(Terms, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A BGP neighbour by `address`, or all neighbours within the prefix `range` (passive)."""

    address: str | None = None
    range: str | None = None
    max_sessions: int = 1024
    """For a range: how many neighbours may be connected at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.address is None) == (self.range is None):
            raise ValueError("a neighbour has either `address` or `range`")
        if self.address is not None:
            parse_address(self.address)
        if self.range is not None:
            parse_prefix(self.range)
        _positive("max_sessions", self.max_sessions)

    @property
    def name(self) -> str:
        """The key of this neighbour in a configuration: its address or range."""
        return self.address or self.range or ""


class Nodes(Terms, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Nodes of the cluster as a gateway's neighbours (docs/gateway.md). They speak for themselves
    alone, whatever `import: next_hop` says; what is in `import` comes on top of the cluster's."""

    selector: str = "all()"
    """Calico's selector language, by the Nodes' labels."""
    passive: bool = True
    """Nodes connect to us, as agents do."""
    gone_grace_s: float | None = None
    """A neighbour whose Node is gone, or is not selected any more, is kept for as long as its
    session lives; with a number, no longer than so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_selector(self.selector)
        if self.gone_grace_s is not None and self.gone_grace_s < 0:
            raise ValueError(f"gone_grace_s: 0 or more, not {self.gone_grace_s}")


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
        _passwords_within_ranges(self.neighbors)

    def _check_identity(self) -> None:
        _router_id(self.router_id)
        _as_number("as", self.local_as)


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
        _positive("idle_timer_s", self.idle_timer_s)
        _positive("transition_idle_s", self.transition_idle_s)
        if self.kernel_routes is not None and self.neighbors:
            raise ValueError("neighbors: none with kernel_routes: the routing daemon speaks BGP")
        if self.kernel_routes is not None and self.dataplane == "plain":
            raise ValueError("dataplane: plain: not with kernel_routes")
        if self.transition_deadline_s is not None:
            _positive("transition_deadline_s", self.transition_deadline_s)
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


class Mesh(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Terms of the sessions between nodes; as for a `Neighbor`."""

    hold_time_s: int = 90
    connect_retry_s: int = 5
    graceful_restart_s: int = 120

    def __post_init__(self) -> None:
        _session_times(self)


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
        _positive("status_writes_per_s", self.status_writes_per_s)
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
            _as_number("as", self.local_as)


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
        _positive("dead_node_grace_s", self.dead_node_grace_s)
        _positive("writes_at_once", self.writes_at_once)
        _positive("events_per_s", self.events_per_s)
        if not self.load_balancer_class:
            raise ValueError("load_balancer_class: not empty")


def _passwords_within_ranges(neighbors: list[Neighbor]) -> None:
    """The kernel asks all addresses of a range for the password, or none (RFC 2385, tcp(7))."""
    for outer in neighbors:
        if outer.range is None or outer.password_file is None:
            continue
        covers = PrefixSet([outer.range])
        for inner in neighbors:
            if inner.password_file is None and covers.covers(*parse_prefix(inner.name)):
                raise ValueError(
                    f"neighbors: {inner.name}: password_file: it lies in {outer.range}, "
                    "which has one, so it needs one, too"
                )


def _session_times(terms: Terms | Mesh) -> None:
    if (terms.hold_time_s and terms.hold_time_s < 3) or terms.hold_time_s > 65535:
        raise ValueError(f"hold_time_s: 0, or 3 to 65535, not {terms.hold_time_s}")
    if not 0 <= terms.graceful_restart_s <= 4095:
        raise ValueError(f"graceful_restart_s: 0 to 4095, not {terms.graceful_restart_s}")
    _positive("connect_retry_s", terms.connect_retry_s)


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name}: more than 0, not {value}")


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {least} to {most}, not {value}")


def _router_id(text: str) -> None:
    if len(parse_address(text)) != 4:
        raise ValueError(f"router_id: an IPv4 address, not {text}")


def _as_number(name: str, value: int) -> None:
    if not 1 <= value <= 4294967294:
        raise ValueError(f"{name}: 1 to 4294967294, not {value}")

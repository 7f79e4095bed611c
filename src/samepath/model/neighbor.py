"""On what terms a program speaks with its BGP neighbours: part of `gateway.yaml`, `agent.yaml`.

Plain structs, as in `samepath.model.config`, which has the rest. Every field has its unit in its
name and its default here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from samepath.model.net import Family, PrefixSet, parse_address, parse_prefix
from samepath.model.selector import parse as parse_selector

Kind = Literal["services", "pods", "routes"]
"""What a prefix means to us: a service IP (resilient table), a node's pod block (plain route,
reflected), or any other route, such as a default route (plain route)."""


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
        positive("max_prefixes", self.max_prefixes)
        positive("max_paths", self.max_paths)
        positive("restart_s", self.restart_s)
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
        session_times(self)
        if isinstance(self.remote_as, int):
            as_number("remote_as", self.remote_as)
        within("graceful_restart_stale_s", self.graceful_restart_stale_s, 1, 86400)
        within("long_lived_stale_s", self.long_lived_stale_s, 0, 0xFFFFFF)
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
        positive("max_sessions", self.max_sessions)

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


class Mesh(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Terms of the sessions between nodes; as for a `Neighbor`."""

    hold_time_s: int = 90
    connect_retry_s: int = 5
    graceful_restart_s: int = 120

    def __post_init__(self) -> None:
        session_times(self)


def passwords_within_ranges(neighbors: list[Neighbor]) -> None:
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


def session_times(terms: Terms | Mesh) -> None:
    if (terms.hold_time_s and terms.hold_time_s < 3) or terms.hold_time_s > 65535:
        raise ValueError(f"hold_time_s: 0, or 3 to 65535, not {terms.hold_time_s}")
    if not 0 <= terms.graceful_restart_s <= 4095:
        raise ValueError(f"graceful_restart_s: 0 to 4095, not {terms.graceful_restart_s}")
    positive("connect_retry_s", terms.connect_retry_s)


def positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name}: more than 0, not {value}")


def within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {least} to {most}, not {value}")


def as_number(name: str, value: int) -> None:
    if not 1 <= value <= 4294967294:
        raise ValueError(f"{name}: 1 to 4294967294, not {value}")

"""What the kernel holds: links, addresses, neighbours, next hops, groups, buckets, routes.

Read by `decode`, written by `encode`, compared by `apply`. Plain values with the kernel's own
meaning: ids and indices are its numbers, `protocol` says who made the object (`model.ours`).
Not here: encapsulations, metrics, multicast, source routing; Samepath makes none of them, and an
object that has them is read without.

Standards: rtnetlink(7); <linux/nexthop.h>.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from samepath.model.net import Address, Family, Nlri, address_text, prefix_text
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `up` is IFF_UP (the operator's will), `carrier` IFF_LOWER_UP (the cable's)."""

    index: int
    name: str
    up: bool
    carrier: bool
    mtu: int
    address: bytes
    kind: str = ""
    """`veth`, `bridge`, …; empty for hardware and `lo`."""
    alias: str = ""
    """A line of text that its maker left on it."""
    peer: int = 0
    """IFLA_LINK: of a veth the index of its other end, in that end's namespace."""
    running: bool = False
    """IFF_RUNNING: the kernel has taken note of the carrier, and sends."""

    master: int = 0
    """IFLA_MASTER: the bridge, bond or VRF that it is a port of."""

    @property
    def usable(self) -> bool:
        return self.up and self.carrier


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of a link; with its prefix length it says which network is connected."""

    index: int
    """The link's."""
    address: Address
    prefix_length: int
    protocol: int = 0
    """IFA_PROTO, Linux 5.18; 0 before."""
    scope: int = uapi.RT_SCOPE_UNIVERSE
    flags: int = 0
    """IFA_F_*."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An entry of the ARP or neighbour discovery table."""

    index: int
    """The link's."""
    address: Address
    state: int
    """NUD_*."""
    mac: bytes = b""
    managed: bool = False
    """NTF_EXT_MANAGED, Linux 5.16: the kernel keeps it resolved."""
    protocol: int = 0
    """NDA_PROTOCOL: who made it."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """A next hop object: a gateway on a link, or a blackhole."""

    id: int
    family: Family
    gateway: Address | None
    oif: int
    """The link's index; 0 for a blackhole."""
    protocol: int = PROTOCOL
    blackhole: bool = False
    scope: int = field(default=uapi.RT_SCOPE_UNIVERSE, compare=False)
    """The kernel's own finding; it takes none from us."""
    flags: int = 0
    """RTNH_F_*, as far as they may be set: RTNH_F_ONLINK."""

    def __str__(self) -> str:
        if self.blackhole:
            return f"next hop {self.id:#x} (blackhole)"
        to = address_text(self.gateway) if self.gateway else "the link itself"
        return f"next hop {self.id:#x} (via {to}, link {self.oif})"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of next hops: resilient (hash table of buckets) or mpath (thresholds).

    `resilient` and `buckets` are fixed at creation. A member stands once.
    """

    id: int
    members: tuple[int, ...]
    resilient: bool = False
    buckets: int = 0
    idle_timer_s: float = 0.0
    unbalanced_timer_s: float = 0.0
    """0: a busy bucket is never taken from a member that owns too many."""
    protocol: int = PROTOCOL
    weights: tuple[int, ...] = ()
    """Parallel to `members`, 1 to 256; empty: all are 1."""

    def __str__(self) -> str:
        kind = f"resilient, {self.buckets} buckets" if self.resilient else "mpath"
        return f"group {self.id:#x} ({kind}, {len(self.members)} members)"


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of a resilient group: who owns it, and for how long no packet has used it."""

    index: int
    nexthop_id: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class BucketState:
    """All buckets of a resilient group, parallel lists by bucket index."""

    ids: list[int]
    """The next hop id that owns each bucket."""
    idle_s: list[float]


@dataclass(frozen=True, slots=True)
class Hop:
    """One path of a multipath route that is made without next hop objects."""

    gateway: Address | None
    oif: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """A route; (family, nlri, table, metric) is what the kernel keeps apart."""

    family: Family
    nlri: Nlri
    table: int = uapi.RT_TABLE_MAIN
    metric: int = 0
    """RTA_PRIORITY. The kernel makes 1024 of 0 for IPv6."""
    nexthop_id: int | None = None
    gateway: Address | None = None
    oif: int | None = None
    type: int = uapi.RTN_UNICAST
    protocol: int = PROTOCOL
    scope: int = uapi.RT_SCOPE_UNIVERSE
    multipath: tuple[Hop, ...] = ()

    def __str__(self) -> str:
        return f"route {prefix_text(self.family, self.nlri)}"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where the kernel would send a packet: its answer to `ip route get`."""

    gateway: Address | None
    """None: the destination is on the link itself."""
    oif: int
    nexthop_id: int | None
    """Of the route (a group, as a rule); only IPv6 tells."""
    type: int = uapi.RTN_UNICAST

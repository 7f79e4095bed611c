"""The maps' structs, as numpy and Python see them: the mirror of `samepath.h`.

Used by everything in this package and by the driver above it. A change of any struct here or there
needs another `LAYOUT`, so that a gateway that finds maps of the former one migrates them.
Pure: no system call. The tests compare the sizes with those of the object.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samepath.hashing.siphash import sip_state
from samepath.model.net import Address

LAYOUT = 1
"""The version of the structs below."""

NO_HOP = 0
"""The index that is no next hop: packets pass to the kernel's own path."""

MAX_HOPS = 0xFFFF

TICK_SHIFT = 24
"""A tick is 2^24 ns, 16.8 ms; 32 bits of them wrap after 2.3 years."""

BUCKET = np.dtype([("owner", "<u2"), ("old", "<u2"), ("since", "<u4"), ("stamp", "<u4"),
                   ("changed", "<u4")])  # fmt: skip
"""One bucket. In transition while `old` is not 0. `since`, `stamp` and `changed` are ticks: when
the transition began, when a packet last went to another hop than the owner, and when the owner
changed last: a transition's deadline counts from then."""

MOVING = np.dtype([("table", "<u4"), ("bucket", "<u4"), ("owner", "<u2"), ("old", "<u2"),
                   ("since", "<u4"), ("stamp", "<u4"), ("changed", "<u4")])  # fmt: skip
"""A bucket in transition, and where it is."""

SERVICE = np.dtype([("first", "<u4"), ("count", "<u4")])
HOP = np.dtype([("ifindex", "<u4"), ("mtu", "<u2"), ("vlan", "<u2"), ("destination_mac", "V6"),
                ("source_mac", "V6"), ("flags", "u1"), ("length", "u1"), ("spare", "<u2"),
                ("address", "V16")])  # fmt: skip
FLOW = np.dtype([("hop", "<u2"), ("kind", "<u2"), ("recorded", "<u4"), ("seen", "<u4")])
LINK_KEY = np.dtype([("ifindex", "<u4"), ("vlan", "<u2"), ("inner", "<u2")])
LINK = np.dtype([("mac", "V6"), ("spare", "<u2")])
SETTINGS = np.dtype([("layout", "<u4"), ("seed", "<u4"), ("buckets", "<u4"), ("shift", "<u4"),
                     ("reciprocal", "<u8"), ("begun", "<u8", (256, 4))])  # fmt: skip
COUNT = np.dtype([("packets", "<u8"), ("octets", "<u8")])

SHAPES = {
    "services": (16, SERVICE.itemsize), "buckets": (4, BUCKET.itemsize),
    "hops": (4, HOP.itemsize), "flows": (8, FLOW.itemsize),
    "links": (LINK_KEY.itemsize, LINK.itemsize), "settings": (4, SETTINGS.itemsize),
    "service_counts": (4, COUNT.itemsize), "hop_counts": (4, COUNT.itemsize), "totals": (4, 8),
}  # fmt: skip
"""Octets of each map's key and value."""

HOP_ALIVE = 1
HOP_RESOLVED = 2


class Total(enum.IntEnum):
    """What the program counts of its decisions. From `NOT_IP` on: why it passed a packet on to the
    kernel's own path."""

    MOVED = 0
    """Flows that began on the new owner of a bucket in transition."""
    TRACKED = 1
    """Entries written to the flow table."""
    UNKNOWN = 2
    """Packets amid a flow that no entry names: the old owner takes them."""
    DEAD_HOP = 3
    """Packets of a recorded flow whose next hop is dead."""
    TABLE_FULL = 4
    """Flows that the table had no place for, not even by forgetting another."""
    NOT_IP = 5
    NO_SERVICE = 6
    NOT_FOR_US = 7
    """Another's MAC (a card that listens to all, or a broadcast)."""
    VLAN = 8
    """A VLAN of this link that is not among those attached."""
    TRUNCATED = 9
    BAD_HEADER = 10
    HEADERS = 11
    """More IPv6 extension headers than are read."""
    SOURCE = 12
    """A source address that no router forwards."""
    HOP_LIMIT = 13
    NO_OWNER = 14
    UNRESOLVED = 15
    TOO_BIG = 16
    """Larger than the link's MTU: the kernel fragments, or answers."""


def settings(seed: int, buckets: int) -> NDArray[np.void]:
    """What the program would otherwise compute at each packet."""
    # Exact for every hash of 31 bits: T. Granlund, P. Montgomery: Division by invariant integers
    # using multiplication. 1994.
    shift = 31 + (buckets - 1).bit_length()
    made = np.zeros((), SETTINGS)
    made["layout"], made["seed"], made["buckets"], made["shift"] = LAYOUT, seed, buckets, shift
    made["reciprocal"] = -(-(1 << shift) // buckets)
    half = seed << 32 | seed
    made["begun"] = [sip_state((p << 16, 0, 0), (half, half)) for p in range(256)]
    return made


def tick(monotonic_ns: int) -> int:
    """The tick of a time of CLOCK_MONOTONIC."""
    return monotonic_ns >> TICK_SHIFT & 0xFFFFFFFF


def ticks(seconds: float) -> int:
    """How many ticks `seconds` are, rounded up."""
    return -int(-seconds * 1e9 // (1 << TICK_SHIFT))


@dataclass(frozen=True, slots=True)
class Hop:
    """One next hop, as the program needs it: a link, and who is there.

    `alive`: false once its node is gone; flows that are recorded for it count as unknown then.
    `resolved`: false while the neighbour's MAC is unknown; packets pass to the kernel, which asks.
    `vlan`: pushed on the way out; only for XDP, where `ifindex` must be the card's own.
    """

    address: Address
    ifindex: int
    source_mac: bytes
    destination_mac: bytes
    mtu: int
    alive: bool = True
    resolved: bool = True
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries the maps hold; they are allocated at once.

    Octets: 24 a service and its counters per CPU, 16 a bucket (tables x buckets), 84 a flow.
    """

    services: int = 16384
    tables: int = 1024
    buckets: int = 1021
    hops: int = 4096
    flows: int = 262144


@dataclass(frozen=True, slots=True)
class Count:
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What the program has counted since its maps were made."""

    services: dict[Address, Count]
    hops: dict[int, Count]
    totals: dict[Total, int]


@dataclass(frozen=True, slots=True)
class FlowCount:
    """The flow table: how many entries, of whom, of how many at most."""

    total: int
    by_hop: dict[int, int]
    capacity: int

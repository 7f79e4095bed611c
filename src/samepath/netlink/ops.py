"""What may be asked of the kernel: one small value for each write, and the error that it may give.

`Kernel.apply(ops)` takes a sequence of these and answers with a list parallel to it. All but
`CreateVeth` are idempotent: a put creates or replaces, and deleting what is not there is a success,
so that a pass may be repeated after any failure. Order is the caller's: next hops before groups,
groups before routes; unmake in reverse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samepath.model.net import Address, Family, Nlri, address_text, prefix_text
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.objects import Group, Neighbor, NextHop, Route


@dataclass(frozen=True, slots=True)
class PutNextHop:
    nexthop: NextHop

    def __str__(self) -> str:
        return str(self.nexthop)


@dataclass(frozen=True, slots=True)
class DeleteNextHop:
    """Deletes a next hop or a group, and with it all routes that use it."""

    id: int

    def __str__(self) -> str:
        return f"delete next hop {self.id:#x}"


@dataclass(frozen=True, slots=True)
class PutGroup:
    """Creates a group, or replaces its members (and timers) in place."""

    group: Group

    def __str__(self) -> str:
        return str(self.group)


@dataclass(frozen=True, slots=True)
class PutRoutes:
    """Many routes by one next hop (or group): the bulk form, up to 100,000 prefixes and more."""

    family: Family
    nlris: Sequence[Nlri]
    nexthop_id: int
    metric: int
    protocol: int = PROTOCOL
    table: int = uapi.RT_TABLE_MAIN
    exclusive: bool = False
    """Refuse (EEXIST) where any route of that prefix and metric stands, whoever made it. Without
    it such a route is replaced."""

    def __str__(self) -> str:
        return f"{len(self.nlris)} {self.family.label} routes by next hop {self.nexthop_id:#x}"


@dataclass(frozen=True, slots=True)
class DeleteRoutes:
    """Deletes routes of one metric and one protocol, whatever they point at."""

    family: Family
    nlris: Sequence[Nlri]
    metric: int
    protocol: int = PROTOCOL
    table: int = uapi.RT_TABLE_MAIN

    def __str__(self) -> str:
        return f"delete {len(self.nlris)} {self.family.label} routes"


@dataclass(frozen=True, slots=True)
class PutRoute:
    """One route of any kind."""

    route: Route
    exclusive: bool = False

    def __str__(self) -> str:
        return str(self.route)


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    route: Route

    def __str__(self) -> str:
        return f"delete {self.route}"


@dataclass(frozen=True, slots=True)
class PutAddress:
    """An address on a link, marked as ours by IFA_PROTO where the kernel knows it (5.18)."""

    index: int
    address: Address
    prefix_length: int
    protocol: int = PROTOCOL
    is_source: bool = True
    """Whether the kernel may take it as the source of what this host sends of its own accord. If
    not: IPv4 by scope host, IPv6 by a preferred lifetime of 0 (RFC 6724 §5, rule 3)."""

    def __str__(self) -> str:
        return f"address {address_text(self.address)}/{self.prefix_length} on link {self.index}"


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    index: int
    address: Address
    prefix_length: int

    def __str__(self) -> str:
        return (
            f"delete address {address_text(self.address)}/{self.prefix_length} on link {self.index}"
        )


@dataclass(frozen=True, slots=True)
class PutNeighbor:
    neighbor: Neighbor

    def __str__(self) -> str:
        return f"neighbour {address_text(self.neighbor.address)} on link {self.neighbor.index}"


@dataclass(frozen=True, slots=True)
class DeleteNeighbor:
    index: int
    address: Address

    def __str__(self) -> str:
        return f"delete neighbour {address_text(self.address)} on link {self.index}"


@dataclass(frozen=True, slots=True)
class CreateVeth:
    """Two links, each the other's cable: `name` here, `peer_name` in the namespace that the
    descriptor `peer_namespace` stands for. Both are down. Refused (EEXIST) where there is a link of
    either name: the one op that may not be repeated."""

    name: str
    peer_name: str
    peer_namespace: int
    mtu: int
    mac: bytes
    peer_mac: bytes

    def __str__(self) -> str:
        return f"link {self.name} with its other end {self.peer_name}"


@dataclass(frozen=True, slots=True)
class SetLink:
    """Changes what is not None of a link, given by index or name."""

    link: int | str
    up: bool | None = None
    mtu: int | None = None
    mac: bytes | None = None
    alias: str | None = None
    name: str | None = None
    link_local: bool | None = None
    """False: the kernel gives it no IPv6 link-local address when it comes up."""

    def __str__(self) -> str:
        return f"settings of link {self.link}"


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Deletes a link, and its other end; and with them all that is on them."""

    index: int

    def __str__(self) -> str:
        return f"delete link {self.index}"


Op = (
    PutNextHop
    | DeleteNextHop
    | PutGroup
    | PutRoutes
    | DeleteRoutes
    | PutRoute
    | DeleteRoute
    | PutAddress
    | DeleteAddress
    | PutNeighbor
    | DeleteNeighbor
    | CreateVeth
    | SetLink
    | DeleteLink
)

Bulk = PutRoutes | DeleteRoutes


class ApplyError(Exception):
    """The kernel refused a write (the world's fault: shown, kept dirty, retried).

    `errno` is the kernel's; `text` is for people: which object, and what the kernel said. For a
    bulk op `failed` holds the refused prefixes, each with what the kernel said; all others stand.
    """

    def __init__(
        self, op: Op, errno: int, said: str = "", failed: Mapping[Nlri, str] | None = None
    ) -> None:
        self.op = op
        self.errno = errno
        self.said = said or os.strerror(errno)
        self.failed = dict(failed or {})
        super().__init__(self.text)

    @property
    def text(self) -> str:
        if isinstance(self.op, Bulk) and self.failed:
            first = prefix_text(self.op.family, next(iter(self.failed)))
            return f"{len(self.failed)} of {self.op} (first {first}): {self.said}"
        return f"{self.op}: {self.said}"

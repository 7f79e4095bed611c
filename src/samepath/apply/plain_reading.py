"""What of the plain routes the kernel holds, and who is whose: for `apply.routes`.

Reading a hundred thousand routes takes half a second: a program with an event loop to keep reads in
a thread, with a kernel of its own, and hands the result to `PlainRoutes.read_again`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from samepath.model import ours
from samepath.model.net import Address, Family, Nlri
from samepath.netlink import uapi
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Group, NextHop, Route


class _Blackhole(enum.Enum):
    BLACKHOLE = "blackhole"


BLACKHOLE: Final = _Blackhole.BLACKHOLE
"""Instead of gateways: packets end here. For a node's own pod block, under its pods' routes."""

Gateways = tuple[Address, ...] | _Blackhole
Prefix = tuple[Family, Nlri]
Key = tuple[Family, Nlri, int]
"""The last is the metric: the kernel cannot change it in place."""
Target = int | _Blackhole
"""Where a route leads: the id of a next hop or of a group."""


@dataclass(frozen=True, slots=True)
class PlainRow:
    """A prefix that is wanted, for `status`."""

    family: Family
    nlri: Nlri
    gateways: Gateways
    installed: bool
    error: str


@dataclass(slots=True)
class Standing:
    """Our plain routes in the kernel, their next hops, and the members of their groups."""

    nexthops: list[NextHop]
    """All of ours, those of other drivers, too."""
    hops: dict[int, NextHop]
    groups: dict[int, tuple[int, ...]]
    routes: dict[Key, Target]


def read(kernel: Kernel, *, blackholes: bool) -> Standing:
    """`blackholes`: whether there may be any; without them it takes a quarter of the time."""
    nexthops, groups = kernel.nexthops(ours.PROTOCOL)
    standing = sorted_out([*nexthops, *groups])
    for family in Family:
        standing.routes.update(routes(kernel, family, blackholes=blackholes))
    return standing


def sorted_out(found: Iterable[NextHop | Group | None]) -> Standing:
    standing = Standing([], {}, {}, {})
    for item in found:
        if isinstance(item, NextHop):
            standing.nexthops.append(item)
            if is_plain_hop(item.id):
                standing.hops[item.id] = item
        elif isinstance(item, Group) and ours.is_plain_group(item.id):
            standing.groups[item.id] = item.members
    return standing


def routes(kernel: Kernel, family: Family, *, blackholes: bool) -> dict[Key, Target]:
    if blackholes:
        known = ((r.nlri, r.metric, _target_of(r)) for r in kernel.routes(family, ours.PROTOCOL))
        return {(family, nlri, metric): t for nlri, metric, t in known if t is not None}
    return {
        (family, nlri, metric): id_
        for (nlri, metric), id_ in kernel.route_nexthops(family, ours.PROTOCOL).items()
        if is_plain_hop(id_) or ours.is_plain_group(id_)
    }


def is_plain_hop(id_: int) -> bool:
    return ours.is_replica(id_) and ours.replica_id(ours.slot_of(id_), 0) == id_


def _target_of(route: Route) -> Target | None:
    """None for a route that is not of this driver."""
    id_ = route.nexthop_id
    if id_ is None:
        return BLACKHOLE if route.type == uapi.RTN_BLACKHOLE else None
    return id_ if is_plain_hop(id_) or ours.is_plain_group(id_) else None

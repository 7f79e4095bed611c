"""Whether the kernel holds the services as their driver believes: the comparison, not the mending.

`apply.groups` says what it believes (`Expected`, a snapshot), `compare` reads the kernel and names
the differences; the driver mends them, `samepath status` shows them. Reading thousands of objects
takes a tenth of a second and more, so both call `compare` in a thread with a kernel of its own; the
snapshot is not changed meanwhile.

What is compared: replicas (there, and with the right gateway and link), the members of groups, the
buckets of the groups that are asked for (one dump each), and routes. What the kernel holds of ours
beyond that is named, too. A group's members are its buckets from the last to the first.

Not compared: objects of plain routes (`apply.routes`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from samepath.apply.replicas import is_service_replica
from samepath.apply.slots import Way
from samepath.model.net import Family, Nlri
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE, PROTOCOL, slot_of
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Group, NextHop


@dataclass(frozen=True, slots=True)
class Expected:
    """What should be there."""

    groups: Mapping[int, Sequence[int]]
    """Group -> the replica of each bucket. These lists are never changed, only replaced."""
    left_over: Collection[int]
    """Groups that are known, and about to be deleted."""
    replicas: Collection[int]
    ways: Mapping[int, Way]
    """Slot -> gateway and link."""
    routes: Mapping[Family, Mapping[Nlri, int]]
    """Prefix -> group."""
    metric: int


@dataclass(slots=True)
class Difference:
    """What is otherwise. Empty: all is as expected."""

    lost: set[int] = field(default_factory=set)
    """Groups that are not there."""
    changed: dict[int, list[int]] = field(default_factory=dict)
    """Groups whose buckets are otherwise, as they are: shorter or longer if it is another kind of
    group altogether."""
    replicas: set[int] = field(default_factory=set)
    """Not there, or with another gateway or link."""
    routes: dict[Family, dict[Nlri, int]] = field(default_factory=dict)
    """Not there, or by another way; with the group that they should have."""
    stray_groups: set[int] = field(default_factory=set)
    stray_replicas: set[int] = field(default_factory=set)
    stray_routes: dict[Family, dict[Nlri, int]] = field(default_factory=dict)
    """Ours by their marks, and known to nobody."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.changed or self.replicas or self.strays) or any(
            self.routes.values()
        )

    @property
    def text(self) -> str:
        """For people; empty if there is none."""
        counts = {
            "groups lost": len(self.lost),
            "groups changed": len(self.changed),
            "next hops lost or changed": len(self.replicas),
            "routes lost or changed": sum(map(len, self.routes.values())),
            "groups too many": len(self.stray_groups),
            "next hops too many": len(self.stray_replicas),
            "routes too many": sum(map(len, self.stray_routes.values())),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    @property
    def strays(self) -> bool:
        return bool(self.stray_groups or self.stray_replicas) or any(self.stray_routes.values())


def compare(
    kernel: Kernel, expected: Expected, *, buckets_of: Collection[int] | None = None
) -> Difference:
    """`buckets_of`: the groups whose buckets are read; None: all."""
    found = Difference()
    nexthops, groups = kernel.nexthops(PROTOCOL)
    _compare_replicas(nexthops, expected, found)
    known = {g.id: g for g in groups if GROUP_BASE <= g.id < PLAIN_GROUP_BASE}
    for number, entries in expected.groups.items():
        group = known.get(number)
        is_read = buckets_of is None or number in buckets_of
        if group is None:
            found.lost.add(number)
        elif is_read or not _is_made_of(group, entries):
            ids = kernel.bucket_state(number).ids if group.resilient else []
            if ids != list(entries):
                found.changed[number] = ids
    found.stray_groups = known.keys() - expected.groups.keys() - set(expected.left_over)
    for family in Family:
        _compare_routes(kernel, family, expected, found)
    return found


def _is_made_of(group: Group, entries: Sequence[int]) -> bool:
    return group.resilient and list(group.members) == list(reversed(entries))


def _compare_replicas(nexthops: Sequence[NextHop], expected: Expected, found: Difference) -> None:
    there = set()
    for hop in nexthops:
        if not is_service_replica(hop.id):
            continue
        way = expected.ways.get(slot_of(hop.id))
        if way == (hop.gateway, hop.oif):
            there.add(hop.id)
        if hop.id not in expected.replicas:
            found.stray_replicas.add(hop.id)
    found.replicas = set(expected.replicas) - there


def _compare_routes(kernel: Kernel, family: Family, expected: Expected, found: Difference) -> None:
    metric, wanted = expected.metric, expected.routes[family]
    actual = kernel.route_nexthops(family, PROTOCOL)
    found.routes[family] = {
        nlri: group for nlri, group in wanted.items() if actual.get((nlri, metric)) != group
    }
    found.stray_routes[family] = {
        nlri: group
        for (nlri, its_metric), group in actual.items()
        if GROUP_BASE <= group < PLAIN_GROUP_BASE and its_metric == metric and nlri not in wanted
    }

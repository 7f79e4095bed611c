"""Which member slot belongs to which next hop: the part of the id space that two drivers share.

A slot stands for one (gateway, link) and has room for 4,096 next hop objects: replica 0 is of
`apply.routes`, the others of `apply.groups`. The numbers are read back out of the kernel's own next
hops after a restart, so a slot never changes its meaning while objects of it exist. One `Slots` is
shared by all drivers of a namespace; each keeps its slots by `slot`, and `retain` sets free those
that neither the kernel nor any driver names.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from samepath.model import ours
from samepath.model.net import Address
from samepath.netlink.objects import NextHop

Way = tuple[Address, int]
"""A gateway and the index of the link that it is on."""


class NoSlotLeft(Exception):
    """All 4,095 slots name next hops."""


class Slots:
    def __init__(self) -> None:
        self._slots: dict[Way, int] = {}
        self._ways: dict[int, Way] = {}
        self._free: list[int] = []
        """A heap of slots that were set free."""
        self._next = 0
        """The lowest slot that was never used."""

    def adopt(self, nexthops: Iterable[NextHop]) -> None:
        """Take what the kernel's next hops say for slots that have no meaning yet.

        Where two replicas of one slot disagree, or two slots have the same way, the first stands:
        the drivers see by the objects themselves that the other is not what they want.
        """
        for nexthop in nexthops:
            if not ours.is_replica(nexthop.id) or nexthop.gateway is None:
                continue
            slot = ours.slot_of(nexthop.id)
            if slot in self._ways:
                continue
            way = (nexthop.gateway, nexthop.oif)
            self._ways[slot] = way
            self._slots.setdefault(way, slot)
            self._free += range(self._next, slot)
            self._next = max(self._next, slot + 1)
        self._free = [slot for slot in self._free if slot not in self._ways]
        heapq.heapify(self._free)

    def slot(self, gateway: Address, oif: int) -> int:
        """The slot of this next hop; a free one if it has none. Raises NoSlotLeft."""
        way = (gateway, oif)
        slot = self._slots.get(way)
        if slot is None:
            slot = self._take()
            self._slots[way] = slot
            self._ways[slot] = way
        return slot

    def way(self, slot: int) -> Way | None:
        return self._ways.get(slot)

    def retain(self, used: Collection[int]) -> None:
        """Set free all slots but these. The caller has deleted their next hops."""
        kept = frozenset(used)
        for slot in [s for s in self._ways if s not in kept]:
            way = self._ways.pop(slot)
            if self._slots.get(way) == slot:
                del self._slots[way]
            heapq.heappush(self._free, slot)

    def __len__(self) -> int:
        return len(self._ways)

    def _take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        if self._next >= ours.SLOTS:
            raise NoSlotLeft(f"all {ours.SLOTS} slots for next hops are taken")
        self._next += 1
        return self._next - 1

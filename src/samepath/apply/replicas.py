"""Replica next hops: many next hop objects for one gateway, so that each bucket can name its own.

A resilient group of B distinct members with B buckets gives each member exactly one bucket, and an
in-place replace gives the buckets of members that left to members that came, and touches no other
(KERNEL.md §2, measured; tests/netlink holds the kernel to it). So we own every bucket by choosing
which replica it names. Replicas are shared by all groups: a pool of k a next hop is enough for
every group in which it owns at most k buckets.

Replica 0 of a slot belongs to plain routes (`apply.routes`); ours begin at 1. Called by
`apply.groups` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from samepath.model.net import Address, family_of
from samepath.model.ours import REPLICA_BASE, REPLICAS_PER_SLOT, is_replica, replica_id, slot_of
from samepath.netlink.objects import NextHop

FIRST = 1


def assign(slots: Sequence[int], before: Sequence[int] | None) -> list[int]:
    """The replica that each bucket names, given the slot of each bucket's owner.

    A bucket whose replica before was of the same slot keeps it, for a bucket that names the same
    replica is one that the kernel does not touch. Others take the lowest free ones. A replica that
    a bucket gives up is not free yet: the kernel goes by members, so a bucket whose replica is
    still in the group would keep it. For the same reason nobody keeps a replica that stands twice
    (the kernel does that when a member was deleted): which bucket would keep it is the kernel's
    choice.

    A slot cannot run out: what it had and what it gains are different buckets, 4,093 at most
    together, and it has 4,095 replicas for groups.
    """
    entries = [0] * len(slots)
    if before is not None:
        often = {i for i, n in Counter(before).items() if n > 1} if _repeats(before) else ()
        for bucket, (slot, old) in enumerate(zip(slots, before, strict=True)):
            if slot_of(old) == slot and old not in often:
                entries[bucket] = old
    taken = {*entries, *(before or ())}
    free: dict[int, int] = {}
    for bucket, slot in enumerate(slots):
        if entries[bucket]:
            continue
        candidate = free.get(slot) or replica_id(slot, FIRST)
        while candidate in taken:
            candidate += 1
        assert slot_of(candidate) == slot, "a slot has more replicas than a group has buckets"
        free[slot] = candidate + 1
        entries[bucket] = candidate
    return entries


def _repeats(ids: Sequence[int]) -> bool:
    return len(set(ids)) != len(ids)


class Replicas:
    """Which replicas the kernel holds, by slot."""

    def __init__(self) -> None:
        self._made: dict[int, set[int]] = {}
        """slot -> ids"""

    def adopt(self, nexthops: Iterable[NextHop]) -> None:
        """Take what the kernel holds as the truth."""
        self._made = {}
        self.made(nexthop for nexthop in nexthops if is_service_replica(nexthop.id))

    def missing(
        self, entries: Iterable[int], hops: dict[int, tuple[Address, int]]
    ) -> list[NextHop]:
        """The next hop objects that `entries` need and the kernel lacks. `hops`: slot ->
        (gateway, link index)."""
        lacking = []
        for entry in entries:
            slot = slot_of(entry)
            if entry not in self._made.get(slot, ()):
                gateway, oif = hops[slot]
                lacking.append(NextHop(entry, family_of(gateway), gateway, oif))
        return lacking

    def made(self, nexthops: Iterable[NextHop]) -> None:
        for nexthop in nexthops:
            self._made.setdefault(slot_of(nexthop.id), set()).add(nexthop.id)

    def unused(self, used_slots: Collection[int]) -> list[int]:
        """Ids of all replicas of slots that no group and no target names any more."""
        return [i for slot, ids in self._made.items() if slot not in used_slots for i in ids]

    def gone(self, ids: Iterable[int]) -> None:
        for i in ids:
            pool = self._made.get(slot_of(i))
            if pool is not None:
                pool.discard(i)
                if not pool:
                    del self._made[slot_of(i)]

    @property
    def slots(self) -> set[int]:
        return set(self._made)

    def ids(self) -> set[int]:
        return set().union(*self._made.values())

    def __len__(self) -> int:
        return sum(map(len, self._made.values()))


def is_service_replica(nexthop_id: int) -> bool:
    return is_replica(nexthop_id) and (nexthop_id - REPLICA_BASE) % REPLICAS_PER_SLOT >= FIRST

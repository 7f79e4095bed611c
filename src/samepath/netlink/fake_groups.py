"""The buckets of a resilient group as the kernel keeps them: the fake's part that must be exact.

A transcription of what net/ipv4/nexthop.c does, in the same order, so that the fake gives every
bucket to the very member that the kernel gives it to: shares by weight, a list of the underweight
members with the last entry in front, buckets without an owner and (when idle) buckets of overweight
members moved in the order of their index. tests/netlink runs the same sequences on both.

Used by `fake` alone. Not done: the unbalanced timer, offload by a network card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Entry:
    id: int
    weight: int
    wants: int = 0
    count: int = 0


@dataclass(slots=True)
class _Bucket:
    owner: _Entry | None = None
    used: float = 0.0
    """When a packet last used it."""
    migrated: float = 0.0
    """When it got its owner; equal to `used` if no packet has come since."""


@dataclass(slots=True)
class ResilientTable:
    """`size` buckets, and the members that own them. `now` is in seconds."""

    size: int
    idle_timer_s: float
    entries: list[_Entry] = field(default_factory=list)
    buckets: list[_Bucket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [_Bucket() for _ in range(self.size)]

    def replace(self, members: Sequence[int], weights: Sequence[int], now: float) -> None:
        """Other members; buckets of those that stay are kept, the others are free."""
        entries = [_Entry(m, w) for m, w in zip(members, weights, strict=True)]
        by_id = {entry.id: entry for entry in entries}
        for bucket in self.buckets:
            bucket.owner = None if bucket.owner is None else by_id.get(bucket.owner.id)
            if bucket.owner is not None:
                bucket.owner.count += 1
        self.entries = entries
        self.upkeep(now)

    def remove(self, member: int, now: float) -> None:
        rest = [entry for entry in self.entries if entry.id != member]
        self.replace([e.id for e in rest], [e.weight for e in rest], now)

    def upkeep(self, now: float) -> None:
        """What the kernel does after each change and whenever a timer expires."""
        underweight = self._rebalance()
        for bucket in self.buckets:
            if not self._should_migrate(bucket, now) or not underweight:
                continue
            if bucket.owner is not None:
                bucket.owner.count -= 1
            receiver = underweight[-1]
            receiver.count += 1
            bucket.owner, bucket.used, bucket.migrated = receiver, now, now
            if receiver.count >= receiver.wants:
                underweight.pop()

    def _rebalance(self) -> list[_Entry]:
        """Shares by weight; the underweight members, the next receiver last."""
        total = sum(entry.weight for entry in self.entries)
        weight = before = 0
        underweight = []
        for entry in self.entries:
            weight += entry.weight
            # DIV_ROUND_CLOSEST
            bound = (self.size * weight + total // 2) // total
            entry.wants = bound - before
            before = bound
            if entry.count < entry.wants:
                underweight.append(entry)
        return underweight

    def _should_migrate(self, bucket: _Bucket, now: float) -> bool:
        owner = bucket.owner
        if owner is None:
            return True
        if owner.count <= owner.wants:
            return False
        return bucket.used == bucket.migrated or now >= bucket.used + self.idle_timer_s

    def ids(self) -> list[int]:
        return [0 if bucket.owner is None else bucket.owner.id for bucket in self.buckets]

    def idle_s(self, now: float) -> list[float]:
        return [now - bucket.used for bucket in self.buckets]

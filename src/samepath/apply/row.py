"""One resilient group: who owns its buckets, who should, and which prefixes use it.

`present` is the named exception to "a plan depends on no history" (DESIGN §3): it is what the
kernel holds, kept here between passes and read back from the kernel after a restart. Owned and
changed by `apply.groups` only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from samepath.hashing.step import Step, step
from samepath.hashing.table import Move, Table, build
from samepath.model.net import Address, Family, Nlri
from samepath.model.ours import slot_of
from samepath.plan.gateway import Target

LOOK_AT_LEAST_S = 0.5
"""Idle times are not read more often than this: a dump costs a millisecond a group."""


@dataclass(slots=True, eq=False)
class Row:
    """A group, its prefixes, and the moves in progress."""

    id: int
    family: Family
    target: Target
    nlris: set[Nlri] = field(default_factory=set)
    want: Table | None = None
    """The table of the target's usable members."""
    present: Table | None = None
    """Who owns the buckets in the kernel, or did when it was last there."""
    entries: Sequence[int] = ()
    """The replica that each bucket names; set by `names`."""
    slots: frozenset[int] = frozenset()
    """The slots of these replicas."""
    in_kernel: bool = False
    unrouted: set[Nlri] = field(default_factory=set)
    """Prefixes whose route is still to be written."""
    waiting: tuple[Move, ...] = ()
    waiting_since: dict[int, float] = field(default_factory=dict)
    """bucket -> when its move began to wait"""
    dirty: bool = True
    look_at: float = math.inf
    """When waiting moves, or a failed write, are looked at again."""
    failures: int = 0
    error: str = ""

    @property
    def settled(self) -> bool:
        """Nothing is to be done, and every move is made."""
        return self.in_kernel and not self.dirty and not self.waiting and not self.error

    def due(self, now: float) -> bool:
        return self.look_at <= now or (self.dirty and not self.failures)

    def names(self, entries: Sequence[int]) -> None:
        self.entries, self.slots = entries, frozenset([slot_of(e) for e in set(entries)])

    def retarget(self, target: Target) -> None:
        self.target, self.dirty, self.failures = target, True, 0

    def failed(self, error: str, now: float) -> None:
        """Keep the row dirty and try again later: 0.5 s, doubling, at most 30 s."""
        self.error = error
        self.dirty = True
        self.look_at = now + min(30.0, 0.5 * 2 ** min(self.failures, 6))
        self.failures += 1

    def succeeded(self) -> None:
        self.error, self.failures, self.dirty = "", 0, False

    def plan(
        self,
        *,
        buckets: int,
        usable: Callable[[Address], bool],
        idle_s: Callable[[], Sequence[float] | None],
        idle_timer_s: float,
        deadline_s: float | None,
        now: float,
    ) -> Step | None:
        """The next step of this row; None when no next hop is usable. `idle_s` is asked only when
        a move waits for its bucket to be idle."""
        members = self.target.members(usable)
        if not members:
            return None
        self.want = build(members, buckets)
        if self.present is None or self.present.buckets != buckets:
            return Step(self.want, (), ())
        living = [hop.address for hop in self.target.hops if usable(hop.address)]
        first = step(self.present, self.want, living=living, idle_s=None, idle_timer_s=idle_timer_s)
        if not first.waiting:
            return first
        idle = idle_s()
        if idle is None:
            return first
        idle = list(idle)
        for move in first.waiting:
            since = self.waiting_since.get(move.bucket, now)
            if deadline_s is not None and now - since >= deadline_s:
                idle[move.bucket] = math.inf
        return step(self.present, self.want, living=living, idle_s=idle, idle_timer_s=idle_timer_s)

    def stepped(
        self, to: Step, idle: Sequence[float] | None, now: float, idle_timer_s: float,
        deadline_s: float | None,
    ) -> None:  # fmt: skip
        """Note that `to` is in the kernel, and when to look at what waits."""
        self.present = to.owners
        self.waiting = to.waiting
        since = self.waiting_since
        self.waiting_since = {m.bucket: since.get(m.bucket, now) for m in to.waiting}
        self.look_at = math.inf
        if not to.waiting:
            return
        rest = idle_timer_s
        if idle is not None:
            rest = min(idle_timer_s - idle[m.bucket] for m in to.waiting)
        if deadline_s is not None:
            rest = min(rest, min(self.waiting_since.values()) + deadline_s - now)
        self.look_at = now + max(LOOK_AT_LEAST_S, rest)

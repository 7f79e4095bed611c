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
from samepath.netlink.kernel import Kernel
from samepath.plan.gateway import Target

LOOK_AT_LEAST_S = 0.5
LOOK_AT_MOST_S = 5.0
LOOK_SHARE = 0.1
"""Idle times are not read more often than twice a second, and looking at all groups may cost a
tenth of a processor: a look costs two milliseconds a group. A bucket moves so much later at most
than it became idle."""


def look_pause_s(last_pass_s: float) -> float:
    """How long a group is left alone when the looks of the last pass took so long."""
    return min(LOOK_AT_MOST_S, max(LOOK_AT_LEAST_S, last_pass_s / LOOK_SHARE))


RETRY_MOST_S = 30.0


def backoff_s(failures: int) -> float:
    """Half a second, doubling, at most 30 s."""
    return min(RETRY_MOST_S, 0.5 * 2.0 ** min(failures, 6))


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
    """The replica that each bucket names in the kernel; a new list with each write."""
    slots: frozenset[int] = frozenset()
    """Of the entries."""
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
    routes_at: float = -math.inf
    """When routes that were refused are tried again."""
    routes_failures: int = 0

    @property
    def settled(self) -> bool:
        """Nothing is to be done, and every move is made."""
        return self.in_kernel and not self.dirty and not self.waiting and not self.error

    @property
    def next_look(self) -> float:
        """When there is something to do."""
        if not self.nlris:
            return math.inf
        if self.dirty and not self.failures:
            return -math.inf
        if self.unrouted and self.in_kernel:
            return min(self.look_at, self.routes_at)
        return self.look_at

    def due(self, now: float) -> bool:
        return self.look_at <= now or (self.dirty and not self.failures)

    def touch(self) -> None:
        """Something may be otherwise: look at it in the next pass."""
        self.dirty, self.failures, self.look_at = True, 0, -math.inf
        self.routes_failures, self.routes_at = 0, -math.inf

    def retarget(self, target: Target) -> None:
        self.target = target
        self.touch()

    def failed(self, error: str, now: float) -> None:
        """Keep the row dirty and try again later."""
        self.error = error
        self.dirty = True
        self.look_at = now + backoff_s(self.failures)
        self.failures += 1

    def succeeded(self) -> None:
        self.error, self.failures = "", 0

    def routes_failed(self, now: float) -> None:
        self.routes_at = now + backoff_s(self.routes_failures)
        self.routes_failures += 1

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
        a move waits for its bucket to be idle, and no bucket of a dead owner waits for the answer:
        that takes as long as to write the group, and a hundred others may be in the same need."""
        members = self.target.members(usable)
        if not members:
            return None
        self.want = build(members, buckets)
        if self.present is None or self.present.buckets != buckets:
            return Step(self.want, (), ())
        living = [hop.address for hop in self.target.hops if usable(hop.address)]
        first = step(self.present, self.want, living=living, idle_s=None, idle_timer_s=idle_timer_s)
        if not first.waiting or first.moved:
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
        deadline_s: float | None, pause_s: float = LOOK_AT_LEAST_S,
    ) -> None:  # fmt: skip
        """Note that `to` is in the kernel, and when to look at what waits."""
        self.present = to.owners
        self.waiting = to.waiting
        since = self.waiting_since
        self.waiting_since = {m.bucket: since.get(m.bucket, now) for m in to.waiting}
        self.look_at = math.inf
        if not to.waiting:
            return
        rest = 0.0  # not read yet
        if idle is not None:
            rest = min(idle_timer_s - idle[m.bucket] for m in to.waiting)
        if deadline_s is not None:
            rest = min(rest, min(self.waiting_since.values()) + deadline_s - now)
        self.look_at = now + max(pause_s, rest)


Elsewhere = Callable[[Row], list[float] | None]
"""The idle times of a row whose packets do not come to the kernel's group."""


class Idle:
    """The idle times of a row's buckets, read at most once and only when asked."""

    def __init__(self, kernel: Kernel, row: Row, elsewhere: Elsewhere | None = None) -> None:
        self.kernel, self.row, self.elsewhere = kernel, row, elsewhere
        self.read: list[float] | None = None

    def __call__(self) -> list[float] | None:
        if self.row.in_kernel and self.read is None and self.elsewhere is not None:
            self.read = self.elsewhere(self.row)
        if self.row.in_kernel and self.read is None:
            # Empty when a link has just gone down and taken the group with it: no times are known.
            self.read = self.kernel.bucket_state(self.row.id).idle_s or None
        return self.read

"""Buckets in transition: what the BPF data plane is to hold next.

Pure; called by `apply.bpf_tables`.

A bucket whose owner changes while the present one still lives is in transition: new flows go to the
new owner at once, flows that are there already stay with the old one (KERNEL.md's rules are
docs/decisions/0012). `advance` takes what the maps hold and the table that is wanted (the very one
of the kernel data plane) one step on. Everything that it needs stands in the maps, so a restarted
gateway goes on where the last one was.

| the bucket | its owner changes | its old owner dies | idle, or late |
|---|---|---|---|
| steady, the owner lives | transition: old = the owner | | |
| steady, the owner is gone | steady, of the new owner | | |
| in transition | old stays the first old owner, the wait begins anew | old = the owner | steady |

A chain of changes keeps the *first* old owner: flows that began with owners in between were
recorded and stay with these by the flow table. So a bucket stays in transition when its old owner
dies: to forget those records would break them. A bucket is idle when nothing but its present owner
was sent a packet for `idle` ticks; the deadline counts from the last change of its owner.

Not done here: which table a service uses (`apply.bpf_tables`), the numbers of next hops
(`apply.bpf_hops`), and the records of flows, which the program alone makes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint16]
Times = NDArray[np.int64]

NONE = 0
"""No next hop has this number."""


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """One table as the maps hold it: arrays by bucket. Times are whole ticks of one clock."""

    owner: Numbers
    old: Numbers
    """Who keeps the flows of before; NONE: the bucket is steady. It may be the owner itself."""
    changed: Times
    """When the owner changed last."""
    stamp: Times
    """When a packet last went to another than the owner."""

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def moving(self) -> NDArray[np.bool_]:
        """Which buckets are in transition."""
        moving: NDArray[np.bool_] = self.old != NONE
        return moving

    @property
    def used(self) -> Times:
        """From when on idleness counts."""
        return np.maximum(self.changed, self.stamp)

    @property
    def hops(self) -> set[int]:
        """Every number that stands in it."""
        return set(np.union1d(self.owner, self.old).tolist()) - {NONE}

    def same_hops(self, other: Buckets) -> bool:
        """Whether packets are sent the same ways."""
        return np.array_equal(self.owner, other.owner) and np.array_equal(self.old, other.old)


@dataclass(frozen=True, slots=True)
class Advance:
    """The next state, and how it differs."""

    buckets: Buckets
    changed: NDArray[np.intp]
    """The buckets that are to be written; nothing else differs."""
    begun: int = 0
    chained: int = 0
    """Were in transition already when their owner changed."""
    departed: int = 0
    """Changed at once, their owner being gone."""
    orphaned: int = 0
    """Their old owner died: they go on without."""
    idle: int = 0
    """Ended idle."""
    late: int = 0
    """Ended at the deadline, while they were in use."""
    unready: int = 0
    """Keep their living owner, since the one that is wanted is not ready."""
    look_at: int | None = None
    """When the next transition may end; None: there is none."""


def steady(owner: Numbers, now: int) -> Buckets:
    """A table without a past."""
    count = len(owner)
    return Buckets(
        owner=owner.astype(np.uint16),
        old=np.full(count, NONE, np.uint16),
        changed=np.full(count, now, np.int64),
        stamp=np.zeros(count, np.int64),
    )


def advance(
    present: Buckets,
    want: Numbers,
    *,
    living: Collection[int],
    ready: Collection[int] | None = None,
    now: int,
    idle: int,
    deadline: int | None,
) -> Advance:
    """`present` one step on to `want`.

    `living`: the next hops that keep their flows, draining ones included; those of `want` count as
    living whether they stand here or not.
    `ready`: those whose MAC is known; None: all. A bucket does not leave a living owner for one
    that is not: the program would pass its new flows on to the kernel, which has another owner.
    Raises ValueError when the sizes differ, or `want` has a bucket without an owner.
    """
    if len(want) != len(present):
        raise ValueError(f"{len(want)} buckets wanted, {len(present)} there")
    if not want.all():
        raise ValueError("a bucket without an owner")
    lives = np.array(sorted({*living, *np.unique(want).tolist()}), np.uint16)
    moving = present.moving
    owner_lives, old_lives = np.isin(present.owner, lives), np.isin(present.old, lives)
    unready = np.zeros_like(moving)
    if ready is not None:
        known = np.isin(want, np.array(sorted(ready), np.uint16))
        unready = (present.owner != want) & owner_lives & ~known
        want = np.where(unready, present.owner, want)
    changes = present.owner != want
    orphaned = moving & ~changes & ~old_lives
    waited = _ages(present.used, now)
    is_idle = moving & ~changes & (waited >= idle)
    is_late = np.zeros_like(is_idle)
    if deadline is not None:
        is_late = moving & ~changes & ~is_idle & (_ages(present.changed, now) >= deadline)
    ends = is_idle | is_late

    first = np.where(old_lives, present.old, np.where(owner_lives, present.owner, want))
    old = np.where(changes, first, np.where(orphaned, present.owner, present.old))
    old[(changes & ~moving & ~owner_lives) | ends] = NONE
    following = Buckets(
        owner=want.astype(np.uint16),
        old=old.astype(np.uint16),
        changed=np.where(changes, np.int64(now), present.changed),
        stamp=present.stamp,
    )
    return Advance(
        following,
        np.flatnonzero(changes | orphaned | ends),
        begun=_count(changes & ~moving & owner_lives),
        chained=_count(changes & moving),
        departed=_count(changes & ~moving & ~owner_lives),
        orphaned=_count(orphaned & ~ends),
        idle=_count(is_idle),
        late=_count(is_late),
        unready=_count(unready),
        look_at=_next_end(following, idle, deadline),
    )


def _next_end(buckets: Buckets, idle: int, deadline: int | None) -> int | None:
    moving = buckets.moving
    if not moving.any():
        return None
    end = int(buckets.used[moving].min()) + idle
    if deadline is not None:
        end = min(end, int(buckets.changed[moving].min()) + deadline)
    return end


def _ages(times: Times, now: int) -> Times:
    """How long ago; the program may have stamped a packet since `now`."""
    return np.int64(now) - np.minimum(times, np.int64(now))


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))

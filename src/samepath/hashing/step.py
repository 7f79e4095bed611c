"""Which buckets may move now: from the present table one step towards the target.

A bucket whose owner is gone moves at once: its flows are lost anyway. A bucket whose owner lives
(another member was added, or this one drains) carries flows that a move would break, so it waits
until it has been idle for `idle_timer_s`, or until the operator's deadline has passed.

Called by the gateway's loop, for one group at a time, with what the kernel holds as `present`: the
owners of buckets are the one piece of history that a plan depends on. Repeating a step is harmless,
and all histories end in the target. Not done here: measuring idleness, and writing the table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samepath.hashing.table import Move, Table, align, moves_of
from samepath.model.net import Address


@dataclass(frozen=True, slots=True)
class Step:
    """The table to write now, what it moves, and what still waits for its bucket to be idle."""

    owners: Table
    moved: tuple[Move, ...]
    waiting: tuple[Move, ...]


def step(
    present: Table | None,
    target: Table,
    *,
    living: Collection[Address],
    idle_s: Sequence[float] | NDArray[np.float64] | None,
    idle_timer_s: float,
    deadline_passed: bool = False,
) -> Step:
    """`present` with all moves made that may be made now.

    `present`: what is installed; None for a new group, which begins as its target.
    `living`: the members that still forward, draining ones included. Members of the target count
    as living whether they stand here or not.
    `idle_s`: by bucket, the seconds since its last packet; None where that is not known, and then
    no bucket counts as idle.
    Raises ValueError when the sizes differ.
    """
    if present is None:
        return Step(target, (), ())
    if idle_s is not None and len(idle_s) != present.buckets:
        raise ValueError(f"{len(idle_s)} idle times for {present.buckets} buckets")
    members, old, new = align(present, target)
    differs = old != new
    if not differs.any():
        return Step(present, (), ())
    lives = {*living, *target.members}
    may = np.array([member not in lives for member in members])[old]
    if deadline_passed:
        may[:] = True
    elif idle_s is not None:
        may |= np.asarray(idle_s, np.float64) >= idle_timer_s
    go = differs & may
    return Step(
        owners=Table(members, np.where(go, new, old)),
        moved=moves_of(members, old, new, np.flatnonzero(go)),
        waiting=moves_of(members, old, new, np.flatnonzero(differs & ~may)),
    )

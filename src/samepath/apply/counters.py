"""How many buckets were moved, and why they could be. Counted by `apply.groups` for `status`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from samepath.hashing.step import Step
from samepath.model.net import Address


@dataclass(slots=True)
class Counters:
    """Since the program began."""

    departed: int = 0
    idle: int = 0
    deadline: int = 0

    def count(
        self,
        step: Step,
        living: Collection[Address],
        idle_s: Sequence[float] | None,
        idle_timer_s: float,
    ) -> None:
        for move in step.moved:
            if move.old not in living:
                self.departed += 1
            elif idle_s is not None and idle_s[move.bucket] >= idle_timer_s:
                self.idle += 1
            else:
                self.deadline += 1

"""Kinds whose objects vanish all at once: whether to believe it. Pure, time is an argument.

Used by `samepath.kube.api_source` for the kinds whose absence ends sessions or withdraws services
(`Wanted.is_held`). Somebody deletes a CustomResourceDefinition, or an installer makes it anew: the
server deletes all objects of the kind first, one by one, each like any other deletion, and only
then the kind. Nobody meant to end every session of the cluster. So when the last object of a kind
goes, all that there were a moment ago stand for `DOUBT_S`: long enough to see whether the kind goes
as well.

- It does: they stand for as long as it is away, and `BACK_S` after it is back, so that the objects
  can be made again, one after the other. Each that is back counts as it is.
- It does not: somebody has deleted them, and means it. They go.

Which ones there were "a moment ago": all that were there in the last `TOGETHER_S`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from samepath.model.cluster import Object

Key = tuple[str, str]

DOUBT_S = 15.0
"""A server removes a kind within some 5 s of its last object."""
BACK_S = 60.0
TOGETHER_S = 5.0
SHOWN = 5
"""So many are named."""


class Vanished:
    """One kind."""

    def __init__(self) -> None:
        self.held: Mapping[Key, Object] = {}
        """What stands though it is gone."""
        self.until = math.inf
        """When `look` has something to do, unless anything changes."""
        self._rows: dict[Key, Object] = {}
        """What there was at the last look."""
        self._gone: dict[Key, tuple[Object, float]] = {}
        """What has gone lately, and when."""
        self._was_missing = False
        self._is_back = False

    def look(self, rows: Mapping[Key, Object], *, is_missing: bool, now: float) -> bool:
        """`rows`: what there is; `is_missing`: the kind is not installed. Whether `held` is another
        now."""
        before = self.held
        gone = {key: (thing, now) for key, thing in self._rows.items() if key not in rows}
        self._gone = {
            key: (thing, at)
            for key, (thing, at) in {**self._gone, **gone}.items()
            if key not in rows and now - at < TOGETHER_S
        }
        if gone and not rows and not before:
            self.held = {key: thing for key, (thing, _) in self._gone.items()}
            self.until = now + DOUBT_S
        else:
            self.held = {key: thing for key, thing in before.items() if key not in rows}
        if self.held and is_missing:
            self.until = math.inf
        elif self.held and self._was_missing:
            self.until, self._is_back = now + BACK_S, True
        if now >= self.until or not self.held:
            self.held, self.until, self._is_back = {}, math.inf, False
        self._rows, self._was_missing = dict(rows), is_missing
        return self.held.keys() != before.keys()

    def text(self, what: str) -> str:
        """For people; empty: nothing is held. `what`: the objects, in plural."""
        if not self.held:
            return ""
        names = sorted(name for _, name in self.held)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        why = "all were deleted, maybe with their kind: for a moment these stand"
        if self._was_missing:
            why = "the kind is not installed any more; what was known of it stands"
        elif self._is_back:
            why = "the kind is back; until they are made again, for a minute, these stand"
        return f"{what}: {why}: {', '.join(names[:SHOWN])}{more}"

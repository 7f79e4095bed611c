"""Next hops that the kernel does not take: left out of tables, and tried again later.

Used by `apply.groups`. Only a next hop of which the kernel holds no object at all comes here; one
that forwards already is not taken out of its tables for a refusal.
"""

from __future__ import annotations

from samepath.apply.row import backoff_s
from samepath.apply.slots import Way


class Refused:
    def __init__(self) -> None:
        self._known: dict[Way, tuple[str, int, float]] = {}
        """Why, how often, and until when."""

    def __bool__(self) -> bool:
        return bool(self._known)

    def note(self, way: Way, why: str, now: float) -> None:
        _, failures, _ = self._known.get(way, ("", 0, 0.0))
        self._known[way] = why, failures + 1, now + backoff_s(failures)

    def is_refused(self, way: Way, now: float) -> bool:
        known = self._known.get(way)
        return known is not None and now < known[2]

    def why(self, way: Way) -> str:
        return self._known[way][0] if way in self._known else ""

    def until(self, way: Way) -> float:
        return self._known[way][2]

    def clear(self) -> None:
        self._known.clear()

"""What comes of a neighbour that reaches its `max_prefixes`.

The RIB takes no more than the limit in any case. Here it is noticed that a neighbour comes near it
(said once, until it is well below again), and that it went beyond where its entry says `beyond:
restart`: then the speaker ends the session, and the neighbour is left alone for a time.

Asked by the speaker after each turn of a neighbour. Without socket and clock.

RFC 4271 §6.7, RFC 4486 §4 (subcode 1).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from samepath.bgp.errors import Cease, Code, PeerError
from samepath.bgp.policy import PeerKey, Reason
from samepath.bgp.rib import Counts
from samepath.model.neighbor import Import
from samepath.model.net import Family

FORGET_PERCENT = 90
"""Of the count at which the warning was given: below it, it may be given again."""


@dataclass(frozen=True, slots=True)
class Near:
    """A neighbour comes near its limit."""

    family: Family
    accepted: int

    def text(self, limits: Import) -> str:
        return (
            f"{self.accepted} {self.family.label} prefixes accepted: over {limits.warn_percent} % "
            f"of max_prefixes, which is {limits.max_prefixes}"
        )


class PrefixLimits:
    def __init__(self) -> None:
        self._near: set[tuple[PeerKey, Family]] = set()
        self._waits: dict[PeerKey, float] = {}

    def near(self, peer: PeerKey, counts: Mapping[Family, Counts], limits: Import) -> list[Near]:
        """The families of which it has to be said now."""
        threshold = limits.max_prefixes * limits.warn_percent / 100
        news = []
        for family, count in counts.items():
            key = (peer, family)
            if count.accepted >= threshold and key not in self._near:
                self._near.add(key)
                news.append(Near(family, count.accepted))
            elif key in self._near and count.accepted < threshold * FORGET_PERCENT / 100:
                self._near.discard(key)
        return news

    def is_near(self, peer: PeerKey, family: Family) -> bool:
        return (peer, family) in self._near

    @staticmethod
    def beyond(
        counts: Mapping[Family, Counts], refused: Mapping[Reason, int], limits: Import
    ) -> Family | None:
        """The family of which there were too many; None: of neither."""
        if not refused.get(Reason.TOO_MANY):
            return None
        return max(counts, key=lambda family: counts[family].accepted)

    def end(self, peer: PeerKey, limits: Import, family: Family, now: float) -> PeerError:
        """The session is ended with this, and not tried again before `waits_until`."""
        self._waits[peer] = now + limits.restart_s
        data = struct.pack("!HBI", family.afi, 1, limits.max_prefixes)
        text = f"more than {limits.max_prefixes} {family.label} prefixes"
        subcode = Cease.MAXIMUM_NUMBER_OF_PREFIXES_REACHED
        return PeerError(Code.CEASE, subcode, data, text)

    def waits_until(self, peer: PeerKey, now: float) -> float | None:
        until = self._waits.get(peer)
        if until is not None and until <= now:
            del self._waits[peer]
            return None
        return until

    def forget(self, peer: PeerKey) -> None:
        self._waits.pop(peer, None)
        self._near -= {(peer, family) for family in Family}

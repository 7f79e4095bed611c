"""What the RIB knows of one peer besides its paths: counts, refusals, what is stale or claimed.

The paths themselves stand in the RIB's tables, which all peers share (`samepath.bgp.rib`); it alone
writes here.

RFC 4271 §3.2, RFC 4724 §4.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from samepath.bgp.attributes import PathAttributes
from samepath.bgp.policy import ImportRule, PeerKey, Reason, Refusal
from samepath.model.net import Family, Nlri

REFUSALS_KEPT = 1_000
"""Refusals with their reason, per peer; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class Counts:
    """One peer's prefixes of one family."""

    accepted: int
    stale: int
    refused: int
    """Prefixes refused since the session came up, each time that they came."""


Tally = tuple[tuple[int, ...], ...]
"""All that is counted of a peer: the same as long as nothing is counted otherwise."""


class AdjRibIn:
    """What we know of a peer besides its paths."""

    __slots__ = (
        "accepted", "asn", "claims", "external", "items", "items_left", "key", "refusals",
        "refused", "refused_for", "router_id", "rule", "stale",
    )  # fmt: skip

    def __init__(
        self, key: PeerKey, external: bool, router_id: int, rule: ImportRule, asn: int | None
    ) -> None:
        self.key = key
        self.asn = asn
        """None: not known, and its paths may begin with any."""
        self.external = external
        self.router_id = router_id
        self.rule = rule
        self.accepted = dict.fromkeys(Family, 0)
        self.refused = dict.fromkeys(Family, 0)
        self.refused_for: Counter[Reason] = Counter()
        self.refusals: dict[tuple[Family, int, Nlri], Refusal] = {}
        self.claims: dict[tuple[Family, int, Nlri], PathAttributes] = {}
        """Pod blocks that are another's."""
        self.items = 0
        """Of its paths' attributes when they were counted last, and of those that came since."""
        self.items_left = 0
        """So many more may be asked for before they are counted again."""
        self.stale: dict[Family, dict[int, set[Nlri]]] = {f: {} for f in Family}
        """By path identifier; no set is empty."""

    def note_fresh(self, family: Family, path_id: int, nlris: Iterable[Nlri]) -> None:
        stale = self.stale[family].get(path_id)
        if stale:
            stale.difference_update(nlris)
            if not stale:
                del self.stale[family][path_id]

    def forget_refused(self, family: Family, path_id: int, nlris: Iterable[Nlri]) -> None:
        if self.refusals:
            for nlri in nlris:
                self.refusals.pop((family, path_id, nlri), None)

    def forget_refusals(self) -> None:
        self.refused = dict.fromkeys(Family, 0)
        self.refused_for.clear()
        self.refusals.clear()
        self.claims.clear()

    def counts(self, family: Family) -> Counts:
        stale = sum(map(len, self.stale[family].values()))
        return Counts(self.accepted[family], stale, self.refused[family])

    @property
    def tally(self) -> Tally:
        stale = (sum(map(len, ids.values())) if ids else 0 for ids in self.stale.values())
        refused = (*self.refused.values(), *self.refused_for.values())
        return (*self.accepted.values(),), refused, (*stale,)

    def note_refused(
        self, family: Family, nlris: Sequence[Nlri], path_id: int, reason: Reason
    ) -> None:
        self.refused[family] += len(nlris)
        self.refused_for[reason] += len(nlris)
        for nlri in nlris:
            key = (family, path_id, nlri)
            if key in self.refusals or len(self.refusals) < REFUSALS_KEPT:
                self.refusals[key] = Refusal(self.key, family, nlri, reason, path_id)

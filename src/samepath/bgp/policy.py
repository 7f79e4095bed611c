"""What a neighbour may advertise to us, and why something of it is refused.

The RIB asks here for every block of prefixes that arrives. Two questions, both pure: is the path
our own, come back in a loop (`why_refused`), and what does a prefix mean to us (`ImportRule.kind`:
services, pods, routes, or nothing, and then it is refused)? A prefix that lies in several lists
takes the longest of them; of equal ones services come before pods before routes.

There is no policy language: no rewriting of attributes on the way in.

RFC 4271 §9.1.2 (own AS in AS_PATH), RFC 4456 §8 (ORIGINATOR_ID, CLUSTER_LIST).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from samepath.bgp.attributes import PathAttributes
from samepath.model.config import Import, Kind
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    address_text,
    nlri_address,
    parse_prefix,
    prefix_text,
)

PeerKey = Address
"""A peer is known by its address."""

KINDS_KEPT = 100_000
"""Heads of prefixes per rule and family whose kind is remembered; then the memory starts afresh."""


class Reason(enum.Enum):
    """Why a path is refused."""

    OWN_AS = "our own AS is in AS_PATH"
    OWN_ORIGINATOR = "we are its ORIGINATOR_ID"
    OWN_CLUSTER = "our cluster is in CLUSTER_LIST"
    NOT_ALLOWED = "in none of the neighbour's import lists"
    TOO_MANY = "beyond max_prefixes"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A path that was refused; shown in `status`."""

    peer: PeerKey
    family: Family
    nlri: Nlri
    reason: Reason

    @property
    def text(self) -> str:
        prefix = prefix_text(self.family, self.nlri)
        return f"{prefix} from {address_text(self.peer)}: {self.reason.value}"


@dataclass(frozen=True, slots=True)
class Own:
    """Who we are, for the detection of loops."""

    asn: int | None
    """None: our own AS in a path is no loop, since we pass nothing on (a leaf of its AS)."""
    router_id: int
    cluster_id: int


def why_refused(attributes: PathAttributes, own: Own) -> Reason | None:
    """A loop's reason, or None. Applies to all prefixes of an UPDATE alike."""
    if own.asn is not None and own.asn in attributes.as_path.asns:
        return Reason.OWN_AS
    if attributes.originator_id == own.router_id:
        return Reason.OWN_ORIGINATOR
    if own.cluster_id in attributes.cluster_list:
        return Reason.OWN_CLUSTER
    return None


class ImportRule:
    """An `Import` made ready for matching. One is shared by all sessions of a neighbour entry."""

    def __init__(self, rules: Import) -> None:
        self.max_prefixes = rules.max_prefixes
        lists: dict[Family, dict[int, dict[int, Kind]]] = {f: {} for f in Family}
        by_kind: tuple[tuple[Kind, list[str]], ...] = (
            ("services", rules.services),
            ("pods", rules.pods),
            ("routes", rules.routes),
        )
        for kind, texts in by_kind:
            for text in texts:
                family, nlri = parse_prefix(text)
                value = _leading_bits(family, nlri, nlri[0])
                lists[family].setdefault(nlri[0], {}).setdefault(value, kind)
        # Longest first, so that the first match is the one that counts.
        self._lists = {f: sorted(by.items(), reverse=True) for f, by in lists.items()}
        # The length octet, and as many as the longest rule looks at, decide what a prefix is.
        self._head = {f: 1 + (max(lists[f], default=0) + 7) // 8 for f in Family}
        self._known: dict[Family, dict[bytes, Kind | None]] = {f: {} for f in Family}

    def kind(self, family: Family, nlri: Nlri) -> Kind | None:
        """What the prefix is to us; None: it may not be advertised to us."""
        return self.classify(family, (nlri,))[0][0]

    def _match(self, family: Family, nlri: Nlri) -> Kind | None:
        for length, values in self._lists[family]:
            if length <= nlri[0]:
                kind = values.get(_leading_bits(family, nlri, length))
                if kind is not None:
                    return kind
        return None

    def classify(
        self, family: Family, nlris: Sequence[Nlri]
    ) -> list[tuple[Kind | None, Sequence[Nlri]]]:
        """The block, parted by kind. A block of one kind, the rule, is handed back as it is."""
        size = self._head[family]
        heads = [nlri[:size] for nlri in nlris]
        kinds = {head: self._kind_of(family, head) for head in set(heads)}
        if len(set(kinds.values())) == 1:
            return [(kinds[heads[0]], nlris)]
        parts: dict[Kind | None, list[Nlri]] = {}
        for head, nlri in zip(heads, nlris, strict=True):
            parts.setdefault(kinds[head], []).append(nlri)
        return list(parts.items())

    def _kind_of(self, family: Family, head: bytes) -> Kind | None:
        known = self._known[family]
        if head not in known:
            if len(known) >= KINDS_KEPT:
                known.clear()
            known[head] = self._match(family, head)
        return known[head]


def kind(rules: Import, family: Family, nlri: Nlri) -> Kind | None:
    """What one prefix is under `rules`, for a single question; `ImportRule` answers many."""
    return ImportRule(rules).kind(family, nlri)


def _leading_bits(family: Family, nlri: Nlri, length: int) -> int:
    return int.from_bytes(nlri_address(family, nlri), "big") >> (family.bits - length)

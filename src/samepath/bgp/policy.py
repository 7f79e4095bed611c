"""What a neighbour may advertise to us, and why something of it is refused.

The RIB asks here for every block of prefixes that arrives. Two questions, both pure: is there
something in the attributes for which we refuse the path (`why_refused`: a loop, an AS_PATH that
cannot be, a next hop of our own), and what does a prefix mean to us (`ImportRule.kind`: services,
pods, routes, or nothing, and then it is refused)? A prefix that lies in several lists takes the
longest of them; of equal ones services come before pods before routes. Prefixes that no network
routes are refused, unless a list names them or a part of them; a default route must be one of
`routes`. What only one of several neighbours may have is `samepath.bgp.ownership`'s.

There is no policy language: no rewriting of attributes on the way in.

RFC 4271 §9.1.2 (own AS in AS_PATH), §6.3 (first AS, next hop), RFC 4456 §8 (ORIGINATOR_ID,
CLUSTER_LIST), RFC 6793 §9 and RFC 7300 (reserved AS numbers), RFC 6890 (prefixes). AS 0 and
confederation segments are malformed, and refused before (RFC 7607, RFC 5065 §5). RFC 7999 §3.3:
who does not discard traffic on a neighbour's word must not install what asks for it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from samepath.bgp.attributes import BLACKHOLE, PathAttributes
from samepath.model.neighbor import Import, Kind
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    address_text,
    host_nlri,
    nlri_address,
    parse_prefix,
    prefix_text,
)

PeerKey = Address
"""A peer is known by its address."""

AS_PATH_MOST = 100
"""AS numbers in a path; in the Internet the longest paths have some fifty."""

COMMUNITIES_MOST = 1_000
"""Of all kinds together; as many as a message of 4,096 octets holds."""

ITEMS_A_PREFIX = 100
"""A neighbour's attributes, of all its paths together, may have `max_prefixes` times so many items
(`items`): some 40 octets of memory each."""

RESERVED_AS = frozenset((0, 23456, 65535, 4294967295))
"""RFC 7607, RFC 6793 §9 (AS_TRANS), RFC 7300."""

MARTIANS = {
    Family.IPV4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    Family.IPV6: ("::/8", "fe80::/10", "ff00::/8"),
}
"""Not routed: this network, loopback, link-local, multicast, reserved. RFC 6890."""

KINDS_KEPT = 100_000
"""Heads of prefixes per rule and family whose kind is remembered; then the memory starts afresh."""


class Reason(enum.Enum):
    """Why a path is refused."""

    OWN_AS = "our own AS is in AS_PATH"
    OWN_ORIGINATOR = "we are its ORIGINATOR_ID"
    OWN_CLUSTER = "our cluster is in CLUSTER_LIST"
    FIRST_AS = "the first AS in AS_PATH is not the neighbour's"
    RESERVED_AS = "a reserved AS is in AS_PATH"
    LONG_AS_PATH = f"more than {AS_PATH_MOST} AS in AS_PATH"
    MANY_COMMUNITIES = f"more than {COMMUNITIES_MOST} communities"
    OWN_NEXT_HOP = "its next hop is an address of ours"
    NEXT_HOP_NOT_PEER = "its next hop is not the neighbour itself"
    NEXT_HOP_OF_ANOTHER = "its next hop is another neighbour's"
    NOT_ALLOWED = "in none of the neighbour's import lists"
    MARTIAN = "a prefix that is not routed, and in no import list by name"
    DEFAULT_ROUTE = "a default route must be in `routes`"
    OWN_ADDRESS = "it is an address of ours"
    BLOCK_OF_ANOTHER = "this pod block, or a part of it, is another neighbour's"
    BLACKHOLE = "it asks to discard traffic (BLACKHOLE)"
    TOO_MANY = "beyond max_prefixes"
    TOO_MANY_PATHS = "beyond max_paths"
    TOO_LARGE = "the neighbour's attributes take too much memory"


BY_LISTS = frozenset((Reason.NOT_ALLOWED, Reason.MARTIAN, Reason.DEFAULT_ROUTE))
"""What other lists may allow."""

Meaning = Kind | Reason
"""What a prefix is to us, or why it may not be advertised to us."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A path that was refused; shown in `status`."""

    peer: PeerKey
    family: Family
    nlri: Nlri
    reason: Reason
    path_id: int = 0

    @property
    def text(self) -> str:
        prefix = prefix_text(self.family, self.nlri)
        return f"{prefix} from {address_text(self.peer)}: {self.reason.value}"


@dataclass(frozen=True)
class Own:
    """Who we are, for the detection of loops."""

    asn: int | None
    """None: our own AS in a path is no loop, since we pass nothing on (a leaf of its AS)."""
    router_id: int
    cluster_id: int
    addresses: frozenset[Address] = frozenset()
    """Those that we speak BGP with or are next hops: nobody else's next hops, nor prefixes."""
    hosts: frozenset[Nlri] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", frozenset(map(host_nlri, self.addresses)))


def why_refused(
    attributes: PathAttributes, own: Own, external_as: int | None = None
) -> Reason | None:
    """Applies to all prefixes of an UPDATE alike. `external_as`: of the neighbour that told it, if
    it is external: the first of the path."""
    asns = attributes.as_path.asns
    if external_as is not None and external_as not in asns[:1]:
        return Reason.FIRST_AS
    if own.asn is not None and own.asn in asns:
        return Reason.OWN_AS
    if len(asns) > AS_PATH_MOST:
        return Reason.LONG_AS_PATH
    if not RESERVED_AS.isdisjoint(asns):
        return Reason.RESERVED_AS
    if attributes.originator_id == own.router_id:
        return Reason.OWN_ORIGINATOR
    if own.cluster_id in attributes.cluster_list:
        return Reason.OWN_CLUSTER
    if attributes.next_hop in own.addresses:
        return Reason.OWN_NEXT_HOP
    if _communities(attributes) > COMMUNITIES_MOST:
        return Reason.MANY_COMMUNITIES
    if attributes.has(BLACKHOLE):
        return Reason.BLACKHOLE
    return None


def _communities(a: PathAttributes) -> int:
    return len(a.communities) + len(a.extended_communities) + len(a.large_communities)


def items(attributes: PathAttributes) -> int:
    """How large attributes are: numbers, and every 32 octets of what we do not know."""
    unknown = sum(1 + len(u.value) // 32 for u in attributes.unknown)
    numbers = len(attributes.as_path.asns) + len(attributes.cluster_list)
    return 8 + numbers + unknown + _communities(attributes)


class ImportRule:
    """An `Import` made ready for matching. One is shared by all sessions of a neighbour entry."""

    def __init__(self, rules: Import) -> None:
        self.limits = rules
        self.max_prefixes = rules.max_prefixes
        self.max_paths = rules.max_paths
        self.max_items = rules.max_prefixes * ITEMS_A_PREFIX
        self.of_itself = rules.next_hop == "peer"
        """The neighbour speaks for itself alone."""
        lists: dict[Family, dict[int, dict[int, Meaning]]] = {f: {} for f in Family}
        by_kind: tuple[tuple[Meaning, Iterable[str]], ...] = (
            ("services", rules.services),
            ("pods", rules.pods),
            ("routes", rules.routes),
            *((Reason.MARTIAN, MARTIANS[f]) for f in Family),
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
        self._known: dict[Family, dict[bytes, Meaning]] = {f: {} for f in Family}

    def kind(self, family: Family, nlri: Nlri) -> Kind | None:
        """What the prefix is to us; None: it may not be advertised to us."""
        found = self.classify(family, (nlri,))[0][0]
        return None if isinstance(found, Reason) else found

    def _match(self, family: Family, nlri: Nlri) -> Meaning:
        for length, values in self._lists[family]:
            if length <= nlri[0]:
                kind = values.get(_leading_bits(family, nlri, length))
                if kind is not None:
                    return kind if nlri[0] or kind == "routes" else Reason.DEFAULT_ROUTE
        return Reason.NOT_ALLOWED

    @property
    def bounds(self) -> tuple[object, ...]:
        """All but the lists."""
        return self.max_prefixes, self.max_paths, self.of_itself

    def differs(self, other: ImportRule, family: Family) -> Callable[[Nlri], bool]:
        """Whether a prefix is something else by the other rule."""
        mine, size = self._head[family], other._head[family]

        def changed(nlri: Nlri) -> bool:
            return self._kind_of(family, nlri[:mine]) != other._kind_of(family, nlri[:size])

        return changed

    def classify(
        self, family: Family, nlris: Sequence[Nlri]
    ) -> list[tuple[Meaning, Sequence[Nlri]]]:
        """The block, parted by kind. A block of one kind, the rule, is handed back as it is."""
        size = self._head[family]
        heads = [nlri[:size] for nlri in nlris]
        kinds = {head: self._kind_of(family, head) for head in set(heads)}
        if len(set(kinds.values())) == 1:
            return [(kinds[heads[0]], nlris)]
        parts: dict[Meaning, list[Nlri]] = {}
        for head, nlri in zip(heads, nlris, strict=True):
            parts.setdefault(kinds[head], []).append(nlri)
        return list(parts.items())

    def _kind_of(self, family: Family, head: bytes) -> Meaning:
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

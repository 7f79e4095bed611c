"""Path attributes: what a route says about itself.

The vocabulary only; the octets are read in `samepath.bgp.attribute_decoder` and written in
`samepath.bgp.attribute_encoder`. Objects are frozen and shared: the decoder gives the very same
object to all routes whose attributes had the very same octets, so `is` is a quick first test.

Not kept: unknown attributes that are not transitive (RFC 4271 §5 has them dropped).

Standards: RFC 4271 §5 and §9.1.2.2, RFC 1997, RFC 4360, RFC 4456, RFC 5065, RFC 6793, RFC 8092.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from samepath.bgp.communities import (
    AS_TRANS,
    BLACKHOLE,
    GRACEFUL_SHUTDOWN,
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    NO_LLGR,
    LargeCommunity,
    community_text,
    extended_community_text,
    large_community_text,
    link_bandwidth,
    link_bandwidth_community,
    parse_community,
    parse_large_community,
)
from samepath.model.net import Address

__all__ = [
    "AS_TRANS",
    "BLACKHOLE",
    "GRACEFUL_SHUTDOWN",
    "LLGR_STALE",
    "NO_ADVERTISE",
    "NO_EXPORT",
    "NO_EXPORT_SUBCONFED",
    "NO_LLGR",
    "AsPath",
    "Attribute",
    "LargeCommunity",
    "Origin",
    "PathAttributes",
    "SegmentType",
    "UnknownAttribute",
    "community_text",
    "extended_community_text",
    "large_community_text",
    "link_bandwidth_community",
    "parse_community",
    "parse_large_community",
]


class Attribute(IntEnum):
    """Attribute type codes that we know."""

    ORIGIN = 1
    AS_PATH = 2
    NEXT_HOP = 3
    MULTI_EXIT_DISC = 4
    LOCAL_PREF = 5
    ATOMIC_AGGREGATE = 6
    AGGREGATOR = 7
    COMMUNITIES = 8
    ORIGINATOR_ID = 9
    CLUSTER_LIST = 10
    MP_REACH_NLRI = 14
    MP_UNREACH_NLRI = 15
    EXTENDED_COMMUNITIES = 16
    AS4_PATH = 17
    AS4_AGGREGATOR = 18
    LARGE_COMMUNITIES = 32


class Origin(IntEnum):
    """RFC 4271 §5.1.1; the lower is preferred."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class SegmentType(IntEnum):
    """RFC 4271 §4.3, RFC 5065 §3."""

    AS_SET = 1
    AS_SEQUENCE = 2
    AS_CONFED_SEQUENCE = 3
    AS_CONFED_SET = 4


Segment = tuple[int, tuple[int, ...]]

SEGMENT_ASNS = 255
"""Most AS numbers of a segment: its count is one octet."""


@dataclass(frozen=True, slots=True)
class AsPath:
    """The ASes that a route came through, nearest first. RFC 4271 §5.1.2."""

    segments: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, *asns: int) -> AsPath:
        """One AS_SEQUENCE, or the empty path."""
        return cls(((SegmentType.AS_SEQUENCE, asns),)) if asns else cls()

    @property
    def length(self) -> int:
        """As the decision counts: an AS_SET is 1, confederation segments are 0 (§9.1.2.2 a)."""
        return sum(segment_length(segment) for segment in self.segments)

    @property
    def asns(self) -> tuple[int, ...]:
        """All AS numbers, in order, those of sets included: to look for one's own."""
        return tuple(asn for _, asns in self.segments for asn in asns)

    def prepend(self, asn: int) -> AsPath:
        """The path as this AS sends it on. RFC 4271 §5.1.2."""
        if self.segments:
            kind, asns = self.segments[0]
            if kind == SegmentType.AS_SEQUENCE and len(asns) < SEGMENT_ASNS:
                return AsPath(((kind, (asn, *asns)), *self.segments[1:]))
        return AsPath(((SegmentType.AS_SEQUENCE, (asn,)), *self.segments))

    def merged(self, as4_path: AsPath) -> AsPath:
        """The leading part that only two-octet speakers added, then `as4_path`. RFC 6793 §4.2.3.

        An `as4_path` that is longer than this one is ignored.
        """
        ahead = self.length - as4_path.length
        if ahead < 0:
            return self
        segments: list[Segment] = []
        for kind, asns in self.segments:
            if ahead <= 0:
                break
            if kind == SegmentType.AS_SEQUENCE:
                asns = asns[:ahead]
            segments.append((kind, asns))
            ahead -= segment_length((kind, asns))
        tail = as4_path.segments
        if segments and tail and segments[-1][0] == tail[0][0] == SegmentType.AS_SEQUENCE:
            joined = segments[-1][1] + tail[0][1]
            if len(joined) <= SEGMENT_ASNS:
                segments[-1:] = [(SegmentType.AS_SEQUENCE, joined)]
                tail = tail[1:]
        return AsPath((*segments, *tail))

    def __str__(self) -> str:
        """`65001 65002 {65003,65004}`."""
        texts = []
        for kind, asns in self.segments:
            opening, between, closing = _BRACKETS[kind]
            texts.append(opening + between.join(str(asn) for asn in asns) + closing)
        return " ".join(texts)


_BRACKETS: dict[int, tuple[str, str, str]] = {
    SegmentType.AS_SET: ("{", ",", "}"),
    SegmentType.AS_SEQUENCE: ("", " ", ""),
    SegmentType.AS_CONFED_SEQUENCE: ("(", " ", ")"),
    SegmentType.AS_CONFED_SET: ("[", ",", "]"),
}


def segment_length(segment: Segment) -> int:
    kind, asns = segment
    if kind == SegmentType.AS_SEQUENCE:
        return len(asns)
    return 1 if kind == SegmentType.AS_SET else 0


@dataclass(frozen=True, slots=True)
class UnknownAttribute:
    """A transitive attribute that we do not know: passed on as it came, marked Partial.

    RFC 4271 §5.
    """

    code: int
    value: bytes


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """What is said of all prefixes of one reach. RFC 4271 §5.

    Communities are sets: they are kept sorted and without duplicates, whatever is passed in.
    Unknown attributes are kept in order of their code.
    """

    next_hop: Address
    """4 or 16 octets: of NEXT_HOP or of MP_REACH_NLRI, whichever carried the prefixes."""
    origin: Origin = Origin.IGP
    as_path: AsPath = AsPath()
    link_local_next_hop: Address | None = None
    """The second next hop of IPv6 on a shared link. RFC 2545 §3."""
    med: int | None = None
    local_pref: int | None = None
    """Only between internal peers; the decision takes None as 100."""
    atomic_aggregate: bool = False
    aggregator: tuple[int, Address] | None = None
    """AS number and IPv4 address."""
    communities: tuple[int, ...] = ()
    extended_communities: tuple[bytes, ...] = ()
    """8 octets each."""
    large_communities: tuple[LargeCommunity, ...] = ()
    originator_id: int | None = None
    cluster_list: tuple[int, ...] = ()
    unknown: tuple[UnknownAttribute, ...] = ()

    def __post_init__(self) -> None:
        for name in ("communities", "extended_communities", "large_communities"):
            values = getattr(self, name)
            if values:
                object.__setattr__(self, name, tuple(sorted(set(values))))
        if len(self.unknown) > 1:
            object.__setattr__(self, "unknown", tuple(sorted(self.unknown, key=lambda u: u.code)))

    def has(self, community: int) -> bool:
        return community in self.communities

    @property
    def link_bandwidth(self) -> float | None:
        """Bytes per second, of the first link bandwidth community."""
        for community in self.extended_communities:
            rate = link_bandwidth(community)
            if rate is not None:
                return rate
        return None

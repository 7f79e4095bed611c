"""Path attributes off the wire, with the revised error handling.

Called by `samepath.bgp.update` with the path attributes of an UPDATE, without the two multiprotocol
ones, which carry prefixes. What has been read is remembered by its octets: the same octets give the
very same `PathAttributes`.

What happens to a malformed attribute is a column of the table `_RULES`. Faults are values
(`Problem`); only what costs the session is raised. Limits: everything is bounded by the message's
length, the memory of past ones by `REMEMBERED_OCTETS`.

Standards: RFC 7606 (all of it), RFC 4271 §4.3 and §6.3, RFC 1997, RFC 4360, RFC 4456, RFC 4760,
RFC 5065 §5, RFC 6793 §4.2.3 and §6, RFC 7607 (AS 0), RFC 8092 §6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from samepath.bgp.attribute_framing import (
    OPTIONAL,
    TRANSITIVE,
    RawAttribute,
    attribute_name,
    split_attributes,
)
from samepath.bgp.attributes import (
    AS_TRANS,
    AsPath,
    Attribute,
    Origin,
    PathAttributes,
    Segment,
    SegmentType,
    UnknownAttribute,
)
from samepath.bgp.errors import Action, Code, PeerError, Problem, UpdateError
from samepath.model.net import Address, Family, address_text

REMEMBERED_OCTETS = 1 << 20
"""Wire octets of path attributes that are remembered: a few MB of memory."""

_BLOCK_OVERHEAD = 256
_NEXT_HOPS = 16
"""Multiprotocol next hops remembered with each block; a peer rarely has more than one."""


class ParsedAttributes:
    """One path attributes field without its multiprotocol attributes."""

    __slots__ = (
        "attributes",
        "mp_reaches",
        "next_hop_problem",
        "of_nlri",
        "plain",
        "problems",
    )

    def __init__(
        self,
        attributes: PathAttributes,
        problems: tuple[Problem, ...],
        of_nlri: tuple[Problem, ...],
        next_hop_problem: Problem | None,
    ) -> None:
        self.attributes = attributes
        """With the next hop of NEXT_HOP, or an empty one. Of no use where something is wrong."""
        self.problems = problems
        """Of what is there, for any UPDATE."""
        self.of_nlri = of_nlri
        """Of what is missing, for an UPDATE that reaches any prefix."""
        self.next_hop_problem = next_hop_problem
        """Of NEXT_HOP, for an UPDATE that has IPv4 NLRI."""
        faultless = not problems and not of_nlri and next_hop_problem is None
        self.plain = attributes if faultless else None
        """The attributes of IPv4 NLRI, if there is nothing to say about them."""
        self.mp_reaches: dict[bytes, tuple[Family, PathAttributes]] = {}
        """Families and attributes of past MP_REACH_NLRI with nothing to say about them.

        By the attribute's octets up to the prefixes. Empty if anything is wrong here.
        """

    def remember_mp_reach(self, head: bytes, family: Family, attributes: PathAttributes) -> None:
        if not self.problems and not self.of_nlri:
            if len(self.mp_reaches) >= _NEXT_HOPS:
                self.mp_reaches.clear()
            self.mp_reaches[head] = family, attributes


_Blocks = dict[bytes, ParsedAttributes]

REMEMBERED: tuple[tuple[_Blocks, _Blocks], tuple[_Blocks, _Blocks]] = (({}, {}), ({}, {}))
"""What past calls have read, by [four_octet_as][internal] and octets; to be read only."""

_remembered_octets = 0


def decode_attributes(block: bytes, four_octet_as: bool, internal: bool) -> ParsedAttributes:
    """Of a path attributes field without MP_REACH_NLRI and MP_UNREACH_NLRI.

    `four_octet_as`: the AS numbers on this session have four octets; `internal`: iBGP.
    Raises PeerError for an unknown attribute that claims to be well-known (RFC 4271 §6.3).
    """
    global _remembered_octets
    blocks = REMEMBERED[four_octet_as][internal]
    parsed = blocks.get(block)
    if parsed is None:
        parsed = _Draft(four_octet_as, internal).read(block)
        _remembered_octets += len(block) + _BLOCK_OVERHEAD
        if _remembered_octets > REMEMBERED_OCTETS:
            forget()
            _remembered_octets = len(block) + _BLOCK_OVERHEAD
        blocks[block] = parsed
    return parsed


def forget() -> None:
    """Empty the memory of past blocks."""
    global _remembered_octets
    for pair in REMEMBERED:
        for blocks in pair:
            blocks.clear()
    _remembered_octets = 0


# --- The values -------------------------------------------------------------------------------


class _Draft:
    """The attributes of one field while they are read."""

    def __init__(self, four_octet_as: bool, internal: bool) -> None:
        self.asn_octets = 4 if four_octet_as else 2
        self.internal = internal
        self.problems: list[Problem] = []
        self.seen: set[int] = set()
        self.origin: Origin | None = None
        self.as_path: AsPath | None = None
        self.next_hop: Address | None = None
        self.med: int | None = None
        self.local_pref: int | None = None
        self.atomic_aggregate = False
        self.aggregator: tuple[int, Address] | None = None
        self.communities: tuple[int, ...] = ()
        self.extended_communities: tuple[bytes, ...] = ()
        self.large_communities: tuple[tuple[int, int, int], ...] = ()
        self.originator_id: int | None = None
        self.cluster_list: tuple[int, ...] = ()
        self.as4_path: AsPath | None = None
        self.as4_aggregator: tuple[int, Address] | None = None
        self.unknown: list[UnknownAttribute] = []

    def read(self, block: bytes) -> ParsedAttributes:
        attributes, fault = split_attributes(block)
        for attribute in attributes:
            if attribute.code in self.seen:
                self._discard(attribute.code, "comes again", UpdateError.MALFORMED_ATTRIBUTE_LIST)
                continue
            self.seen.add(attribute.code)
            rule = _RULES.get(attribute.code)
            if rule is None:
                self._keep_unknown(attribute, block)
            else:
                self._read_known(attribute, rule)
        if fault:
            self.problems.append(
                Problem(
                    Action.TREAT_AS_WITHDRAW,
                    UpdateError.MALFORMED_ATTRIBUTE_LIST,
                    None,
                    fault,
                )
            )
        self._merge_as4()
        return self._finish()

    def _read_known(self, attribute: RawAttribute, rule: _Rule) -> None:
        code, flags = attribute.code, attribute.flags
        if rule.internal_only and not self.internal:
            self._discard(code, "from an external peer", UpdateError.OPTIONAL_ATTRIBUTE_ERROR)
        elif flags & (OPTIONAL | TRANSITIVE) != rule.flags:
            reason = f"{attribute_name(code)} has flags 0x{flags:02x}"
            subcode = UpdateError.ATTRIBUTE_FLAGS_ERROR
            self.problems.append(Problem(rule.action, subcode, code, reason))
        else:
            fault = rule.read(self, attribute.value)
            if fault:
                reason = f"{attribute_name(code)} {fault}"
                self.problems.append(Problem(rule.action, rule.subcode, code, reason))

    def _keep_unknown(self, attribute: RawAttribute, block: bytes) -> None:
        if not attribute.flags & OPTIONAL:
            raise PeerError(
                Code.UPDATE_MESSAGE,
                UpdateError.UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE,
                block[attribute.start : attribute.after],
                f"attribute {attribute.code} claims to be well-known",
            )
        if attribute.flags & TRANSITIVE:
            self.unknown.append(UnknownAttribute(attribute.code, attribute.value))

    def _discard(self, code: int, why: str, subcode: UpdateError) -> None:
        reason = f"{attribute_name(code)} {why}"
        self.problems.append(Problem(Action.ATTRIBUTE_DISCARD, subcode, code, reason))

    def _merge_as4(self) -> None:
        """AS4_PATH and AS4_AGGREGATOR of a two-octet peer. RFC 6793 §4.2.3."""
        if self.as4_aggregator is not None and self.aggregator is not None:
            if self.aggregator[0] != AS_TRANS:
                return
            self.aggregator = self.as4_aggregator
        if self.as4_path is not None and self.as_path is not None:
            self.as_path = self.as_path.merged(self.as4_path)

    def _finish(self) -> ParsedAttributes:
        missing = []
        for code, value in (
            (Attribute.ORIGIN, self.origin),
            (Attribute.AS_PATH, self.as_path),
            (Attribute.LOCAL_PREF, self.local_pref if self.internal else 0),
        ):
            if value is None and code not in self.seen:
                missing.append(missing_problem(code))
        attributes = PathAttributes(
            next_hop=self.next_hop or b"",
            origin=Origin.INCOMPLETE if self.origin is None else self.origin,
            as_path=self.as_path or AsPath(),
            med=self.med,
            local_pref=self.local_pref,
            atomic_aggregate=self.atomic_aggregate,
            aggregator=self.aggregator,
            communities=self.communities,
            extended_communities=self.extended_communities,
            large_communities=self.large_communities,
            originator_id=self.originator_id,
            cluster_list=self.cluster_list,
            unknown=tuple(self.unknown),
        )
        return ParsedAttributes(
            attributes, tuple(self.problems), tuple(missing), self._next_hop_problem()
        )

    def _next_hop_problem(self) -> Problem | None:
        code = Attribute.NEXT_HOP
        if self.next_hop is None:
            # A malformed one is a problem already.
            return None if code in self.seen else missing_problem(code)
        why = why_no_host(self.next_hop)
        subcode = UpdateError.INVALID_NEXT_HOP_ATTRIBUTE
        return Problem(Action.TREAT_AS_WITHDRAW, subcode, code, why) if why else None

    # Each reader sets its field and returns what is wrong, or "".

    def origin_(self, value: bytes) -> str:
        if len(value) != 1:
            return f"has {len(value)} octets"
        if value[0] > Origin.INCOMPLETE:
            return f"is {value[0]}"
        self.origin = Origin(value[0])
        return ""

    def as_path_(self, value: bytes) -> str:
        path, fault = _decode_path(value, self.asn_octets)
        if not fault and any(kind >= SegmentType.AS_CONFED_SEQUENCE for kind, _ in path.segments):
            fault = "has confederation segments, but this is no confederation"
        if not fault:
            self.as_path = path
        return fault

    def as4_path_(self, value: bytes) -> str:
        if self.asn_octets == 4:
            return "from a peer whose AS_PATH has four octets"
        path, fault = _decode_path(value, 4)
        if not fault and not path.segments:
            fault = "is empty"
        if not fault:
            # RFC 6793 §6: confederation segments are dropped, the rest is used.
            self.as4_path = AsPath(
                tuple(s for s in path.segments if s[0] <= SegmentType.AS_SEQUENCE)
            )
        return fault

    def next_hop_(self, value: bytes) -> str:
        if len(value) != 4:
            return f"has {len(value)} octets"
        self.next_hop = value
        return ""

    def med_(self, value: bytes) -> str:
        self.med, fault = _decode_number(value)
        return fault

    def local_pref_(self, value: bytes) -> str:
        self.local_pref, fault = _decode_number(value)
        return fault

    def atomic_aggregate_(self, value: bytes) -> str:
        if value:
            return f"has {len(value)} octets"
        self.atomic_aggregate = True
        return ""

    def aggregator_(self, value: bytes) -> str:
        self.aggregator, fault = _decode_aggregator(value, self.asn_octets)
        return fault

    def as4_aggregator_(self, value: bytes) -> str:
        if self.asn_octets == 4:
            return "from a peer whose AGGREGATOR has four octets"
        self.as4_aggregator, fault = _decode_aggregator(value, 4)
        return fault

    def communities_(self, value: bytes) -> str:
        if not value or len(value) % 4:
            return f"has {len(value)} octets"
        self.communities = struct.unpack(f"!{len(value) // 4}I", value)
        return ""

    def extended_communities_(self, value: bytes) -> str:
        if not value or len(value) % 8:
            return f"has {len(value)} octets"
        self.extended_communities = tuple(value[i : i + 8] for i in range(0, len(value), 8))
        return ""

    def large_communities_(self, value: bytes) -> str:
        if not value or len(value) % 12:
            return f"has {len(value)} octets"
        self.large_communities = tuple(struct.iter_unpack("!3I", value))
        return ""

    def originator_id_(self, value: bytes) -> str:
        self.originator_id, fault = _decode_number(value)
        return fault

    def cluster_list_(self, value: bytes) -> str:
        if not value or len(value) % 4:
            return f"has {len(value)} octets"
        self.cluster_list = struct.unpack(f"!{len(value) // 4}I", value)
        return ""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What we expect of an attribute, and what is done when it is otherwise. RFC 7606 §7."""

    flags: int
    action: Action
    subcode: UpdateError
    read: Callable[[_Draft, bytes], str]
    internal_only: bool = False
    """Discarded from external peers, whatever is in it. RFC 7606 §7.5, §7.9, §7.10."""


_WITHDRAW, _DISCARD = Action.TREAT_AS_WITHDRAW, Action.ATTRIBUTE_DISCARD
_LENGTH, _OPTIONAL = UpdateError.ATTRIBUTE_LENGTH_ERROR, UpdateError.OPTIONAL_ATTRIBUTE_ERROR
_WELL_KNOWN, _BOTH = TRANSITIVE, OPTIONAL | TRANSITIVE

_RULES: dict[int, _Rule] = {
    Attribute.ORIGIN: _Rule(
        _WELL_KNOWN, _WITHDRAW, UpdateError.INVALID_ORIGIN_ATTRIBUTE, _Draft.origin_
    ),
    Attribute.AS_PATH: _Rule(
        _WELL_KNOWN, _WITHDRAW, UpdateError.MALFORMED_AS_PATH, _Draft.as_path_
    ),
    Attribute.NEXT_HOP: _Rule(
        _WELL_KNOWN, _WITHDRAW, UpdateError.INVALID_NEXT_HOP_ATTRIBUTE, _Draft.next_hop_
    ),
    Attribute.MULTI_EXIT_DISC: _Rule(OPTIONAL, _WITHDRAW, _LENGTH, _Draft.med_),
    Attribute.LOCAL_PREF: _Rule(_WELL_KNOWN, _WITHDRAW, _LENGTH, _Draft.local_pref_, True),
    Attribute.ATOMIC_AGGREGATE: _Rule(_WELL_KNOWN, _DISCARD, _LENGTH, _Draft.atomic_aggregate_),
    Attribute.AGGREGATOR: _Rule(_BOTH, _DISCARD, _LENGTH, _Draft.aggregator_),
    Attribute.COMMUNITIES: _Rule(_BOTH, _WITHDRAW, _OPTIONAL, _Draft.communities_),
    Attribute.ORIGINATOR_ID: _Rule(OPTIONAL, _WITHDRAW, _LENGTH, _Draft.originator_id_, True),
    Attribute.CLUSTER_LIST: _Rule(OPTIONAL, _WITHDRAW, _LENGTH, _Draft.cluster_list_, True),
    Attribute.EXTENDED_COMMUNITIES: _Rule(
        _BOTH, _WITHDRAW, _OPTIONAL, _Draft.extended_communities_
    ),
    Attribute.AS4_PATH: _Rule(_BOTH, _DISCARD, _OPTIONAL, _Draft.as4_path_),
    Attribute.AS4_AGGREGATOR: _Rule(_BOTH, _DISCARD, _OPTIONAL, _Draft.as4_aggregator_),
    Attribute.LARGE_COMMUNITIES: _Rule(_BOTH, _WITHDRAW, _OPTIONAL, _Draft.large_communities_),
}


def why_no_host(address: Address) -> str:
    """Why no host can have this address, so that it is no next hop; "" if one can.

    RFC 4271 §6.3, RFC 6890 for the ranges.
    """
    if len(address) == 4:
        bad = address[0] in (0, 127) or address[0] >= 224
    else:
        bad = address[0] == 0xFF or (address[:15] == bytes(15) and address[15] <= 1)
    return f"next hop {address_text(address)} is no address of a host" if bad else ""


def missing_problem(code: int) -> Problem:
    """A mandatory attribute is not there. RFC 7606 §3 d."""
    subcode = UpdateError.MISSING_WELL_KNOWN_ATTRIBUTE
    return Problem(_WITHDRAW, subcode, code, f"{attribute_name(code)} is missing")


def _decode_number(value: bytes) -> tuple[int | None, str]:
    if len(value) != 4:
        return None, f"has {len(value)} octets"
    return int.from_bytes(value, "big"), ""


def _decode_path(value: bytes, asn_octets: int) -> tuple[AsPath, str]:
    """RFC 4271 §4.3; what is malformed: RFC 7606 §7.2, RFC 7607 §2."""
    segments: list[Segment] = []
    letter = "I" if asn_octets == 4 else "H"
    position, end = 0, len(value)
    while position < end:
        if end - position < 2:
            return AsPath(), "ends in the middle of a segment"
        kind, count = value[position], value[position + 1]
        after = position + 2 + count * asn_octets
        if not SegmentType.AS_SET <= kind <= SegmentType.AS_CONFED_SET:
            return AsPath(), f"has a segment of type {kind}"
        if count == 0:
            return AsPath(), "has a segment without AS numbers"
        if after > end:
            return AsPath(), "has a segment that is longer than the attribute"
        asns = struct.unpack_from(f"!{count}{letter}", value, position + 2)
        if 0 in asns:
            return AsPath(), "contains AS 0"
        segments.append((kind, asns))
        position = after
    return AsPath(tuple(segments)), ""


def _decode_aggregator(value: bytes, asn_octets: int) -> tuple[tuple[int, Address] | None, str]:
    if len(value) != asn_octets + 4:
        return None, f"has {len(value)} octets"
    asn = int.from_bytes(value[:asn_octets], "big")
    if asn == 0:
        return None, "is AS 0"
    return (asn, value[asn_octets:]), ""

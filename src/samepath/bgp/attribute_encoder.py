"""Path attributes onto the wire.

Called by `samepath.bgp.update`, once for all prefixes that share the attributes. They go
out in order of their type code (RFC 4271 §5); MP_REACH_NLRI and MP_UNREACH_NLRI, which the caller
makes, go before them (RFC 7606 §5.1). What only internal peers may see is kept from external ones.

Standards: RFC 4271 §4.3 and §5, RFC 4456 §8, RFC 6793 §4.2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from samepath.bgp.attribute_framing import EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE
from samepath.bgp.attributes import (
    AS_TRANS,
    SEGMENT_ASNS,
    AsPath,
    Attribute,
    PathAttributes,
    Segment,
)

_BOTH = OPTIONAL | TRANSITIVE

DEFAULT_LOCAL_PREF = 100


def encode_attribute(flags: int, code: int, value: bytes) -> bytes:
    """Header and value; the length has two octets only where it must.

    A value of more than 65,535 octets fits no message, which the caller sees by what comes out.
    """
    length = len(value)
    if length > 0xFF:
        return struct.pack("!BBH", flags | EXTENDED_LENGTH, code, length & 0xFFFF) + value
    return bytes((flags, code, length)) + value


def encode_attributes(
    attributes: PathAttributes, four_octet_as: bool, internal: bool, with_next_hop: bool
) -> bytes:
    """All but the multiprotocol ones. `with_next_hop`: NEXT_HOP, for IPv4 NLRI."""
    wide = four_octet_as
    out: list[tuple[int, int, bytes]] = [
        (TRANSITIVE, Attribute.ORIGIN, bytes((attributes.origin,))),
        (TRANSITIVE, Attribute.AS_PATH, _encode_path(attributes.as_path.segments, wide)),
    ]
    if with_next_hop:
        assert len(attributes.next_hop) == 4
        out.append((TRANSITIVE, Attribute.NEXT_HOP, attributes.next_hop))
    if attributes.med is not None:
        out.append((OPTIONAL, Attribute.MULTI_EXIT_DISC, attributes.med.to_bytes(4, "big")))
    if internal:
        preference = attributes.local_pref
        preference = DEFAULT_LOCAL_PREF if preference is None else preference
        out.append((TRANSITIVE, Attribute.LOCAL_PREF, preference.to_bytes(4, "big")))
    if attributes.atomic_aggregate:
        out.append((TRANSITIVE, Attribute.ATOMIC_AGGREGATE, b""))
    if attributes.aggregator is not None:
        asn, address = attributes.aggregator
        octets = _encode_asns((asn,), wide) + address
        out.append((_BOTH, Attribute.AGGREGATOR, octets))
    if attributes.communities:
        out.append((_BOTH, Attribute.COMMUNITIES, _words(attributes.communities)))
    if internal:
        out.extend(_reflection(attributes))
    if attributes.extended_communities:
        octets = b"".join(attributes.extended_communities)
        out.append((_BOTH, Attribute.EXTENDED_COMMUNITIES, octets))
    if not wide:
        out.extend(_as4(attributes))
    if attributes.large_communities:
        octets = b"".join(_words(community) for community in attributes.large_communities)
        out.append((_BOTH, Attribute.LARGE_COMMUNITIES, octets))
    out.extend((_BOTH | PARTIAL, unknown.code, unknown.value) for unknown in attributes.unknown)
    out.sort(key=lambda item: item[1])
    return b"".join([encode_attribute(*item) for item in out])


def _reflection(attributes: PathAttributes) -> Iterable[tuple[int, int, bytes]]:
    """RFC 4456 §8."""
    if attributes.originator_id is not None:
        yield OPTIONAL, Attribute.ORIGINATOR_ID, attributes.originator_id.to_bytes(4, "big")
    if attributes.cluster_list:
        yield OPTIONAL, Attribute.CLUSTER_LIST, _words(attributes.cluster_list)


def _as4(attributes: PathAttributes) -> Iterable[tuple[int, int, bytes]]:
    """What a two-octet peer carries on for others. RFC 6793 §4.2.2."""
    path: AsPath = attributes.as_path
    if any(asn > 0xFFFF for asn in path.asns):
        yield _BOTH, Attribute.AS4_PATH, _encode_path(path.segments, True)
    if attributes.aggregator is not None and attributes.aggregator[0] > 0xFFFF:
        asn, address = attributes.aggregator
        yield _BOTH, Attribute.AS4_AGGREGATOR, _encode_asns((asn,), True) + address


def _encode_path(segments: tuple[Segment, ...], wide: bool) -> bytes:
    parts = []
    for kind, asns in segments:
        assert 0 < len(asns) <= SEGMENT_ASNS
        parts.append(bytes((kind, len(asns))) + _encode_asns(asns, wide))
    return b"".join(parts)


def _encode_asns(asns: tuple[int, ...], wide: bool) -> bytes:
    if wide:
        return _words(asns)
    return struct.pack(f"!{len(asns)}H", *[a if a <= 0xFFFF else AS_TRANS for a in asns])


def _words(numbers: tuple[int, ...]) -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers)

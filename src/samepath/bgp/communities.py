"""Communities: the well-known numbers, and text in and out.

Used wherever people write or read communities: configuration, `status`, logs.

Standards: RFC 1997, RFC 7999 (BLACKHOLE), RFC 8326 (GRACEFUL_SHUTDOWN), RFC 9494 (LLGR_STALE,
NO_LLGR), RFC 8092 (large), RFC 4360 (extended), draft-ietf-idr-link-bandwidth (link bandwidth).
"""

from __future__ import annotations

import math
import struct

GRACEFUL_SHUTDOWN = 0xFFFF0000
LLGR_STALE = 0xFFFF0006
NO_LLGR = 0xFFFF0007
BLACKHOLE = 0xFFFF029A
NO_EXPORT = 0xFFFFFF01
NO_ADVERTISE = 0xFFFFFF02
NO_EXPORT_SUBCONFED = 0xFFFFFF03

SCOPE = frozenset((NO_EXPORT, NO_ADVERTISE, NO_EXPORT_SUBCONFED))
"""Who may have a path."""
LIFE = frozenset((LLGR_STALE, NO_LLGR))
"""Passed on with a path by everybody. RFC 9494 §4."""

AS_TRANS = 23456
"""Stands for an AS number that does not fit into two octets. RFC 6793 §9."""

LargeCommunity = tuple[int, int, int]

_NAMES = {
    GRACEFUL_SHUTDOWN: "graceful-shutdown",
    LLGR_STALE: "llgr-stale",
    NO_LLGR: "no-llgr",
    BLACKHOLE: "blackhole",
    NO_EXPORT: "no-export",
    NO_ADVERTISE: "no-advertise",
    NO_EXPORT_SUBCONFED: "no-export-subconfed",
}
_NUMBERS = {name: number for number, name in _NAMES.items()}

LINK_BANDWIDTH_TYPES = (0x40, 0x00)
"""Non-transitive, as the draft has it, and transitive, as several vendors send it."""
LINK_BANDWIDTH_SUBTYPE = 0x04


def community_text(community: int) -> str:
    """`65000:1`, or the name of a well-known one."""
    return _NAMES.get(community) or f"{community >> 16}:{community & 0xFFFF}"


def parse_community(text: str) -> int:
    """Of `65000:1` or a well-known name. Raises ValueError."""
    if text in _NUMBERS:
        return _NUMBERS[text]
    high, low = _numbers(text, 2, 0xFFFF)
    return high << 16 | low


def large_community_text(community: LargeCommunity) -> str:
    return "{}:{}:{}".format(*community)


def parse_large_community(text: str) -> LargeCommunity:
    """Of `65000:1:2`. Raises ValueError."""
    first, second, third = _numbers(text, 3, 0xFFFFFFFF)
    return first, second, third


def _numbers(text: str, count: int, most: int) -> list[int]:
    parts = text.split(":")
    if len(parts) != count or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError(f"{text!r} is not a community")
    numbers = [int(p) for p in parts]
    if max(numbers) > most:
        raise ValueError(f"{text!r} has a part greater than {most}")
    return numbers


def link_bandwidth_community(asn: int, bytes_per_s: float) -> bytes:
    """The extended community, non-transitive. An `asn` beyond two octets is AS_TRANS there."""
    asn = asn if asn <= 0xFFFF else AS_TRANS
    return struct.pack("!BBHf", LINK_BANDWIDTH_TYPES[0], LINK_BANDWIDTH_SUBTYPE, asn, bytes_per_s)


def link_bandwidth(community: bytes) -> float | None:
    """Bytes per second, or None if `community` is another one, or its number is no rate."""
    if community[1] != LINK_BANDWIDTH_SUBTYPE or community[0] not in LINK_BANDWIDTH_TYPES:
        return None
    (rate,) = struct.unpack_from("!f", community, 4)
    return float(rate) if math.isfinite(rate) and rate >= 0 else None


def extended_community_text(community: bytes) -> str:
    """`link-bandwidth:65000:125000`, `target:65000:1`, `origin:65000:1`, or the octets in hex."""
    rate = link_bandwidth(community)
    if rate is not None:
        return f"link-bandwidth:{int.from_bytes(community[2:4], 'big')}:{rate:.0f}"
    kind = {2: "target", 3: "origin"}.get(community[1])
    if kind is not None and community[0] == 0:
        asn, number = struct.unpack("!HI", community[2:])
        return f"{kind}:{asn}:{number}"
    return f"0x{community.hex()}"

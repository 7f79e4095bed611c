"""Capabilities: what each side says it can do, in its OPEN.

Called by `samepath.bgp.message` for the optional parameters of an OPEN. One parameter with all
capabilities is sent; any arrangement is understood. A capability that we do not know is kept in
`unknown` and changes nothing.

Not spoken: multiple labels, roles.

Standards: RFC 5492 (capabilities), RFC 9072 (more than 255 octets of them), RFC 4760 §8 (families),
RFC 2918 and RFC 7313 (route refresh), RFC 4724 and RFC 8538 (graceful restart), RFC 9494
(long-lived), RFC 6793 (4-octet AS), RFC 7911 (add-path), RFC 8950 (IPv6 next hops for IPv4),
RFC 8654 (extended message), draft-walton-bgp-hostname-capability (FQDN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from samepath.bgp.errors import UNSPECIFIC, Code, OpenError, PeerError
from samepath.model.net import Family

SAFI_UNICAST = 1

_FAMILIES = {(family.afi, SAFI_UNICAST): family for family in Family}

_PARAMETER_CAPABILITIES = 2
_PARAMETER_EXTENDED_LENGTH = 255

RESTART_TIME_S_MAX = 0xFFF
STALE_TIME_S_MAX = 0xFFFFFF
"""194 days. RFC 9494 §3."""


class CapabilityCode(IntEnum):
    MULTIPROTOCOL = 1
    ROUTE_REFRESH = 2
    EXTENDED_NEXT_HOP = 5
    EXTENDED_MESSAGE = 6
    GRACEFUL_RESTART = 64
    FOUR_OCTET_AS = 65
    ADD_PATH = 69
    ENHANCED_ROUTE_REFRESH = 70
    LONG_LIVED_GRACEFUL_RESTART = 71
    FQDN = 73


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """RFC 4724 §3, RFC 8538 §2."""

    restart_state: bool = False
    """R: the sender has just restarted, and does not wait for our End-of-RIB."""
    notification: bool = False
    """N: graceful restart also after a NOTIFICATION or an expired hold timer. RFC 8538."""
    restart_time_s: int = 0
    families: tuple[tuple[Family, bool], ...] = ()
    """Families whose forwarding state may be kept, and whether it has been kept (F)."""


@dataclass(frozen=True, slots=True)
class LongLived:
    """What is said of one family about long-lived graceful restart. RFC 9494 §3.1."""

    family: Family
    forwarding_preserved: bool
    stale_time_s: int


@dataclass(frozen=True, slots=True)
class AddPath:
    """Families of which the sender understands several paths a prefix, or sends them.

    RFC 7911 §4.
    """

    receive: frozenset[Family] = frozenset()
    send: frozenset[Family] = frozenset()


@dataclass(frozen=True, slots=True)
class Fqdn:
    hostname: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """RFC 5492. What is not said is not offered."""

    families: frozenset[Family] = frozenset({Family.IPV4})
    """An OPEN without any multiprotocol capability means IPv4 unicast (RFC 4760 §8)."""
    four_octet_as: int | None = None
    """The sender's AS number; None if it is a two-octet speaker."""
    route_refresh: bool = False
    enhanced_route_refresh: bool = False
    graceful_restart: GracefulRestart | None = None
    long_lived: tuple[LongLived, ...] = ()
    """Without `graceful_restart` it means nothing (RFC 9494 §3.1)."""
    add_path: AddPath = field(default_factory=AddPath)
    extended_next_hop: bool = False
    """IPv4 unicast with IPv6 next hops. RFC 8950."""
    extended_message: bool = False
    fqdn: Fqdn | None = None
    unknown: tuple[tuple[int, bytes], ...] = ()


def family_of_afi(afi: int, safi: int) -> Family | None:
    """The family of a pair of numbers; None if we do not speak it."""
    return _FAMILIES.get((afi, safi))


def encode_afi(family: Family) -> bytes:
    return family.afi.to_bytes(2, "big")


def encode_capabilities(capabilities: Capabilities) -> bytes:
    """The optional parameters of an OPEN, their length field(s) included."""
    parts = [_tlv(code, value) for code, value in _items(capabilities)]
    body = b"".join(parts)
    if not body:
        return b"\0"
    if len(body) <= 253:
        return bytes((len(body) + 2, _PARAMETER_CAPABILITIES, len(body))) + body
    # RFC 9072 §2: length 255 and type 255, then everything with lengths of two octets.
    parameter = bytes((_PARAMETER_CAPABILITIES,)) + len(body).to_bytes(2, "big") + body
    return bytes((255, _PARAMETER_EXTENDED_LENGTH)) + len(parameter).to_bytes(2, "big") + parameter


def _tlv(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def _items(capabilities: Capabilities) -> list[tuple[int, bytes]]:
    items: list[tuple[int, bytes]] = []
    for family in Family:
        if family in capabilities.families:
            items.append((CapabilityCode.MULTIPROTOCOL, encode_afi(family) + b"\0\x01"))
    if capabilities.route_refresh:
        items.append((CapabilityCode.ROUTE_REFRESH, b""))
    if capabilities.extended_next_hop:
        items.append((CapabilityCode.EXTENDED_NEXT_HOP, _IPV4_BY_IPV6))
    if capabilities.extended_message:
        items.append((CapabilityCode.EXTENDED_MESSAGE, b""))
    if capabilities.graceful_restart is not None:
        restart = capabilities.graceful_restart
        items.append((CapabilityCode.GRACEFUL_RESTART, _encode_restart(restart)))
    if capabilities.four_octet_as is not None:
        asn = capabilities.four_octet_as.to_bytes(4, "big")
        items.append((CapabilityCode.FOUR_OCTET_AS, asn))
    if capabilities.add_path != AddPath():
        items.append((CapabilityCode.ADD_PATH, _encode_add_path(capabilities.add_path)))
    if capabilities.enhanced_route_refresh:
        items.append((CapabilityCode.ENHANCED_ROUTE_REFRESH, b""))
    if capabilities.long_lived:
        octets = b"".join(map(_encode_long_lived, capabilities.long_lived))
        items.append((CapabilityCode.LONG_LIVED_GRACEFUL_RESTART, octets))
    if capabilities.fqdn is not None:
        items.append((CapabilityCode.FQDN, _encode_fqdn(capabilities.fqdn)))
    items.extend(capabilities.unknown)
    return items


def _encode_restart(restart: GracefulRestart) -> bytes:
    assert 0 <= restart.restart_time_s <= RESTART_TIME_S_MAX
    flags = restart.restart_state << 15 | restart.notification << 14
    octets = (flags | restart.restart_time_s).to_bytes(2, "big")
    for family, preserved in restart.families:
        octets += encode_afi(family) + bytes((SAFI_UNICAST, preserved << 7))
    return octets


def _encode_long_lived(said: LongLived) -> bytes:
    assert 0 <= said.stale_time_s <= STALE_TIME_S_MAX
    flags = bytes((SAFI_UNICAST, said.forwarding_preserved << 7))
    return encode_afi(said.family) + flags + said.stale_time_s.to_bytes(3, "big")


_RECEIVE, _SEND = 1, 2
"""RFC 7911 §4."""

_IPV4_BY_IPV6 = bytes((0, 1, 0, SAFI_UNICAST, 0, 2))
"""NLRI AFI and SAFI, next hop AFI. RFC 8950 §4."""


def _encode_add_path(add_path: AddPath) -> bytes:
    octets = b""
    for family in Family:
        direction = _RECEIVE * (family in add_path.receive) + _SEND * (family in add_path.send)
        if direction:
            octets += encode_afi(family) + bytes((SAFI_UNICAST, direction))
    return octets


def _encode_fqdn(fqdn: Fqdn) -> bytes:
    octets = b""
    for name in (fqdn.hostname, fqdn.domain):
        cut = _readable(name.encode("utf-8", "replace")).encode()
        octets += bytes((len(cut),)) + cut
    return octets


def _readable(octets: bytes) -> str:
    """At most 64 octets of a name, without those that are no UTF-8."""
    return octets[:64].decode("utf-8", "ignore")


def decode_capabilities(parameters: bytes) -> Capabilities:
    """Of the optional parameters of an OPEN, their length field(s) included.

    Raises PeerError: lengths that do not add up or a malformed capability (Unspecific, RFC 4271
    §6.2), an unknown parameter (Unsupported Optional Parameter).
    """
    builder = _Builder()
    for kind, value in _parameters(parameters):
        if kind != _PARAMETER_CAPABILITIES:
            raise PeerError(
                Code.OPEN_MESSAGE,
                OpenError.UNSUPPORTED_OPTIONAL_PARAMETER,
                message=f"optional parameter {kind} is not supported",
            )
        for code, content in _split_tlvs(value, 1, "capability"):
            builder.add(code, content)
    return builder.capabilities()


def _malformed(message: str) -> PeerError:
    return PeerError(Code.OPEN_MESSAGE, UNSPECIFIC, message=message)


def _parameters(data: bytes) -> list[tuple[int, bytes]]:
    if not data:
        raise _malformed("OPEN without the length of its optional parameters")
    if len(data) >= 4 and data[0] and data[1] == _PARAMETER_EXTENDED_LENGTH:
        # RFC 9072 §2: the first length need not be 255, the second octet decides.
        length, body, size = int.from_bytes(data[2:4], "big"), data[4:], 2
    else:
        length, body, size = data[0], data[1:], 1
    if length != len(body):
        raise _malformed(f"optional parameters of {length} octets in room for {len(body)}")
    return _split_tlvs(body, size, "optional parameter")


def _split_tlvs(data: bytes, size: int, what: str) -> list[tuple[int, bytes]]:
    """Type octet, length of `size` octets, value; again and again to the end."""
    items = []
    position, end = 0, len(data)
    while position < end:
        start = position + 1 + size
        after = start + int.from_bytes(data[position + 1 : start], "big")
        if after > end:
            raise _malformed(f"{what} {data[position]} is cut short")
        items.append((data[position], data[start:after]))
        position = after
    return items


class _Builder:
    """Collects capabilities in whatever order they come; the first of several wins."""

    def __init__(self) -> None:
        self.families: set[Family] = set()
        self.multiprotocol = False
        self.unknown: list[tuple[int, bytes]] = []
        self.values: dict[int, bytes] = {}

    def add(self, code: int, value: bytes) -> None:
        if code == CapabilityCode.MULTIPROTOCOL:
            _check(code, value, len(value) == 4)
            self.multiprotocol = True
            family = family_of_afi(int.from_bytes(value[:2], "big"), value[3])
            if family is None:
                self.unknown.append((code, value))
            else:
                self.families.add(family)
        elif code in _KNOWN:
            self.values.setdefault(code, value)
        else:
            self.unknown.append((code, value))

    def capabilities(self) -> Capabilities:
        values = self.values
        asn = values.get(CapabilityCode.FOUR_OCTET_AS)
        restart = values.get(CapabilityCode.GRACEFUL_RESTART)
        long_lived = values.get(CapabilityCode.LONG_LIVED_GRACEFUL_RESTART)
        fqdn = values.get(CapabilityCode.FQDN)
        return Capabilities(
            families=frozenset(self.families if self.multiprotocol else {Family.IPV4}),
            four_octet_as=None if asn is None else _decode_asn(asn),
            route_refresh=CapabilityCode.ROUTE_REFRESH in values,
            enhanced_route_refresh=CapabilityCode.ENHANCED_ROUTE_REFRESH in values,
            graceful_restart=None if restart is None else _decode_restart(restart),
            long_lived=() if long_lived is None else _decode_long_lived(long_lived),
            add_path=_decode_add_path(values.get(CapabilityCode.ADD_PATH, b"")),
            extended_next_hop=_decode_next_hops(values.get(CapabilityCode.EXTENDED_NEXT_HOP, b"")),
            extended_message=CapabilityCode.EXTENDED_MESSAGE in values,
            fqdn=None if fqdn is None else _decode_fqdn(fqdn),
            unknown=tuple(self.unknown),
        )


_KNOWN = frozenset(CapabilityCode)


def _check(code: int, value: bytes, good: bool) -> None:
    if not good:
        name = CapabilityCode(code).name.lower()
        raise _malformed(f"capability {name} has a wrong length of {len(value)}")


def _decode_asn(value: bytes) -> int:
    _check(CapabilityCode.FOUR_OCTET_AS, value, len(value) == 4)
    return int.from_bytes(value, "big")


def _decode_restart(value: bytes) -> GracefulRestart:
    _check(CapabilityCode.GRACEFUL_RESTART, value, len(value) >= 2 and len(value) % 4 == 2)
    head = int.from_bytes(value[:2], "big")
    families = []
    for i in range(2, len(value), 4):
        family = family_of_afi(int.from_bytes(value[i : i + 2], "big"), value[i + 2])
        if family is not None:
            families.append((family, bool(value[i + 3] & 0x80)))
    return GracefulRestart(
        restart_state=bool(head & 0x8000),
        notification=bool(head & 0x4000),
        restart_time_s=head & RESTART_TIME_S_MAX,
        families=tuple(families),
    )


def _decode_long_lived(value: bytes) -> tuple[LongLived, ...]:
    _check(CapabilityCode.LONG_LIVED_GRACEFUL_RESTART, value, len(value) % 7 == 0)
    said = []
    for i in range(0, len(value), 7):
        family = family_of_afi(int.from_bytes(value[i : i + 2], "big"), value[i + 2])
        if family is not None:
            stale_time_s = int.from_bytes(value[i + 4 : i + 7], "big")
            said.append(LongLived(family, bool(value[i + 3] & 0x80), stale_time_s))
    return tuple(said)


def _decode_add_path(value: bytes) -> AddPath:
    """A direction that does not exist is no direction (RFC 7911 §4). The last of several counts."""
    _check(CapabilityCode.ADD_PATH, value, len(value) % 4 == 0)
    directions: dict[Family, int] = {}
    for i in range(0, len(value), 4):
        family = family_of_afi(int.from_bytes(value[i : i + 2], "big"), value[i + 2])
        if family is not None and value[i + 3] <= _RECEIVE | _SEND:
            directions[family] = value[i + 3]
    return AddPath(
        receive=frozenset(f for f, direction in directions.items() if direction & _RECEIVE),
        send=frozenset(f for f, direction in directions.items() if direction & _SEND),
    )


def _decode_next_hops(value: bytes) -> bool:
    _check(CapabilityCode.EXTENDED_NEXT_HOP, value, len(value) % 6 == 0)
    return any(value[i : i + 6] == _IPV4_BY_IPV6 for i in range(0, len(value), 6))


def _decode_fqdn(value: bytes) -> Fqdn | None:
    """Only for display: what cannot be read is left out, no reason to refuse a session."""
    if not value or len(value) < 1 + value[0]:
        return None
    hostname = value[1 : 1 + value[0]]
    rest = value[1 + value[0] :]
    domain = rest[1 : 1 + rest[0]] if rest else b""
    return Fqdn(_readable(hostname), _readable(domain))

"""The wire format of netlink: messages in a datagram, attributes in a message.

Pure: octets in, octets out. `encode` and `decode` stand on it. Every loop here advances by at least
one header or stops, so that no octets whatever can make it run for ever; what is cut short or
malformed ends the walk with `Malformed`. Numbers are in the host's order, addresses in the
network's; a message and an attribute are padded to 4 octets.

Standards: RFC 3549; <linux/netlink.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
HEADER_SIZE = HEADER.size
_ATTRIBUTE = struct.Struct("=HH")
_U8 = struct.Struct("=HHB3x")
_U16 = struct.Struct("=HHH2x")
_U32 = struct.Struct("=HHI")
U16 = struct.Struct("=H")
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
S32 = struct.Struct("=i")

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

Attributes = dict[int, memoryview]
"""Payloads by type; of a type that stands twice the last one counts, as in the kernel."""


class Malformed(ValueError):
    """Octets that are no netlink."""


def message(type_: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message; `body` is already a multiple of 4 octets."""
    return HEADER.pack(HEADER_SIZE + len(body), type_, flags, sequence, 0) + body


def attribute(type_: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    if length > 0xFFFF:
        raise ValueError(f"attribute {type_}: {len(payload)} octets, at most 65531")
    return _ATTRIBUTE.pack(length, type_) + payload + bytes(-length % 4)


def attribute_u8(type_: int, value: int) -> bytes:
    return _U8.pack(5, type_, value)


def attribute_u16(type_: int, value: int) -> bytes:
    return _U16.pack(6, type_, value)


def attribute_u32(type_: int, value: int) -> bytes:
    return _U32.pack(8, type_, value)


def nested(type_: int, *attributes: bytes) -> bytes:
    return attribute(type_ | NLA_F_NESTED, b"".join(attributes))


def messages(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence, body) of each message of a datagram. Raises Malformed."""
    at, end = 0, len(data)
    while at < end:
        if end - at < HEADER_SIZE:
            raise Malformed(f"{end - at} octets after the last message")
        length, type_, flags, sequence, _ = HEADER.unpack_from(data, at)
        if not HEADER_SIZE <= length <= end - at:
            raise Malformed(f"message of {length} octets in {end - at}")
        yield type_, flags, sequence, data[at + HEADER_SIZE : at + length]
        at += length + 3 & ~3


def attributes(data: memoryview, at: int = 0) -> Attributes:
    """The attributes from offset `at` on. Raises Malformed."""
    found: Attributes = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while end - at >= 4:
        length, type_ = unpack(data, at)
        if not 4 <= length <= end - at:
            raise Malformed(f"attribute of {length} octets in {end - at}")
        found[type_ & NLA_TYPE_MASK] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def u8(payload: memoryview | None, default: int = 0) -> int:
    return payload[0] if payload else default


def u16(payload: memoryview | None, default: int = 0) -> int:
    return _read(U16, payload, default)


def u32(payload: memoryview | None, default: int = 0) -> int:
    return _read(U32, payload, default)


def u64(payload: memoryview | None, default: int = 0) -> int:
    return _read(U64, payload, default)


def text(payload: memoryview | None) -> str:
    """A zero-terminated string."""
    if payload is None:
        return ""
    return bytes(payload).split(b"\0", 1)[0].decode("utf-8", "replace")


def _read(form: struct.Struct, payload: memoryview | None, default: int) -> int:
    if payload is None:
        return default
    if len(payload) < form.size:
        raise Malformed(f"{len(payload)} octets where {form.size} belong")
    value: int = form.unpack_from(payload)[0]
    return value

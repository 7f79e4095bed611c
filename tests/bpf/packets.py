"""Frames, octet by octet, and what a router may change of one."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from samepath.hashing.flow import Flow

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
SYN, ACK, RST, FIN, PSH = 2, 16, 4, 1, 8
OWN_MAC = bytes(6)
"""The loopback's, for whom PROG_TEST_RUN takes a frame."""
GATEWAY_MAC = bytes.fromhex("02aa00000001")
CLIENT_MAC = bytes.fromhex("02cc00000001")


def checksum(octets: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(
    packet: bytes, tags: tuple[tuple[int, int], ...] = (), mac: bytes = OWN_MAC, kind: int = 0
) -> bytes:
    """`tags`: (TPID, TCI), the outermost first."""
    kind = kind or (0x0800 if packet[:1] and packet[0] >> 4 == 4 else 0x86DD)
    middle = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return mac + CLIENT_MAC + middle + struct.pack("!H", kind) + packet


def ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    options: bytes = b"",
    fragment: int = 0,
    length: int | None = None,
    version_ihl: int | None = None,
) -> bytes:
    header_words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | header_words if version_ihl is None else version_ihl,
        0, 4 * header_words + len(payload) if length is None else length, 0x1234, fragment, ttl,
        protocol, 0, source, destination,
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(
    source: bytes, destination: bytes, next_: int, payload: bytes, *, hops: int = 64,
    extensions: tuple[tuple[int, bytes], ...] = (), length: int | None = None,
) -> bytes:  # fmt: skip
    """`extensions`: (header's number, its octets after the first, which names the next)."""
    chain = b""
    numbers = [number for number, _ in extensions] + [next_]
    for (_, octets), following in zip(extensions, numbers[1:], strict=True):
        chain += bytes((following,)) + octets
    body = chain + payload
    return struct.pack("!IHBB16s16s", 6 << 28, len(body) if length is None else length, numbers[0],
                       hops, source, destination) + body  # fmt: skip


def ip(source: bytes, destination: bytes, protocol: int, payload: bytes, ttl: int = 64) -> bytes:
    if len(source) == 4:
        return ipv4(source, destination, protocol, payload, ttl=ttl)
    return ipv6(source, destination, protocol, payload, hops=ttl)


def tcp(source: int, destination: int, flags: int = ACK, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 2, 0x50, flags, 512, 0, 0) + payload


def udp(source: int, destination: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def quic(version: int = 1, type_: int = 0, size: int = 1200, first: int = 0xC0) -> bytes:
    """The beginning of a long header, padded."""
    head = struct.pack("!BI", first | type_ << 4, version)
    return head.ljust(size - 8, b"\0")


def icmp_error(inner: bytes, family: int, type_: int | None = None) -> bytes:
    default = 3 if family == 4 else 2
    return struct.pack("!BBHI", default if type_ is None else type_, 0, 0, 1280) + inner


def packet_of(flow: Flow, flags: int = ACK, ttl: int = 64) -> bytes:
    """A packet of `flow`."""
    if flow.protocol == TCP:
        payload = tcp(flow.source_port, flow.destination_port, flags)
    else:
        payload = struct.pack("!HH", flow.source_port, flow.destination_port) + bytes(20)
        if flow.protocol == UDP:
            payload = udp(flow.source_port, flow.destination_port, bytes(8))
    return ip(flow.source, flow.destination, flow.protocol, payload, ttl)


def forwarded(frame: bytes, hop_mac: bytes) -> bytes:
    """What a router makes of an untagged frame: other MACs, one hop less, nothing else."""
    packet = bytearray(frame[14:])
    if packet[0] >> 4 == 4:
        packet[8] -= 1
        header = 4 * (packet[0] & 15)
        packet[10:12] = b"\0\0"
        packet[10:12] = struct.pack("!H", checksum(bytes(packet[:header])))
    else:
        packet[7] -= 1
    return hop_mac + GATEWAY_MAC + frame[12:14] + bytes(packet)


@dataclass(frozen=True, slots=True)
class SkBuff:
    """The part of `struct __sk_buff` that PROG_TEST_RUN takes."""

    gso_size: int = 0

    def __bytes__(self) -> bytes:
        context = bytearray(192)
        struct.pack_into("=I", context, 164, 2 if self.gso_size else 0)
        struct.pack_into("=I", context, 176, self.gso_size)
        return bytes(context)

"""The TCP sockets of sessions, as the kernel is to treat them.

Made here for `samepath.bgp.transport` and `samepath.bgp.listeners`: how far packets go and from how
far they may come (`Distance`), how much the kernel may keep for a neighbour that does not read or
writes faster than we read, and what a SYN's TTL was, so that a connection from too far away is
turned away before a word is said.

RFC 5082 (GTSM), RFC 4271 §5.1.3 and common use (TTL 1 to external neighbours), RFC 9687 (by
TCP_USER_TIMEOUT, for what the kernel has taken already); Linux ip(7), ipv6(7), tcp(7).
"""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
from dataclasses import dataclass

from samepath.bgp.tcp_md5 import Password, set_key
from samepath.model.neighbor import Neighbor
from samepath.model.net import Address, Family, address_text, family_of, parse_address

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_IP_MINTTL = 21
_IPV6_MINHOPCOUNT = 73
_TCP_SAVE_SYN = 27
_TCP_SAVED_SYN = 28
"""Linux."""

BUFFER_OCTETS = 262_144
"""Of the kernel, a socket and direction; it keeps books on twice as much."""
SEND_HOLD_S = 480.0
"""A neighbour that reads nothing for so long is lost. RFC 9687 §3."""
BACKLOG = 1_024
"""Connections that wait to be accepted, a listening socket."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far away a neighbour may be."""

    ttl: int
    """Of packets that we send."""
    least_ttl: int = 0
    """Of packets that we take."""


def distance(neighbor: Neighbor, local_as: int) -> Distance:
    if neighbor.ttl_security:
        return Distance(255, 256 - int(neighbor.ttl_security))
    if neighbor.remote_as in ("internal", local_as):
        return Distance(64)
    return Distance(neighbor.ebgp_multihop)


def make_room() -> None:
    """As many sockets as the system lets us have: a thousand neighbours are more than the soft
    limit of most systems, which is for those who use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listening_socket(text: str, port: int) -> socket.socket:
    """Its SYN-ACKs leave with TTL 255: neighbours with GTSM take no others. Raises OSError."""
    address = parse_address(text)
    sock = _socket(address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(address) == 16:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)
        keep_distance(sock, Distance(255))
        sock.bind((text, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def connecting_socket(
    address: Address, local_address: str | None, far: Distance, key: Password | None
) -> socket.socket:
    """Ready to connect to `address`. Raises OSError."""
    sock = _socket(address)
    try:
        keep_distance(sock, far)
        if key is not None:
            set_key(sock, address, 8 * len(address), key)
        if local_address is not None:
            sock.bind((local_address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def keep_distance(sock: socket.socket, far: Distance) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, far.ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, far.least_ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, far.ttl)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, far.least_ttl)


def ttl_of_syn(sock: socket.socket) -> int | None:
    """Of an accepted connection's first packet; to be asked once. None: the kernel does not tell.

    The packet begins with its IP header."""
    try:
        packet = sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, 256)
    except OSError:
        return None
    at = 7 if sock.family == socket.AF_INET6 else 8
    return packet[at] if len(packet) > at else None


def turn_away(sock: socket.socket) -> None:
    """With a reset, and without anything that stays behind in the kernel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def destination(address: Address, port: int) -> tuple[str, int]:
    return address_text(address), port


def _socket(address: Address) -> socket.socket:
    is_v6 = family_of(address) is Family.IPV6
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_OCTETS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_HOLD_S * 1000))
    return sock

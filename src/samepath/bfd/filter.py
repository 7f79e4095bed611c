"""What the kernel keeps from us: a socket filter that lets only our peers' packets through.

Attached by `samepath.bfd.sockets` to the sockets that receive. A packet from further away than our
peers are, from nobody who is a peer, or that names a session which is not ours, then costs no
wake-up and no room in the socket's buffer: neither strangers nor noise in a peer's name crowd out
what the peers say. It is no judge: all is checked again by `samepath.bfd.system`. Of an IPv6 source
only the last four octets are looked at here, and a session that is named may be another peer's.

What names no session is let through, whatever else it is: so a peer begins, and so it says Down.
Whoever can send that in a peer's name ends the session with one packet (RFC 5881 §9), and has no
need of many. Too short a packet is let through, too, and counted: it is a peer's fault, if any.

Classic BPF, as in Linux's `Documentation/networking/filter.rst`; RFC 5880 §6.8.6, RFC 5881 §5,
RFC 5082.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

MOST = 1000
"""With more peers every source is let through, with more sessions every discriminator is: a filter
has at most 4,096 instructions."""

_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on are into the IP header; others are from the UDP header on."""
_TTL = {4: 8, 6: 7}
_SOURCE_END = {4: 12, 6: 20}
"""The last four octets of the source address."""
_YOUR_DISCRIMINATOR = 8 + 8
_WHOLE = 8 + 24
"""The UDP header and a BFD Control packet."""
_LOAD_WORD, _LOAD_OCTET, _LOAD_LENGTH = 0x20, 0x30, 0x80
_IF_EQUAL, _IF_AT_LEAST, _JUMP, _RETURN = 0x15, 0x35, 0x05, 0x06
_ALL = 0xFFFFFFFF


def peers_only(
    version: int,
    minimum_ttl: int,
    peers: Collection[bytes],
    discriminators: Collection[int],
    most: int = MOST,
) -> bytes:
    """The program, as an array of `struct sock_filter`. `version` is 4 or 6, peers are packed, the
    discriminators are those of all our sessions that may be heard here."""
    program = [
        _instruction(_LOAD_OCTET, _NETWORK_HEADER + _TTL[version]),
        _instruction(_IF_AT_LEAST, minimum_ttl, yes=1),
        _instruction(_RETURN, 0),
    ]
    words = {int.from_bytes(peer[-4:], "big") for peer in peers}
    if len(words) <= most:
        program.append(_instruction(_LOAD_WORD, _NETWORK_HEADER + _SOURCE_END[version]))
        program += _one_of(words)
    if len(discriminators) <= most:
        program += [
            _instruction(_LOAD_LENGTH, 0),
            _instruction(_IF_AT_LEAST, _WHOLE, yes=1),
            _instruction(_RETURN, _ALL),
            _instruction(_LOAD_WORD, _YOUR_DISCRIMINATOR),
        ]
        program += _one_of({0, *discriminators})
    return b"".join((*program, _instruction(_RETURN, _ALL)))


def _one_of(words: Collection[int]) -> list[bytes]:
    """Goes on behind it if the word loaded last is one of these, else drops the packet."""
    found: list[bytes] = []
    for at, word in enumerate(sorted(words)):
        found.append(_instruction(_IF_EQUAL, word, no=1))
        found.append(_instruction(_JUMP, 2 * (len(words) - at) - 1))
    return [*found, _instruction(_RETURN, 0)]


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)

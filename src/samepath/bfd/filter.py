"""What the kernel keeps from us: a socket filter that lets only our peers' packets through.

Attached by `samepath.bfd.sockets` to the sockets that receive. A packet from further away than our
peers are, or from nobody who is a peer, then costs no wake-up and no room in the socket's buffer,
so strangers cannot crowd out the peers' packets. It is no judge: all is checked again by
`samepath.bfd.system`, and of an IPv6 source only the last four octets are looked at here.

Classic BPF, as in Linux's `Documentation/networking/filter.rst`; RFC 5881 §5, RFC 5082.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

MOST_PEERS = 2000
"""With more, every source is let through: a filter has at most 4,096 instructions."""

_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on are into the IP header."""
_TTL = {4: 8, 6: 7}
_SOURCE_END = {4: 12, 6: 20}
"""The last four octets of the source address."""
_LOAD_WORD, _LOAD_OCTET, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x30, 0x15, 0x35, 0x06
_ALL = 0xFFFFFFFF


def peers_only(version: int, minimum_ttl: int, peers: Iterable[bytes]) -> bytes:
    """The program, as an array of `struct sock_filter`: `version` is 4 or 6, peers are packed."""
    program = [
        _instruction(_LOAD_OCTET, _NETWORK_HEADER + _TTL[version]),
        _instruction(_IF_AT_LEAST, minimum_ttl, yes=1),
        _instruction(_RETURN, 0),
    ]
    words = sorted({int.from_bytes(peer[-4:], "big") for peer in peers})
    if len(words) > MOST_PEERS:
        return b"".join((*program, _instruction(_RETURN, _ALL)))
    program.append(_instruction(_LOAD_WORD, _NETWORK_HEADER + _SOURCE_END[version]))
    for word in words:
        program.append(_instruction(_IF_EQUAL, word, no=1))
        program.append(_instruction(_RETURN, _ALL))
    return b"".join((*program, _instruction(_RETURN, 0)))


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)

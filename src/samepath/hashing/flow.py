"""Which bucket the Linux kernel picks for a flow: its multipath hash, exactly.

For `net.ipv4.fib_multipath_hash_policy=3` (and IPv6's) with hash fields `FIELDS`, and
`net.ipv4.fib_multipath_hash_seed` set to a non-zero value, which also serves IPv6 (Linux 6.11).
The hash of a forwarded packet (`packet_hash`) takes one step more than that of a host's own socket
(`local_hash`). `ip route get` answers with the one for IPv4 and with the other for IPv6
(`lookup_hash`): for IPv6 it does not say where a packet goes. `bucket` does.

Called by `samepath trace`, by the gateway at its start (`probes`: the kernel promises no stability
of this hash) and, for arrays of flows, by the simulator and the lab (`packet_hashes`). The tests
ask the running kernel, with lookups and with forwarded packets. docs/hashing.md has the layout.

Not done here: fragments and packets in tunnels (the kernel hashes the outer addresses alone), IPv6
extension headers, other hash fields, and big-endian machines, which sort addresses the other way.

- Linux net/ipv4/route.c `fib_multipath_custom_hash_skb`, net/core/flow_dissector.c
  `__flow_hash_consistentify`, include/net/ip_fib.h `fib_multipath_hash_from_keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samepath.hashing.siphash import jhash_2words, siphash24
from samepath.model.net import Address, Family

POLICY = 3
FIELDS = 0x37
"""Source and destination address, protocol, source and destination port."""

_M32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Flow:
    """A 5-tuple. Protocols without ports have 0 for both."""

    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int

    def __post_init__(self) -> None:
        if len(self.source) != len(self.destination) or len(self.source) not in (4, 16):
            raise ValueError("source and destination: two addresses of one family")
        if not 0 <= self.protocol <= 0xFF:
            raise ValueError(f"protocol: 0 to 255, not {self.protocol}")
        for port in (self.source_port, self.destination_port):
            if not 0 <= port <= 0xFFFF:
                raise ValueError(f"port: 0 to 65535, not {port}")


def packet_hash(flow: Flow, seed: int) -> int:
    """The 31-bit multipath hash of a forwarded packet of `flow`."""
    return int(jhash_2words(_flow_hash(flow, seed), 0, 0)) >> 1


def lookup_hash(flow: Flow, seed: int) -> int:
    """The 31-bit multipath hash of `ip route get` (RTM_GETROUTE with protocol and ports).

    IPv4 makes up a packet for the question, so this is `packet_hash`; IPv6 makes none.
    """
    return packet_hash(flow, seed) if len(flow.source) == 4 else local_hash(flow, seed)


def local_hash(flow: Flow, seed: int) -> int:
    """The 31-bit multipath hash of a host's own sockets, which look up without a packet."""
    return _flow_hash(flow, seed) >> 1


def bucket(flow: Flow, seed: int, buckets: int) -> int:
    """The bucket of a resilient group that takes a forwarded packet of `flow`."""
    return packet_hash(flow, seed) % buckets


def buckets_of(flows: Sequence[Flow], seed: int, buckets: int) -> NDArray[np.int64]:
    """`bucket` of many flows, of either family, in their order."""
    result = np.empty(len(flows), np.int64)
    for family in Family:
        at = [i for i, flow in enumerate(flows) if len(flow.source) == family.octets]
        if not at:
            continue
        some = [flows[i] for i in at]
        hashes = packet_hashes(
            _packed([flow.source for flow in some], family),
            _packed([flow.destination for flow in some], family),
            np.array([flow.protocol for flow in some]),
            np.array([flow.source_port for flow in some]),
            np.array([flow.destination_port for flow in some]),
            seed,
        )
        result[at] = hashes % buckets
    return result


def packet_hashes(
    sources: NDArray[np.uint8],
    destinations: NDArray[np.uint8],
    protocols: NDArray[np.integer],
    source_ports: NDArray[np.integer],
    destination_ports: NDArray[np.integer],
    seed: int,
) -> NDArray[np.int64]:
    """`packet_hash` of arrays: addresses of shape (n, 4) or (n, 16), the others (n,) or scalars."""
    words = _words_of(sources, destinations, protocols, source_ports, destination_ports)
    hashes = siphash24(np.ascontiguousarray(words.T), _key(seed)) & _M32
    hashes[hashes == 0] = 1
    packet: NDArray[np.int64] = (jhash_2words(hashes, 0, 0) >> 1).astype(np.int64)
    return packet


def probes(
    seed: int, source: Address, destination: Address, count: int = 8
) -> tuple[tuple[Flow, int], ...]:
    """A few flows with their `lookup_hash`, to ask the running kernel for.

    `source` must be an address of the asking host, or the kernel refuses the question;
    `destination` one that it routes through the group in question.
    """
    flows = [Flow(source, destination, 6 if i % 2 else 17, 40000 + i, 80) for i in range(count)]
    return tuple((flow, lookup_hash(flow, seed)) for flow in flows)


def _flow_hash(flow: Flow, seed: int) -> int:
    """`flow_hash_from_keys_seed`: 32 bits, never 0."""
    octets = _flow_keys(flow)
    words = [int.from_bytes(octets[i : i + 8], "little") for i in range(0, len(octets), 8)]
    return (int(siphash24(words, _key(seed))) & _M32) or 1


def _flow_keys(flow: Flow) -> bytes:
    """`struct flow_keys` from its member `basic` on, as it lies in memory; the parts that are not
    among the hash fields are zero. 48 octets for IPv4, 72 for IPv6."""
    # Both directions of a flow are to look alike: the kernel sorts addresses and ports, each pair
    # for itself, by what a little-endian machine reads (IPv6: by octets).
    if len(flow.source) == 4:
        first, second = sorted((flow.source, flow.destination), key=lambda a: a[::-1])
    else:
        first, second = sorted((flow.source, flow.destination))
    ports = sorted(
        (flow.source_port.to_bytes(2, "big"), flow.destination_port.to_bytes(2, "big")),
        key=lambda port: port[::-1],
    )
    # n_proto 2 | ip_proto 1 | pad 1 | flow label 4 | vlan 8 | cvlan 8 | keyid 4 | ports | icmp 4
    basic = bytes((0, 0, flow.protocol, 0)) + bytes(24)
    return basic + ports[0] + ports[1] + bytes(4) + first + second + bytes(4)


def _words_of(
    sources: NDArray[np.uint8],
    destinations: NDArray[np.uint8],
    protocols: NDArray[np.integer],
    source_ports: NDArray[np.integer],
    destination_ports: NDArray[np.integer],
) -> NDArray[np.uint64]:
    """`_flow_keys` of arrays, as little-endian 64-bit words: shape (n, 6) or (n, 9)."""
    count, octets = sources.shape
    keys = np.zeros((count, 40 + 2 * octets), np.uint8)
    keys[:, 2] = protocols
    swapped = [np.broadcast_to(p, count).astype("<u2").byteswap() for p in
               (source_ports, destination_ports)]  # fmt: skip
    keys[:, 28:30] = np.minimum(*swapped).astype("<u2").view(np.uint8).reshape(count, 2)
    keys[:, 30:32] = np.maximum(*swapped).astype("<u2").view(np.uint8).reshape(count, 2)
    # Compare as the kernel does: one little-endian word for IPv4, octet by octet for IPv6.
    word = "<u4" if octets == 4 else ">u8"
    one = np.ascontiguousarray(sources).view(word)
    other = np.ascontiguousarray(destinations).view(word)
    later = one[:, 0] > other[:, 0]
    if octets == 16:
        later |= (one[:, 0] == other[:, 0]) & (one[:, 1] > other[:, 1])
    swap = later[:, None]
    keys[:, 36 : 36 + octets] = np.where(swap, destinations, sources)
    keys[:, 36 + octets : 36 + 2 * octets] = np.where(swap, sources, destinations)
    return keys.view("<u8").astype(np.uint64)


def _packed(addresses: Sequence[Address], family: Family) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, family.octets)


def _key(seed: int) -> tuple[int, int]:
    """SipHash's 128-bit key: the kernel's 32-bit seed, four times."""
    if not 1 <= seed <= _M32:
        raise ValueError(f"hash seed: 1 to {_M32}, not {seed}")
    half = seed << 32 | seed
    return half, half

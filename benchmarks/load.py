"""What the feeder gives to a router: so many prefixes, from so many peers. Pure.

Every peer is the next hop of what it announces. With one member set all peers announce all
prefixes, as the nodes of a cluster do for a service with externalTrafficPolicy Cluster; with more,
prefix `i` belongs to set `i % sets`, and a set is a reproducible choice of peers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from samepath.model.net import Address, address_text

ROUTER = "10.0.0.1"
NETWORK = "10.0.0.0/16"
"""The cable between the router and the feeder; a peer's address is its number in it."""
PREFIXES = "100.64.0.0/10"
"""All prefixes are /32 of this one (RFC 6598: in nobody's use here)."""
ROUTER_AS = 65000
PEER_AS = 65001
_FIRST_PEER = 0x0A000101
_FIRST_PREFIX = 0x64400000
SET_LEAST, SET_MOST = 4, 32
"""Members of one of several sets."""


@dataclass(frozen=True, slots=True)
class Load:
    peers: int
    prefixes: int
    sets: int = 1
    first_peer: int = 0
    first_prefix: int = 0
    """Where peers and prefixes begin: so that two loads have none in common."""
    hold_s: int = 240
    """What the peers say in their OPEN; keepalives go every third of it."""
    limit: int = 0
    """Prefixes that a router takes of one peer; 0: as many as there are."""

    def peer(self, index: int) -> Address:
        return (_FIRST_PEER + self.first_peer + index).to_bytes(4, "big")

    def peer_texts(self) -> list[str]:
        return [address_text(self.peer(i)) for i in range(self.peers)]

    def prefix(self, index: int) -> Address:
        """The address of the /32."""
        return (_FIRST_PREFIX + self.first_prefix + index).to_bytes(4, "big")

    def members(self, set_: int) -> tuple[int, ...]:
        """The peers that announce the prefixes of a set, in ascending order."""
        if self.sets == 1:
            return tuple(range(self.peers))
        rng = random.Random(set_)
        count = min(self.peers, rng.randint(SET_LEAST, SET_MOST))
        return tuple(sorted(rng.sample(range(self.peers), count)))

    def announced(self) -> list[list[Address]]:
        """What each peer announces, in order of the prefixes."""
        of: list[list[Address]] = [[] for _ in range(self.peers)]
        members = [self.members(s) for s in range(self.sets)]
        for i in range(self.prefixes):
            for peer in members[i % self.sets]:
                of[peer].append(self.prefix(i))
        return of

    def expected(self) -> dict[Address, frozenset[Address]]:
        """What a router is to hold in the end: prefix to next hops."""
        hops = [frozenset(map(self.peer, self.members(s))) for s in range(self.sets)]
        return {self.prefix(i): hops[i % self.sets] for i in range(self.prefixes)}

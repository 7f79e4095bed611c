"""Who of the neighbours that speak for themselves has what: pod blocks and next hops.

Asked by the RIB for neighbours with `next_hop: peer`, before it takes a path. Pod blocks of two
neighbours never overlap: the first stands until it withdraws or is gone, and who comes later, with
the same block, a part of it, or one that covers it, is refused meanwhile. A next hop of the
session's own family is the neighbour's session address; one of the other family (IPv6 routes over
an IPv4 session) is known only by what the neighbour says, so there, too, the first that uses it
has it, and nobody has another's session address.

What is stale (RFC 4724) still has its owner.

RFC 4271 §5.1.3 (next hops).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping

from samepath.bgp.policy import PeerKey, Reason
from samepath.model.net import Address, Family, Nlri, family_of, nlri_address

NEXT_HOPS_OWNED = 4
"""Next hops of the other family that one neighbour may have at once."""

INNER_BLOCKS = 64
"""A block that covers more of its owner's own blocks than these is refused: so that the question
takes a bounded time."""


class Ownership:
    def __init__(self) -> None:
        self._blocks = {family: _Blocks(family) for family in Family}
        self._bound = {family: _Blocks(family) for family in Family}
        self._hops: dict[Address, PeerKey] = {}
        self._hops_of: defaultdict[PeerKey, set[Address]] = defaultdict(set)

    def take_next_hop(
        self, peer: PeerKey, hop: Address, peers: Container[PeerKey]
    ) -> Reason | None:
        """Why `peer` may not use this next hop; None: it may, and nobody else from now on.
        `peers`: all neighbours that are there."""
        if hop == peer:
            return None
        if family_of(hop) is family_of(peer):
            return Reason.NEXT_HOP_NOT_PEER
        if self._hops.get(hop, peer) != peer or hop in peers:
            return Reason.NEXT_HOP_OF_ANOTHER
        own = self._hops_of[peer]
        if hop not in own:
            if len(own) >= NEXT_HOPS_OWNED:
                return Reason.NEXT_HOP_NOT_PEER
            own.add(hop)
            self._hops[hop] = peer
        return None

    def take_block(self, family: Family, nlri: Nlri, peer: PeerKey) -> bool:
        """False: it is, in part or whole, another's."""
        return self._bound[family].allows(nlri, peer) and self._blocks[family].take(nlri, peer)

    def bind(self, claims: Mapping[tuple[Family, Nlri], PeerKey]) -> None:
        """Whose these blocks are; of others nothing is said. Of two that contradict each other the
        first counts."""
        self._bound = {family: _Blocks(family) for family in Family}
        for (family, nlri), peer in claims.items():
            self._bound[family].take(nlri, peer)

    def taken_wrongly(self) -> Iterator[tuple[Family, Nlri, PeerKey]]:
        """Blocks that somebody has and may not have any more."""
        for family in Family:
            for nlri, peer in self._blocks[family].owners.items():
                if not self._bound[family].allows(nlri, peer):
                    yield family, nlri, peer

    def release_block(self, family: Family, nlri: Nlri, peer: PeerKey) -> bool:
        """Whether `peer` had it."""
        return self._blocks[family].release(nlri, peer)

    def forget_next_hops(self, peer: PeerKey) -> None:
        for hop in self._hops_of.pop(peer, ()):
            del self._hops[hop]


class _Blocks:
    """The blocks of a family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self.owners: dict[Nlri, PeerKey] = {}
        self._by_length: dict[int, dict[int, PeerKey]] = {}
        """By the leading bits."""
        self._starts: list[tuple[int, int]] = []
        """(first address, length), sorted."""

    def take(self, nlri: Nlri, peer: PeerKey) -> bool:
        if nlri in self.owners or not self.allows(nlri, peer):
            return self.owners.get(nlri) == peer
        start, length = self._start(nlri), nlri[0]
        self.owners[nlri] = peer
        self._by_length.setdefault(length, {})[start >> (self._family.bits - length)] = peer
        insort(self._starts, (start, length))
        return True

    def allows(self, nlri: Nlri, peer: PeerKey) -> bool:
        """Neither it nor a part of it is another's."""
        known = self.owners.get(nlri)
        if known is not None:
            return known == peer
        start, length = self._start(nlri), nlri[0]
        return not (
            self._lies_in_anothers(start, length, peer)
            or self._covers_anothers(start, length, peer)
        )

    def release(self, nlri: Nlri, peer: PeerKey) -> bool:
        if self.owners.get(nlri) != peer:
            return False
        del self.owners[nlri]
        start, length = self._start(nlri), nlri[0]
        values = self._by_length[length]
        del values[start >> (self._family.bits - length)]
        if not values:
            del self._by_length[length]
        del self._starts[bisect_left(self._starts, (start, length))]
        return True

    def _start(self, nlri: Nlri) -> int:
        return int.from_bytes(nlri_address(self._family, nlri), "big")

    def _lies_in_anothers(self, start: int, length: int, peer: PeerKey) -> bool:
        bits = self._family.bits
        return any(
            values.get(start >> (bits - outer), peer) != peer
            for outer, values in self._by_length.items()
            if outer < length
        )

    def _covers_anothers(self, start: int, length: int, peer: PeerKey) -> bool:
        end = start + (1 << (self._family.bits - length))
        first = bisect_left(self._starts, (start, length))
        inner = self._starts[first : first + INNER_BLOCKS + 1]
        bits = self._family.bits
        covered = [(s, n) for s, n in inner if s < end]
        if len(covered) > INNER_BLOCKS:
            return True
        return any(self._by_length[n][s >> (bits - n)] != peer for s, n in covered)

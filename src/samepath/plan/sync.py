"""When a gateway knows enough to delete and to advertise: the end of selection deferral.

RFC 4724 §4.1: a restarting speaker defers route selection until it has End-of-RIB from its peers or
the timer ends. DESIGN §6: in sync when every neighbour that the adopted next hops name has sent
End-of-RIB; with an empty kernel, when `expected_peers` have. A peer that never sends End-of-RIB
(it may lack the capability) holds us until the timer ends, and no longer. Pure; called by
`programs.gateway_sync`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from samepath.bgp.rib import PathSet
from samepath.model.net import Address, address_text


class Why(enum.Enum):
    ALL_HEARD = "every neighbour of the adopted next hops has sent End-of-RIB"
    ENOUGH_HEARD = "expected_peers have sent End-of-RIB"
    DEFERRAL_OVER = "selection_deferral_s is over"
    WAITING_FOR_HOPS = "waiting for the neighbours of adopted next hops"
    WAITING_FOR_PEERS = "waiting for expected_peers"
    WAITING_FOR_CLUSTER = "waiting for the Nodes of the cluster to be known"
    ROUTES_BACK = "the daemon's routes name every next hop that we know of"
    ENOUGH_HOPS = "the services have expected_peers next hops"
    WAITING_FOR_ROUTES = "waiting for the daemon's routes to name"
    WAITING_FOR_DAEMON = "waiting for the routing daemon to have told everything"


@dataclass(frozen=True, slots=True)
class Sync:
    in_sync: bool
    why: Why
    missing: tuple[Address, ...] = ()

    @property
    def text(self) -> str:
        if not self.missing:
            return self.why.value
        return f"{self.why.value}: {', '.join(address_text(a) for a in self.missing)}"


def named_by(peers: Collection[Address], paths: Iterable[PathSet]) -> set[Address]:
    """The next hops that these peers stand for: their own addresses and those of their paths. A
    session over IPv4 names IPv6 next hops, too."""
    named = set(peers)
    for held in paths:
        named.update(p.attributes.next_hop for p in held.paths if p.peer in peers)
    return named


def decide(
    *,
    adopted: Collection[Address],
    heard: Collection[Address],
    peers_heard: int,
    expected_peers: int,
    since_start_s: float,
    deferral_s: float,
) -> Sync:
    """`adopted`: next hops of the adopted routes. `heard`: what `named_by` says of the peers that
    have sent End-of-RIB. `peers_heard`: how many of the neighbours that may advertise services
    have."""
    missing = tuple(sorted(set(adopted) - set(heard)))
    if adopted and not missing:
        return Sync(True, Why.ALL_HEARD)
    if not adopted and peers_heard >= expected_peers:
        return Sync(True, Why.ENOUGH_HEARD)
    if since_start_s >= deferral_s:
        return Sync(True, Why.DEFERRAL_OVER, missing)
    if adopted:
        return Sync(False, Why.WAITING_FOR_HOPS, missing)
    return Sync(False, Why.WAITING_FOR_PEERS)

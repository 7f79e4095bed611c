"""Another daemon's routes as paths to services: the gateway's second source. Pure.

A routing daemon beside the gateway (FRR, BIRD) has its ECMP routes in the kernel. Each route to a
service becomes the paths that one BGP peer a next hop would have told; from there on there is one
plan (`plan.gateway`) and one set of tables, whatever the source. Weights of next hops become link
bandwidth. Of several routes to one prefix that with the lowest metric counts, as for the kernel.

A kernel route has no communities, so nothing drains: a next hop is there, or it is not. And nothing
says that a daemon has told everything; `decide` is what stands in for End-of-RIB (RFC 4724 §2).

Called by `programs.gateway_kernel_routes`, which reads the kernel.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from samepath.bgp.attributes import PathAttributes, link_bandwidth_community
from samepath.bgp.decision import Path
from samepath.model.net import Address, Family, Nlri
from samepath.plan.sync import Sync
from samepath.plan.sync import Why as SyncWhy

Prefix = tuple[Family, Nlri]


@dataclass(frozen=True, slots=True, order=True)
class Hop:
    """One next hop of a route."""

    address: Address
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """A route of the daemon's, to a prefix that may be a service."""

    family: Family
    nlri: Nlri
    metric: int
    hops: tuple[Hop, ...]
    """Those with a gateway."""
    unnamed: int = 0
    """Next hops without a gateway, or by an object that is not there."""


class Why(enum.Enum):
    TAKEN = "taken"
    NO_GATEWAY = "it has no next hop with a gateway"
    IN_PART = "taken without its next hops that have no gateway"
    WORSE = "another route of the daemon's has a lower metric"


Taken = dict[Prefix, tuple[Hop, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """`taken`: the next hops of each service, sorted. `refused`: what is not taken as it is."""

    taken: Taken
    refused: tuple[tuple[Seen, Why], ...]


def choose(seen: Iterable[Seen]) -> Choice:
    taken: Taken = {}
    refused = []
    for route in sorted(seen, key=lambda r: (r.family.af, r.nlri, r.metric)):
        prefix = (route.family, route.nlri)
        if prefix in taken:
            refused.append((route, Why.WORSE))
        elif not route.hops:
            refused.append((route, Why.NO_GATEWAY))
        else:
            taken[prefix] = _summed(route.hops)
            if route.unnamed:
                refused.append((route, Why.IN_PART))
    return Choice(taken, tuple(refused))


def _summed(hops: Iterable[Hop]) -> tuple[Hop, ...]:
    """A gateway that stands twice has both weights."""
    weights: dict[Address, int] = {}
    for hop in hops:
        weights[hop.address] = weights.get(hop.address, 0) + hop.weight
    return tuple(Hop(address, weight) for address, weight in sorted(weights.items()))


def paths(hops: Iterable[Hop]) -> tuple[Path, ...]:
    """As if each next hop were a peer that tells of itself."""
    return tuple(
        Path(hop.address, _attributes(hop), "services", external=True, router_id=0) for hop in hops
    )


def _attributes(hop: Hop) -> PathAttributes:
    # Only the proportions count, and small whole numbers are exact as the community's float32.
    rate = link_bandwidth_community(0, hop.weight)
    return PathAttributes(next_hop=hop.address, extended_communities=(rate,))


def addresses(taken: Mapping[Prefix, Iterable[Hop]]) -> dict[Prefix, frozenset[Address]]:
    return {prefix: frozenset(h.address for h in hops) for prefix, hops in taken.items()}


def missing(
    wanted: Mapping[Prefix, frozenset[Address]], taken: Mapping[Prefix, Iterable[Hop]]
) -> tuple[Address, ...]:
    """Next hops that some service had and has not now."""
    gone: set[Address] = set()
    for prefix, had in wanted.items():
        gone |= had - {hop.address for hop in taken.get(prefix, ())}
    return tuple(sorted(gone))


def fewest(taken: Taken) -> int:
    """Of both families, the number of next hops that the daemon has for all services together."""
    known: dict[Family, set[Address]] = {}
    for (family, _), hops in taken.items():
        known.setdefault(family, set()).update(hop.address for hop in hops)
    return min(map(len, known.values()), default=0)


def decide(
    *,
    wanted: Mapping[Prefix, frozenset[Address]],
    taken: Taken,
    is_hold: bool,
    has_lost: bool,
    expected_hops: int,
    since_s: float,
    deferral_s: float,
) -> Sync:
    """Whether the daemon has told enough. `wanted`: what each service had when we last knew, from
    the adopted tables or from before the daemon ended. `is_hold`: the daemon ended or was started
    anew, and may still take its old routes away; `has_lost`: it has done so since."""
    gone = missing(wanted, taken)
    if wanted and not gone and (has_lost or not is_hold):
        return Sync(True, SyncWhy.ROUTES_BACK)
    if not wanted and fewest(taken) >= expected_hops:
        return Sync(True, SyncWhy.ENOUGH_HOPS)
    if since_s >= deferral_s:
        return Sync(True, SyncWhy.DEFERRAL_OVER, gone)
    if gone:
        return Sync(False, SyncWhy.WAITING_FOR_ROUTES, gone)
    return Sync(False, SyncWhy.WAITING_FOR_DAEMON)

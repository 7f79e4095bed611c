"""What a gateway wants for the paths that it has. Pure; `programs.gateway` calls it.

A prefix's equal best paths become a `Wanted`: for a service its `Target`, the next hops that its
table is made of; for a pod block or any other route the plain next hops. What is advertised onward
follows from the same paths.

Draining (RFC 8326 GRACEFUL_SHUTDOWN): a draining next hop keeps the flows that it has and gets no
share of its own, unless all drain, and then all count as active. Weight is the link bandwidth
community, divided by the greatest common divisor of the set; a set in which some path has none
has no weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, Origin, PathAttributes
from samepath.bgp.communities import SCOPE
from samepath.bgp.rib import Path
from samepath.hashing.table import Member
from samepath.model.neighbor import Kind
from samepath.model.net import Address


@dataclass(frozen=True, slots=True, order=True)
class Hop:
    """One next hop of a service."""

    address: Address
    weight: int
    draining: bool


@dataclass(frozen=True)
class Target:
    """The next hops of a service, sorted by address. Equal targets give equal tables."""

    hops: tuple[Hop, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.hops))

    def __hash__(self) -> int:
        return self._hash

    @property
    def all_drain(self) -> bool:
        return all(hop.draining for hop in self.hops)

    def members(self, usable: Callable[[Address], bool]) -> tuple[Member, ...]:
        """Who gets a share: the active and usable, else the usable."""
        living = [hop for hop in self.hops if usable(hop.address)]
        active = [hop for hop in living if not hop.draining] or living
        return tuple(Member(hop.address, hop.weight) for hop in active)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a prefix should have: `kind` says which driver it is for."""

    kind: Kind
    target: Target

    @property
    def gateways(self) -> tuple[Address, ...]:
        """Next hops of a plain route. A pod block has one node; if two claim it, the lower address
        stands until they agree."""
        hops = self.target.hops
        if self.kind == "pods":
            return (hops[0].address,)
        return tuple(hop.address for hop in hops if not hop.draining or self.target.all_drain)


_RANK: dict[str, int] = {"services": 0, "pods": 1, "routes": 2}


def wanted(best: Sequence[Path]) -> Wanted | None:
    """The equal best paths of one prefix as what we want of the kernel; None for no paths."""
    if not best:
        return None
    kind = min((path.kind for path in best), key=_RANK.__getitem__)
    paths = [path for path in best if path.kind == kind]
    return Wanted(kind, Target(_hops(path.attributes for path in paths)))


def _hops(attributes: Iterable[PathAttributes]) -> tuple[Hop, ...]:
    """One hop a next hop address; of two paths to the same one, the larger weight, and it drains
    only if both say so."""
    weights: dict[Address, float | None] = {}
    drains: dict[Address, bool] = {}
    for a in attributes:
        address, weight = a.next_hop, a.link_bandwidth
        if address in weights:
            known = weights[address]
            weight = max(known, weight) if known is not None and weight is not None else None
        weights[address] = weight
        drains[address] = a.has(GRACEFUL_SHUTDOWN) and drains.get(address, True)
    whole = _whole(weights)
    return tuple(Hop(address, whole[address], drains[address]) for address in sorted(weights))


def _whole(weights: dict[Address, float | None]) -> dict[Address, int]:
    """Bandwidths (bytes/s) as small whole numbers; all 1 unless every path has one above 0."""
    values: dict[Address, int] = {}
    for address, value in weights.items():
        # A float32 from the network may be anything, infinity and NaN included.
        if value is None or not math.isfinite(value) or value < 1:
            return dict.fromkeys(weights, 1)
        values[address] = round(value)
    divisor = math.gcd(*values.values())
    return {address: value // divisor for address, value in values.items()}


def service_onward(best: Sequence[Path]) -> PathAttributes:
    """A service as we advertise it upstream: reached through us; weights and draining stay here."""
    first = min(best, key=lambda path: path.attributes.as_path.length)
    # One node that lets the service out is enough, since every node serves it (RFC 1997).
    kept_in = SCOPE.intersection(*(path.attributes.communities for path in best))
    return PathAttributes(
        origin=Origin.IGP,
        as_path=first.attributes.as_path,
        next_hop=b"",
        communities=tuple(kept_in),
    )

"""What a gateway advertises to each neighbour. Pure; `programs.gateway` calls it.

`services`: service IPs whose route stands in our kernel, reached through us. `pods`: the nodes' pod
blocks, reflected (RFC 4456) with the node as next hop to those who reach it themselves, through us
to others. `default`: a default route to ourselves, while we know a way onward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from samepath.bgp.adjout import Advertisement, reflect
from samepath.bgp.attributes import Origin, PathAttributes
from samepath.bgp.rib import PathSet
from samepath.model.config import Neighbor
from samepath.model.net import Address, Family, Nlri, nlri_address, parse_address, parse_prefix
from samepath.plan.gateway import keeps_next_hop, service_onward

OURS = PathAttributes(origin=Origin.IGP, next_hop=b"")
DEFAULT_NLRI: Nlri = b"\0"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What onward advertisements are made of."""

    services: Mapping[Family, Collection[Nlri]]
    """Installed in the kernel."""
    pods: Mapping[Family, Collection[Nlri]]
    """Installed in the kernel."""
    ways_out: Collection[Family]
    """Families for which we know a way onward."""
    paths: Callable[[Family, Nlri], PathSet | None]
    connected: Callable[[Address], int | None]
    cluster_id: int


def advertisements(
    neighbor: Neighbor, snapshot: Snapshot
) -> dict[Family, dict[Nlri, Advertisement]]:
    """All that `neighbor` (an entry of the configuration) is to be offered."""
    offered: dict[Family, dict[Nlri, Advertisement]] = {f: {} for f in neighbor.address_families}
    for family, routes in offered.items():
        if "default" in neighbor.export and family in snapshot.ways_out:
            routes[DEFAULT_NLRI] = Advertisement(OURS)
        if "services" in neighbor.export:
            routes.update(_services(family, snapshot))
        if "pods" in neighbor.export:
            routes.update(_pods(family, snapshot, _address_of(neighbor)))
    return offered


def _services(family: Family, snapshot: Snapshot) -> Iterable[tuple[Nlri, Advertisement]]:
    made: dict[PathSet, Advertisement] = {}
    for nlri in snapshot.services[family]:
        paths = snapshot.paths(family, nlri)
        if paths is None:
            continue  # it is about to be deleted
        if paths not in made:
            made[paths] = Advertisement(service_onward(paths.best))
        yield nlri, made[paths]


def _pods(
    family: Family, snapshot: Snapshot, neighbor: Address
) -> Iterable[tuple[Nlri, Advertisement]]:
    made: dict[PathSet, Advertisement] = {}
    for nlri in snapshot.pods[family]:
        paths = snapshot.paths(family, nlri)
        if paths is None:
            continue
        if paths not in made:
            path = paths.best[0]
            attributes = replace(reflect(path, cluster_id=snapshot.cluster_id), communities=())
            if not keeps_next_hop(neighbor, attributes.next_hop, snapshot.connected):
                attributes = replace(attributes, next_hop=b"")
            made[paths] = Advertisement(attributes, source_peer=path.peer)
        yield nlri, made[paths]


def _address_of(neighbor: Neighbor) -> Address:
    """An address by which to ask which network the neighbour is on."""
    if neighbor.address is not None:
        return parse_address(neighbor.address)
    family, nlri = parse_prefix(neighbor.range or "")
    return nlri_address(family, nlri)

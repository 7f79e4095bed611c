"""What a gateway advertises to each neighbour. Pure; `programs.gateway_offer` calls it.

`services`: service IPs whose route stands in our kernel, reached through us. `pods`: the nodes' pod
blocks, reflected (RFC 4456) with the node as next hop to those who reach it themselves, through us
to others. `default`: a default route to ourselves, while we know a way onward.

Neighbours that are to be told the same get one and the same mapping, and equal advertisements are
one object, from one call to the next: comparing costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from samepath.bgp.adjout import Advertisement, Routes, reflect
from samepath.bgp.attributes import Origin, PathAttributes
from samepath.bgp.rib import PathSet
from samepath.model.config import Neighbor
from samepath.model.net import Address, Family, Nlri, nlri_address, parse_address, parse_prefix
from samepath.plan.gateway import service_onward

OURS = Advertisement(PathAttributes(origin=Origin.IGP, next_hop=b""))
DEFAULT_NLRI: Nlri = b"\0"
KNOWN = 20_000
"""Different advertisements that are remembered."""
PIECE = 4096
"""Prefixes between two yields: a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What onward advertisements are made of."""

    services: dict[Family, Collection[Nlri]]
    """Installed in the kernel."""
    pods: dict[Family, Collection[Nlri]]
    """Installed in the kernel."""
    ways_out: Collection[Family]
    """Families for which we know a way onward."""
    paths: Callable[[Family, Nlri], PathSet | None]
    connected: Callable[[Address], int | None]
    cluster_id: int


Made = WeakKeyDictionary[PathSet, Advertisement]


class Offers:
    def __init__(self) -> None:
        self._services: Made = WeakKeyDictionary()
        self._pods: dict[tuple[int, bool], Made] = {}
        """(cluster id, whether the next hop stays)"""
        self._known: dict[Advertisement, Advertisement] = {}

    def steps(
        self, neighbors: Collection[Neighbor], snapshot: Snapshot
    ) -> Generator[None, None, dict[str, Routes]]:
        """All that each neighbour entry is to be offered, by name."""
        same: dict[tuple[object, ...], Routes] = {}
        offered = {}
        for neighbor in neighbors:
            link = snapshot.connected(_address_of(neighbor)) if "pods" in neighbor.export else None
            key = (neighbor.address_families, frozenset(neighbor.export), link)
            if key not in same:
                same[key] = yield from self._routes(neighbor, snapshot, link)
            offered[neighbor.name] = same[key]
        return offered

    def _routes(
        self, neighbor: Neighbor, snapshot: Snapshot, link: int | None
    ) -> Generator[None, None, Routes]:
        offered: dict[Family, dict[Nlri, Advertisement]] = {}
        for family in neighbor.address_families:
            routes = offered[family] = {}
            if "default" in neighbor.export and family in snapshot.ways_out:
                routes[DEFAULT_NLRI] = OURS
            for kind, said in (
                ("services", self._say_services(family, snapshot)),
                ("pods", self._say_pods(family, snapshot, link)),
            ):
                for count, (nlri, advertisement) in enumerate(
                    said if kind in neighbor.export else (), 1
                ):
                    routes[nlri] = advertisement
                    if count % PIECE == 0:
                        yield
            yield
        return offered

    def _say_services(
        self, family: Family, snapshot: Snapshot
    ) -> Iterator[tuple[Nlri, Advertisement]]:
        made = self._services
        for nlri in snapshot.services[family]:
            paths = snapshot.paths(family, nlri)
            if paths is None:
                continue  # it is about to be deleted
            advertisement = made.get(paths)
            if advertisement is None:
                advertisement = Advertisement(service_onward(paths.best))
                advertisement = made[paths] = self._one_object(advertisement)
            yield nlri, advertisement

    def _say_pods(
        self, family: Family, snapshot: Snapshot, link: int | None
    ) -> Iterator[tuple[Nlri, Advertisement]]:
        for nlri in snapshot.pods[family]:
            paths = snapshot.paths(family, nlri)
            if paths is None:
                continue
            # The next hop may stand as it is where the neighbour reaches it itself: third-party
            # next hop on a shared segment, RFC 4271 §5.1.3.
            hop_link = snapshot.connected(paths.best[0].attributes.next_hop)
            stays = hop_link is not None and hop_link == link
            made = self._pods.setdefault((snapshot.cluster_id, stays), WeakKeyDictionary())
            advertisement = made.get(paths)
            if advertisement is None:
                advertisement = _reflected(paths, snapshot.cluster_id, stays)
                advertisement = made[paths] = self._one_object(advertisement)
            yield nlri, advertisement

    def _one_object(self, advertisement: Advertisement) -> Advertisement:
        if len(self._known) >= KNOWN:
            self._known.clear()  # costs a comparison, once
        return self._known.setdefault(advertisement, advertisement)


def _reflected(paths: PathSet, cluster_id: int, stays: bool) -> Advertisement:
    path = paths.best[0]
    attributes = replace(reflect(path, cluster_id=cluster_id), communities=())
    if not stays:
        attributes = replace(attributes, next_hop=b"")
    return Advertisement(attributes, source_peer=path.peer)


def _address_of(neighbor: Neighbor) -> Address:
    """An address by which to ask which network the neighbour is on."""
    if neighbor.address is not None:
        return parse_address(neighbor.address)
    family, nlri = parse_prefix(neighbor.range or "")
    return nlri_address(family, nlri)

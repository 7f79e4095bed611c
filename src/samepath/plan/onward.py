"""What a gateway advertises to each neighbour. Pure; `programs.gateway_offer` calls it.

`services`: service IPs whose route stands in our kernel, reached through us. `pods`: the nodes' pod
blocks, reflected (RFC 4456) with the node as next hop to those who reach it themselves, through us
to others, and to a neighbour that takes several paths (`add_path`) all that are equal. `default`:
a default route to ourselves, while we know a way onward.

Neighbours that are to be told the same get one and the same mapping, and equal advertisements are
one object, from one call to the next: comparing costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from samepath.bgp.adjout import Advertisement, Offered, Routes, reflect
from samepath.bgp.attributes import Origin, PathAttributes
from samepath.bgp.communities import LIFE, SCOPE
from samepath.bgp.rib import Path, PathSet
from samepath.model.neighbor import Neighbor
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


Made = WeakKeyDictionary[PathSet, Offered]


class Offers:
    def __init__(self) -> None:
        self._services: Made = WeakKeyDictionary()
        self._pods: dict[tuple[int, tuple[bool, ...]], Made] = {}
        """(cluster id, whether the next hop of each path stays)"""
        self._known: dict[Advertisement, Advertisement] = {}

    def steps(
        self, neighbors: Collection[Neighbor], snapshot: Snapshot
    ) -> Generator[None, None, dict[str, Routes]]:
        """All that each neighbour entry is to be offered, by name."""
        same: dict[tuple[object, ...], Routes] = {}
        offered = {}
        for neighbor in neighbors:
            link = snapshot.connected(_address_of(neighbor)) if "pods" in neighbor.export else None
            several = neighbor.add_path in ("send", "both")
            key = (neighbor.address_families, frozenset(neighbor.export), link, several)
            if key not in same:
                same[key] = yield from self._routes(neighbor, snapshot, link)
            offered[neighbor.name] = same[key]
        return offered

    def _routes(
        self, neighbor: Neighbor, snapshot: Snapshot, link: int | None
    ) -> Generator[None, None, Routes]:
        offered: dict[Family, dict[Nlri, Offered]] = {}
        several = neighbor.add_path in ("send", "both")
        for family in neighbor.address_families:
            routes = offered[family] = {}
            if "default" in neighbor.export and family in snapshot.ways_out:
                routes[DEFAULT_NLRI] = OURS
            for kind, said in (
                ("services", self._say_services(family, snapshot)),
                ("pods", self._say_pods(family, snapshot, link, several)),
            ):
                for count, (nlri, advertisement) in enumerate(
                    said if kind in neighbor.export else (), 1
                ):
                    routes[nlri] = advertisement
                    if count % PIECE == 0:
                        yield
            yield
        return offered

    def _say_services(self, family: Family, snapshot: Snapshot) -> Iterator[tuple[Nlri, Offered]]:
        made = self._services
        for nlri in snapshot.services[family]:
            paths = snapshot.paths(family, nlri)
            if paths is None:
                continue  # it is about to be deleted
            advertisement = made.get(paths)
            if advertisement is None:
                said = Advertisement(service_onward(paths.best))
                advertisement = made[paths] = self._one_object(said)
            yield nlri, advertisement

    def _say_pods(
        self, family: Family, snapshot: Snapshot, link: int | None, several: bool
    ) -> Iterator[tuple[Nlri, Offered]]:
        for nlri in snapshot.pods[family]:
            paths = snapshot.paths(family, nlri)
            if paths is None:
                continue
            # The next hop may stand as it is where the neighbour reaches it itself: third-party
            # next hop on a shared segment, RFC 4271 §5.1.3.
            told = paths.best if several else paths.best[:1]
            links = [snapshot.connected(path.attributes.next_hop) for path in told]
            stays = tuple(hop_link is not None and hop_link == link for hop_link in links)
            made = self._pods.setdefault((snapshot.cluster_id, stays), WeakKeyDictionary())
            offered = made.get(paths)
            if offered is None:
                each = (
                    self._one_object(_reflected(path, snapshot.cluster_id, hop_stays))
                    for path, hop_stays in zip(told, stays, strict=True)
                )
                first, *others = each
                offered = made[paths] = (first, *others) if others else first
            yield nlri, offered

    def _one_object(self, advertisement: Advertisement) -> Advertisement:
        if len(self._known) >= KNOWN:
            self._known.clear()  # costs a comparison, once
        return self._known.setdefault(advertisement, advertisement)


def _reflected(path: Path, cluster_id: int, stays: bool) -> Advertisement:
    attributes = reflect(path, cluster_id=cluster_id)
    kept = (SCOPE | LIFE).intersection(attributes.communities)
    attributes = replace(attributes, communities=tuple(kept))
    if not stays:
        attributes = replace(attributes, next_hop=b"")
    return Advertisement(attributes, source_peer=path.peer, source_path_id=path.path_id)


def _address_of(neighbor: Neighbor) -> Address:
    """An address by which to ask which network the neighbour is on."""
    if neighbor.address is not None:
        return parse_address(neighbor.address)
    family, nlri = parse_prefix(neighbor.range or "")
    return nlri_address(family, nlri)

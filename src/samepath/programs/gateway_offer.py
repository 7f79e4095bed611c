"""Telling the neighbours: what stands in the kernel is advertised onward.

Run by `programs.gateway` at the end of every pass, in small steps; `plan.onward` says what each
neighbour is to know, the sessions send the difference. Nothing is computed while nothing changed.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from typing import TYPE_CHECKING

from samepath.bgp.adjout import Routes
from samepath.model.net import Family, Nlri, parse_address
from samepath.plan.onward import Offers, Snapshot

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

PIECE = 8192


class Onward:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.is_due = True
        """Something changed besides what stands in the kernel."""
        self._offers = Offers()
        self._told: dict[str, Routes] = {}
        self._stood = (-1, -1)

    def work(self) -> Iterator[None]:
        gateway = self.gateway
        stands = (gateway.services.routes.version, gateway.plain.version)
        if not self.is_due and stands == self._stood:
            return
        self.is_due, self._stood = False, stands
        snapshot = yield from self._snapshot()
        offered = yield from self._offers.steps(gateway.config.neighbors, snapshot)
        same: dict[tuple[int, int], bool] = {}
        for name, routes in offered.items():
            told = self._told.get(name)
            key = (id(routes), id(told))
            if key not in same:
                same[key] = routes == told
                yield
            if not same[key]:
                gateway.speaker.set(name, routes)
                yield
        self._told = offered
        if gateway.deferral.sync.in_sync:
            gateway.speaker.release_end_of_rib()

    def _snapshot(self) -> Generator[None, None, Snapshot]:
        gateway = self.gateway
        in_sync = gateway.deferral.sync.in_sync
        kinds: dict[str, dict[Family, list[Nlri]]] = {
            kind: {f: [] for f in Family} for kind in ("services", "pods", "routes")
        }
        for count, ((family, nlri), what) in enumerate(gateway.paths.plain_wanted.items(), 1):
            if gateway.plain.is_installed(family, nlri):
                kinds[what.kind][family].append(nlri)
            if count % PIECE == 0:
                yield
        services: dict[Family, Collection[Nlri]] = dict.fromkeys(Family, ())
        if in_sync:
            for family, nlris in kinds["services"].items():
                # A copy, made at once: the driver may be at work in its thread.
                services[family] = nlris + list(gateway.services.routed[family])
        has_way_out = any(n.import_.routes for n in gateway.config.neighbors)
        return Snapshot(
            services=services,
            pods=dict(kinds["pods"]),
            ways_out=[f for f in Family if kinds["routes"][f] or not has_way_out],
            paths=gateway.speaker.rib.paths,
            connected=gateway.interface,
            cluster_id=int.from_bytes(parse_address(gateway.config.router_id), "big"),
        )

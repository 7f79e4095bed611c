"""From the RIB, or another source, to the drivers: what changed is planned, a piece at a time.

Called by `programs.gateway` in every pass. Services go to the driver of resilient groups, all else
to the driver of plain routes; with `dataplane: plain` services do, too.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from samepath.apply.groups import ResilientRoutes
from samepath.apply.routes import Gateways, PlainRoutes
from samepath.bgp.rib import PathSet
from samepath.model.net import Family, Nlri
from samepath.plan.gateway import Wanted, wanted

PIECE = 4096
"""Prefixes that are planned before the event loop is served."""


class Source(Protocol):
    """Where paths come from."""

    @property
    def is_changed(self) -> bool: ...

    def take_changed(self) -> dict[Family, set[Nlri]]:
        """Prefixes whose paths may have changed since asked last."""
        ...

    def paths(self, family: Family, nlri: Nlri) -> PathSet | None: ...


class Paths:
    def __init__(
        self, source: Source, services: ResilientRoutes, plain: PlainRoutes, *, plain_only: bool
    ) -> None:
        self.source = source
        self.services = services
        self.plain = plain
        self.plain_only = plain_only
        self.plain_wanted: dict[tuple[Family, Nlri], Wanted] = {}
        self.is_planning = False
        """Changes were taken from the source and are not with the drivers yet."""
        self.have_gone = False
        """Of the prefixes that were taken last, some have no path any more."""
        self._gateways: dict[tuple[Family, Nlri], Gateways] = {}
        self._plain_changed = False

    @property
    def is_behind(self) -> bool:
        return self.is_planning or self.source.is_changed

    async def take(self) -> bool:
        """Whether anything changed."""
        if not self.source.is_changed:
            return False
        self.is_planning, self._plain_changed, self.have_gone = True, False, False
        for family, nlris in self.source.take_changed().items():
            parts: dict[PathSet | None, list[Nlri]] = defaultdict(list)
            for count, nlri in enumerate(nlris, 1):
                parts[self.source.paths(family, nlri)].append(nlri)
                if count % PIECE == 0:
                    await asyncio.sleep(0)
            for paths, part in parts.items():
                what = wanted(paths.best) if paths is not None else None
                self.have_gone |= what is None
                for start in range(0, len(part), PIECE):
                    self._want(family, part[start : start + PIECE], what)
                    await asyncio.sleep(0)
        if self._plain_changed:
            self.plain.want(self._gateways)
        self.is_planning = False
        return True

    def _want(self, family: Family, nlris: Sequence[Nlri], what: Wanted | None) -> None:
        keys = [(family, nlri) for nlri in nlris]
        if what is not None and what.kind == "services" and not self.plain_only:
            self.services.want(family, nlris, what.target)
            what = None
        else:
            self.services.want(family, nlris, None)
        if what is not None:
            self.plain_wanted.update(dict.fromkeys(keys, what))
            self._gateways.update(dict.fromkeys(keys, what.gateways))
            self._plain_changed = True
        elif self.plain_wanted:
            for key in keys:
                if self.plain_wanted.pop(key, None) is not None:
                    del self._gateways[key]
                    self._plain_changed = True

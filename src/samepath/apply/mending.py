"""What to do about a difference between the kernel and what its driver believes: only marks.

Called by `apply.groups` with what `apply.readback` found, between two passes; the next pass writes.
Everything is made as it was: owners that a lost group had are remembered, and a group that somebody
changed is written from its buckets as they are now, so that none is touched that is right.
"""

from __future__ import annotations

import math

from samepath.apply.readback import Difference
from samepath.apply.replicas import is_service_replica
from samepath.apply.row import Row
from samepath.apply.rows import Rows
from samepath.apply.service_routes import ServiceRoutes
from samepath.apply.tables import Tables
from samepath.model.ours import slot_of


def mend(rows: Rows, tables: Tables, routes: ServiceRoutes, difference: Difference) -> None:
    tables.tidy(difference.stray_replicas)
    tables.replicas.gone(difference.replicas)
    for row in rows:
        if row.id in difference.lost:
            row.in_kernel, row.entries, row.slots = False, (), frozenset()
            row.unrouted |= row.nlris
            row.touch()
        elif row.id in difference.changed:
            _take_back(rows, row, difference.changed[row.id])
        elif difference.replicas and not difference.replicas.isdisjoint(row.entries):
            row.touch()
    _mend_routes(rows, routes, difference)
    for number in difference.stray_groups - rows.by_id.keys():
        rows.left_over[number] = frozenset()


def _take_back(rows: Rows, row: Row, ids: list[int]) -> None:
    if row.present is not None and len(ids) == row.present.buckets:
        row.entries = [i if is_service_replica(i) else 0 for i in ids]
        row.slots |= {slot_of(i) for i in row.entries if i}
    else:
        rows.abandon(row)  # another kind of group: it cannot be changed in place
    row.touch()


def _mend_routes(rows: Rows, routes: ServiceRoutes, difference: Difference) -> None:
    for family, lost in difference.routes.items():
        for nlri in lost:
            row = rows.of[family].get(nlri)
            if row is not None:
                row.unrouted.add(nlri)
                row.routes_failures, row.routes_at = 0, -math.inf
        routes.lost(family, lost)
    for family, strays in difference.stray_routes.items():
        for nlri, group in strays.items():
            routes.adopt(family, nlri, routes.metric, group)
            if nlri not in rows.of[family]:
                routes.doom(family, [nlri])

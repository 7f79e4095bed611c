"""After a restart: groups and routes that an earlier process of ours left, as rows.

Called once by `apply.groups`, before the first pass. Nothing is written. Each group becomes a row
with the owners that its buckets have; its routes say which prefixes it serves. A route with another
metric than the present one (the configuration was changed) keeps its prefix on its row: it will be
written anew, and the old one deleted when that stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from samepath.apply.row import Row
from samepath.apply.rows import Rows
from samepath.apply.service_routes import ServiceRoutes
from samepath.hashing.table import from_owners
from samepath.model.net import Address, Family, Nlri
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE, PROTOCOL, slot_of
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Group, NextHop
from samepath.plan.gateway import Target


def adopted_hops(
    nexthops: Iterable[NextHop],
    groups: Iterable[Group],
    known_routes: Mapping[Family, Mapping[tuple[Nlri, int], int]],
) -> set[Address]:
    """The next hops of all routes of ours, with buckets or plain."""
    hops = {n.id: n.gateway for n in nexthops}
    members = {g.id: g.members for g in groups}
    used = {i for routes in known_routes.values() for i in routes.values()}
    gateways = {hops.get(m) for i in used for m in members.get(i, (i,))}
    return {gateway for gateway in gateways if gateway is not None}


def adopt(
    kernel: Kernel,
    rows: Rows,
    routes: ServiceRoutes,
    nexthops: Sequence[NextHop],
    groups: Iterable[Group],
    known_routes: Mapping[Family, Mapping[tuple[Nlri, int], int]],
) -> list[str]:
    """What could not be adopted, in words: it is deleted when in sync."""
    hops = {n.id: n.gateway for n in nexthops}
    problems = []
    for group in groups:
        if not GROUP_BASE <= group.id < PLAIN_GROUP_BASE or group.protocol != PROTOCOL:
            continue
        ids = kernel.bucket_state(group.id).ids if group.resilient else []
        owners = [owner for i in ids if (owner := hops.get(i)) is not None]
        if not ids or len(owners) != len(ids):
            problems.append(f"group {group.id:#x}: not a table of ours")
            rows.left_over[group.id] = frozenset(map(slot_of, group.members))
            continue
        row = Row(group.id, Family.IPV4, Target(()), dirty=False, in_kernel=True)
        row.present, row.entries = from_owners(owners), ids
        row.slots = frozenset(map(slot_of, ids))
        rows.add(row)
    for family, of_family in known_routes.items():
        for (nlri, metric), group_id in of_family.items():
            if GROUP_BASE <= group_id < PLAIN_GROUP_BASE:
                _adopt_route(rows, routes, family, nlri, metric, group_id)
    for row in rows:
        if not row.nlris:
            rows.remove(row)
    return problems


def _adopt_route(
    rows: Rows, routes: ServiceRoutes, family: Family, nlri: Nlri, metric: int, group_id: int
) -> None:
    routes.adopt(family, nlri, metric, group_id)
    row = rows.by_id.get(group_id)
    if row is None:
        if metric == routes.metric:
            routes.doom(family, [nlri])
        return
    row.family = family
    other = rows.of[family].get(nlri)
    if other is not None and metric != routes.metric:
        return  # the route that counts is known already
    if other is not None:
        rows.leave(other, [nlri])
    rows.enter(row, [nlri])
    if metric == routes.metric:
        row.unrouted.discard(nlri)

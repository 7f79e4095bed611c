"""Plain routes: the nodes' pod blocks, default routes, and all else that has no buckets.

`want` says which gateways each prefix has, one or several (then ECMP by the kernel's own mpath
group), or that it is a blackhole; `work` makes it so, in small steps between which an event loop
may run. A pass reads what of ours the kernel holds (when it was told to, `read_again`), and writes
the difference in order: next hops, groups, routes; then what nobody wants, in reverse.

Ours are next hops with replica number 0, groups from PLAIN_GROUP_BASE on, and the routes of our
protocol by these or into a blackhole; nothing else is touched, and a route that somebody else made
for the same prefix and metric is not replaced. Groups are shared by content: the same gateways,
the same group. Nothing is deleted before `in_sync`. What the kernel refuses stays on its row, with
the reason, and is tried again; meanwhile the route that was there stays. A prefix none of whose
gateways is on a connected network has no route.

Not done: weights; choosing gateways (`plan`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from errno import EEXIST
from typing import TypeVar

from samepath.apply.delta import Delta, diff
from samepath.apply.plain_reading import (
    BLACKHOLE,
    Gateways,
    Key,
    PlainRow,
    Prefix,
    Standing,
    Target,
    read,
    sorted_out,
)
from samepath.apply.plain_reading import (
    routes as read_routes,
)
from samepath.apply.slots import NoSlotLeft, Slots
from samepath.model import ours
from samepath.model.net import Family, Nlri, family_of
from samepath.netlink import uapi
from samepath.netlink.connected import Connected
from samepath.netlink.kernel import Kernel, Results
from samepath.netlink.objects import Group, NextHop, Route
from samepath.netlink.ops import (
    ApplyError,
    DeleteNextHop,
    DeleteRoutes,
    Op,
    PutGroup,
    PutNextHop,
    PutRoute,
    PutRoutes,
)

__all__ = ["BLACKHOLE", "Gateways", "PlainRoutes", "PlainRow"]

_T = TypeVar("_T")

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
PIECE = 8192
"""Prefixes that are resolved in one step: some 5 ms."""


class PlainRoutes:
    def __init__(
        self,
        kernel: Kernel,
        slots: Slots,
        *,
        metric: int,
        blackhole_metric: int | None = None,
        blackholes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`blackhole_metric`: of blackholes, where other than `metric`; they should give way to
        whatever route somebody else has for the same prefix. `blackholes`: whether any are made."""
        self.blackholes = blackholes
        self.kernel = kernel
        self.slots = slots
        self.metric = metric
        self.blackhole_metric = metric if blackhole_metric is None else blackhole_metric
        self.clock = clock
        self.in_sync = False
        self.errors: dict[Prefix, str] = {}
        """Why a prefix is not, or not fully, as it is wanted."""
        self._wanted: dict[Prefix, Gateways] = {}
        self._routes: dict[Key, Target] = {}
        """Our routes in the kernel, as last read and written since; likewise the next two."""
        self._hops: dict[int, NextHop] = {}
        self._groups: dict[int, tuple[int, ...]] = {}
        self._adopted = False
        self._found: Standing | None = None
        self._must_read = True
        self._dirty = True
        self._settled = False
        self._was_in_sync = False
        self._retry_at = math.inf
        self._retry_after_s = RETRY_FIRST_S
        self.version = 0
        """Counts changes of what stands."""

    # what is wanted

    def want(self, wanted: Mapping[Prefix, Gateways]) -> None:
        """All that is wanted, from now on. Gateways are taken as a set."""
        if wanted != self._wanted:
            self._wanted = dict(wanted)
            self._dirty, self._settled = True, False

    def read_again(self, found: Standing | None = None) -> None:
        """The kernel may have changed: compare at the next pass, with what the caller has just read
        where it did (and nothing was written since)."""
        self._must_read = self._dirty = True
        self._found = found

    # what stands

    @property
    def next_look(self) -> float:
        """When `work` has something to do: a time of `clock`."""
        if self._dirty or self.in_sync != self._was_in_sync:
            return -math.inf
        return self._retry_at

    @property
    def installed(self) -> list[Prefix]:
        """Prefixes whose route stands in the kernel."""
        return [
            (family, nlri)
            for family, nlri, metric in self._routes
            if (family, nlri) in self._wanted and metric == self._metric(self._wanted[family, nlri])
        ]

    def is_installed(self, family: Family, nlri: Nlri) -> bool:
        gateways = self._wanted.get((family, nlri))
        return gateways is not None and (family, nlri, self._metric(gateways)) in self._routes

    @property
    def is_settled(self) -> bool:
        """All that is wanted was written, and nothing was refused."""
        return self._settled and not self.errors

    def standing(self) -> dict[Key, int]:
        """Our routes by a next hop or group, as we believe the kernel to have them."""
        return {key: id_ for key, id_ in self._routes.items() if isinstance(id_, int)}

    def used_slots(self) -> set[int]:
        """Slots that must keep their meaning."""
        ids = itertools.chain(self._hops, *self._groups.values())
        return {ours.slot_of(id_) for id_ in ids}

    @property
    def rows(self) -> list[PlainRow]:
        return [
            PlainRow(
                family,
                nlri,
                gateways,
                (family, nlri, self._metric(gateways)) in self._routes,
                self.errors.get((family, nlri), ""),
            )
            for (family, nlri), gateways in self._wanted.items()
        ]

    # the work

    def reconcile(self) -> None:
        """One whole pass at once."""
        for _ in self.work():
            pass

    def work(self) -> Iterator[None]:
        """One pass, in small steps; nothing if there is nothing to do."""
        if self.next_look > self.clock():
            return
        if self._retry_at <= self.clock():
            self._must_read = True  # a refusal may mean that the kernel is not as we think
        self._dirty, self._was_in_sync, self._retry_at = False, self.in_sync, math.inf
        if self._must_read:
            self._must_read = False
            yield from self._read()
        self.errors = {}
        connected = Connected.read(self.kernel)
        desired = yield from self._resolve(connected)
        yield
        yield from self._make_ways(desired)
        delta = diff(desired, self._routes)
        yield from self._make_routes(delta)
        if self.in_sync:
            yield from self._remove(delta, desired)
        self._schedule()

    def _schedule(self) -> None:
        # A change that came meanwhile has made it dirty again.
        self._settled = not self._dirty and not self.errors
        if not self.errors:
            self._retry_after_s = RETRY_FIRST_S
            return
        self._retry_at = self.clock() + self._retry_after_s
        self._retry_after_s = min(self._retry_after_s * 2, RETRY_MOST_S)

    # reading

    def _read(self) -> Iterator[None]:
        found, self._found = self._found, None
        if found is None and self._adopted:
            # One by one: there may be tens of thousands that are not of this driver.
            found = sorted_out(self.kernel.nexthop(i) for i in (*self._hops, *self._groups))
            for family in Family:
                yield
                found.routes.update(read_routes(self.kernel, family, blackholes=self.blackholes))
        elif found is None:
            found = read(self.kernel, blackholes=self.blackholes)
        if not self._adopted:
            self.slots.adopt(found.nexthops)
            self._adopted = True
        self._hops, self._groups = found.hops, found.groups
        yield
        if found.routes != self._routes:
            self._routes = found.routes
            self.version += 1
        yield

    # deciding

    def _resolve(self, connected: Connected) -> Generator[None, None, dict[Key, Target]]:
        """Where each wanted prefix leads; errors for gateways that lead nowhere."""
        answers: dict[Gateways, tuple[Target | None, str]] = {}
        desired: dict[Key, Target] = {}
        for count, ((family, nlri), gateways) in enumerate(self._wanted.items()):
            if count % PIECE == PIECE - 1:
                yield
            if gateways not in answers:
                answers[gateways] = self._answer(gateways, connected)
            target, error = answers[gateways]
            if error:
                self.errors[family, nlri] = error
            if target is not None:
                desired[family, nlri, self._metric(gateways)] = target
        return desired

    def _metric(self, gateways: Gateways) -> int:
        return self.blackhole_metric if gateways is BLACKHOLE else self.metric

    def _answer(self, gateways: Gateways, connected: Connected) -> tuple[Target | None, str]:
        if gateways is BLACKHOLE:
            return BLACKHOLE, ""
        ids: list[int] = []
        errors = []
        # In the order of addresses, so that every router has the same group, whatever it has seen:
        # which flows a member of an mpath group takes depends on its place.
        for gateway in sorted(set(gateways)):
            oif = connected(gateway)
            if oif is None:
                errors.append(connected.why_not(gateway))
                continue
            try:
                ids.append(ours.replica_id(self.slots.slot(gateway, oif), 0))
            except NoSlotLeft as full:
                errors.append(str(full))
        if not gateways:
            errors.append("no gateway")
        error = "; ".join(errors)
        if len(ids) < 2:
            return next(iter(ids), None), error
        return self._group_of(tuple(ids)), error

    def _group_of(self, members: tuple[int, ...]) -> int:
        """The id of the group of these members: the one that there is, or the lowest free."""
        for id_, present in self._groups.items():
            if present == members:
                return id_
        id_ = next(i for i in range(ours.PLAIN_GROUP_BASE, ours.GROUP_END) if i not in self._groups)
        self._groups[id_] = members
        return id_

    # making

    def _make_ways(self, desired: dict[Key, Target]) -> Iterator[None]:
        """Next hops and groups that `desired` needs and the kernel lacks. Prefixes by those
        that are refused keep what they have."""
        targets = {target for target in desired.values() if isinstance(target, int)}
        groups = {id_: self._groups[id_] for id_ in targets if ours.is_plain_group(id_)}
        hops = {id_ for id_ in targets if id_ not in groups}.union(*groups.values())
        refused: dict[int, str] = {}
        missing = [hop for hop in map(self._hop, sorted(hops)) if self._hops.get(hop.id) != hop]
        results = yield from self._apply([PutNextHop(hop) for hop in missing])
        for hop, error in zip(missing, results, strict=True):
            if error is None:
                self._hops[hop.id] = hop
            else:
                refused[hop.id] = error.text
        yield from self._make_groups(groups, refused)
        for key in [k for k, target in desired.items() if target in refused]:
            target = desired.pop(key)
            assert isinstance(target, int)
            self.errors[key[:2]] = refused[target]
            if key in self._routes:
                desired[key] = self._routes[key]

    def _make_groups(
        self, groups: dict[int, tuple[int, ...]], refused: dict[int, str]
    ) -> Iterator[None]:
        wanted = []
        for id_, members in groups.items():
            bad = [refused[m] for m in members if m in refused]
            if bad:
                refused[id_] = bad[0]
            elif self.kernel.nexthop(id_) != (group := Group(id_, members)):
                wanted.append(group)
        yield
        results = yield from self._apply([PutGroup(group) for group in wanted])
        for group, error in zip(wanted, results, strict=True):
            if error is not None:
                refused[group.id] = error.text

    def _hop(self, id_: int) -> NextHop:
        way = self.slots.way(ours.slot_of(id_))
        assert way is not None, "every slot of a desired route has its way"
        gateway, oif = way
        return NextHop(id_, family_of(gateway), gateway, oif)

    def _make_routes(self, delta: Delta[Key, Target]) -> Iterator[None]:
        yield from self._put(delta.create, exclusive=True)
        yield from self._put(delta.update, exclusive=False)

    def _put(self, routes: dict[Key, Target], *, exclusive: bool) -> Iterator[None]:
        bulk: dict[tuple[Family, int], list[Nlri]] = defaultdict(list)
        ops: list[Op] = []
        for (family, nlri, metric), target in routes.items():
            if isinstance(target, int):
                bulk[family, target].append(nlri)
            else:
                route = Route(family, nlri, metric=metric, type=uapi.RTN_BLACKHOLE)
                ops.append(PutRoute(route, exclusive))
        for (family, target), nlris in bulk.items():
            ops.append(PutRoutes(family, nlris, target, self.metric, exclusive=exclusive))
        for op, error in zip(ops, (yield from self._apply(ops)), strict=True):
            for key in self._keys(op):
                said = _said(error, key[1])
                if said:
                    self.errors[key[:2]] = said
                else:
                    self._routes[key] = routes[key]
                    self.version += 1

    @staticmethod
    def _keys(op: Op) -> Iterator[Key]:
        if isinstance(op, PutRoute):
            yield op.route.family, op.route.nlri, op.route.metric
        elif isinstance(op, PutRoutes | DeleteRoutes):
            for nlri in op.nlris:
                yield op.family, nlri, op.metric

    # unmaking

    def _remove(self, delta: Delta[Key, Target], desired: Mapping[Key, Target]) -> Iterator[None]:
        """Routes, groups, next hops that nothing names any more."""
        bulk: dict[tuple[Family, int], list[Nlri]] = defaultdict(list)
        for family, nlri, metric in delta.delete:
            # Wanted, but without a way now: the old route would lead nowhere, too.
            bulk[family, metric].append(nlri)
        ops: list[Op] = [DeleteRoutes(family, n, metric) for (family, metric), n in bulk.items()]
        for op, error in zip(ops, (yield from self._apply(ops)), strict=True):
            for key in self._keys(op):
                said = _said(error, key[1])
                if said:
                    self.errors[key[:2]] = said
                else:
                    self._routes.pop(key, None)
                    self.version += 1
        used = {t for t in (*self._routes.values(), *desired.values()) if isinstance(t, int)}
        yield from self._remove_ways([i for i in self._groups if i not in used], self._groups)
        used.update(itertools.chain.from_iterable(self._groups.values()))
        yield from self._remove_ways([i for i in self._hops if i not in used], self._hops)

    def _remove_ways(self, ids: list[int], known: dict[int, _T]) -> Iterator[None]:
        results = yield from self._apply([DeleteNextHop(id_) for id_ in ids])
        for id_, error in zip(ids, results, strict=True):
            if error is None:
                known.pop(id_, None)
            else:
                self._retry_at = self.clock() + self._retry_after_s

    def _apply(self, ops: list[Op]) -> Generator[None, None, Results]:
        """Apply, pausing after each batch."""
        steps = self.kernel.apply_steps(ops)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                results: Results = done.value
                return results
            yield


def _said(error: ApplyError | None, nlri: Nlri) -> str:
    """Why this one prefix was refused; empty if it was not."""
    if error is None or (error.failed and nlri not in error.failed):
        return ""
    if error.errno == EEXIST:
        return "another route to it with the same metric is there already"
    return error.failed.get(nlri, error.text)

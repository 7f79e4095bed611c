"""Services in the kernel: resilient groups whose every bucket we own, and the routes to them.

`programs.gateway` says what each prefix wants (`want`), and runs `work()`, a generator that does
one small piece between two yields, so that the event loop is never held up. Each pass: prefixes are
put to groups, groups take their next step (replicas first, then the group in place), routes are
written in batches, and what nothing uses any more is removed in reverse order.

Prefixes share a group only while both their present owners and their target are identical
(DESIGN §5). A prefix whose target changes alone first gets a group that copies its present owners,
so that no flow of it moves; when its moves are done, it joins a group with the same target.

Nothing is deleted before `in_sync`. Failures stay on their row, dirty, and are tried again.
What is not done: choosing owners (`hashing`), plain routes (`apply.routes`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samepath.apply.replicas import Replicas, assign
from samepath.apply.row import Row
from samepath.apply.rows import Rows
from samepath.apply.slots import Slots
from samepath.hashing.step import Step
from samepath.hashing.table import from_owners
from samepath.model.net import Address, Family, Nlri
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE, slot_of
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Group, NextHop, Route
from samepath.netlink.ops import (
    DeleteNextHop,
    DeleteRoutes,
    Op,
    PutGroup,
    PutNextHop,
    PutRoutes,
)
from samepath.plan.gateway import Target

ROUTES_A_STEP = 4096
"""About 15 ms of work."""


@dataclass(slots=True)
class Counters:
    """Buckets moved since the program began, by why they could."""

    departed: int = 0
    idle: int = 0
    deadline: int = 0


class ResilientRoutes:
    """The driver of all service prefixes of one gateway."""

    def __init__(
        self,
        kernel: Kernel,
        slots: Slots,
        *,
        buckets: int,
        metric: int,
        idle_timer_s: float,
        move_deadline_s: float | None,
        connected: Callable[[Address], int | None],
        clock: Callable[[], float],
    ) -> None:
        self.kernel = kernel
        self.slots = slots
        self.buckets = buckets
        self.metric = metric
        self.idle_timer_s = idle_timer_s
        self.move_deadline_s = move_deadline_s
        self.connected = connected
        self.clock = clock
        self.in_sync = False
        self.moved = Counters()
        self.rows = Rows()
        self.routed: dict[Family, set[Nlri]] = {f: set() for f in Family}
        """Prefixes whose route stands in the kernel: what may be advertised onward."""
        self.orphans: dict[Family, set[Nlri]] = {f: set() for f in Family}
        """Adopted prefixes that nobody has asked for yet; deleted once in sync."""
        self._replicas = Replicas()
        self._changed: dict[tuple[Family, Nlri], Target | None] = {}
        self._doomed: dict[Family, set[Nlri]] = {f: set() for f in Family}
        self._empty: list[int] = []
        """Groups without prefixes, to be deleted after the routes that left them."""
        self.errors: dict[tuple[Family, Nlri], str] = {}
        """Routes that the kernel refused."""

    # what is wanted

    def want(self, family: Family, nlris: Iterable[Nlri], target: Target | None) -> None:
        """From now on these prefixes have this target; None: they are gone."""
        changed, orphans = self._changed, self.orphans[family]
        if target is None:
            held = self.rows.of[family]
            nlris = [n for n in nlris if n in held or (family, n) in changed]
        for nlri in nlris:
            changed[family, nlri] = target
        if orphans:
            orphans.difference_update(nlris)

    def links_changed(self) -> None:
        """Next hops may resolve otherwise: look at every row."""
        for row in self.rows:
            row.dirty = True
            row.look_at = -math.inf

    def configure(
        self, *, buckets: int, idle_timer_s: float, move_deadline_s: float | None
    ) -> None:
        """Another number of buckets makes every table anew, and every flow may move."""
        self.idle_timer_s, self.move_deadline_s = idle_timer_s, move_deadline_s
        for row in self.rows:
            if row.waiting or buckets != self.buckets:
                row.look_at = -math.inf
        self.buckets = buckets

    # what is there

    def adopt(
        self,
        nexthops: Iterable[NextHop],
        groups: Iterable[Group],
        routes: Mapping[Family, Sequence[Route]],
    ) -> list[str]:
        """Take over what an earlier process of ours left; returns what could not be adopted, in
        words. Every adopted group starts dirty only when its target turns out to be another."""
        hops = {n.id: n for n in nexthops}
        self._replicas.adopt(hops.values())
        problems = []
        for group in groups:
            if not (group.resilient and GROUP_BASE <= group.id < PLAIN_GROUP_BASE):
                continue
            ids = self.kernel.bucket_state(group.id).ids
            owners = [hops[i].gateway if i in hops else None for i in ids]
            known = [owner for owner in owners if owner is not None]
            if len(known) != len(ids):
                problems.append(f"group {group.id:#x} names next hops that are not there")
                continue
            row = Row(group.id, Family.IPV4, Target(()), dirty=False, in_kernel=True)
            row.present = from_owners(known)
            row.names(ids)
            self.rows.add(row)
        for family, known_routes in routes.items():
            for route in known_routes:
                adopted = self.rows.by_id.get(route.nexthop_id or 0)
                if adopted is not None and route.metric == self.metric:
                    adopted.family = family
                    adopted.nlris.add(route.nlri)
                    self.rows.of[family][route.nlri] = adopted
                    self.routed[family].add(route.nlri)
                    self.orphans[family].add(route.nlri)
        self._empty += [row.id for row in self.rows if not row.nlris]
        return problems

    def adopted_hops(self) -> set[Address]:
        """The next hops that adopted groups name."""
        tables = (row.present for row in self.rows if row.nlris)
        return {member for table in tables if table is not None for member in table.members}

    def forgotten(self, group_ids: set[int], nexthop_ids: set[int],
                  routes: Mapping[Family, set[Nlri]]) -> bool:  # fmt: skip
        """Compare with what a fresh read of the kernel holds, and mark what it lost. The owners
        that a lost group had are remembered: it is made again as it was."""
        lost = False
        made = {i for i in self._replicas.ids() if i not in nexthop_ids}
        self._replicas.gone(made)
        for row in self.rows:
            if not row.in_kernel:
                continue
            if row.id not in group_ids or (made and not made.isdisjoint(row.entries)):
                row.in_kernel, row.dirty, row.look_at = False, True, -math.inf
                missing = set(row.nlris)
            else:
                missing = row.nlris & self.routed[row.family] - routes[row.family]
            row.unrouted |= missing
            self.routed[row.family] -= missing
            lost = lost or bool(missing)
        return lost

    # the work

    @property
    def next_look(self) -> float:
        """When `work` has something to do by itself."""
        if not self.in_sync:
            return math.inf
        if self._changed:
            return -math.inf
        return min((row.look_at for row in self.rows), default=math.inf)

    def work(self) -> Iterator[None]:
        """One pass, in small steps. Errors are left on the rows."""
        if not self.in_sync:
            return
        for family in Family:
            self.want(family, list(self.orphans[family]), None)
            self.orphans[family].clear()
        yield from self._regroup()
        for row in self.rows:
            now = self.clock()
            if row.nlris and row.due(now):
                self._advance(row, now)
                yield
        yield from self._merge()
        yield from self._route()
        yield from self._remove()

    def _regroup(self) -> Iterator[None]:
        """Put prefixes whose target changed to rows."""
        changed, self._changed = self._changed, {}
        parts: dict[tuple[Family, Row | None, Target | None], list[Nlri]] = defaultdict(list)
        for (family, nlri), target in changed.items():
            parts[family, self.rows.of[family].get(nlri), target].append(nlri)
        for (family, row, target), nlris in parts.items():
            if target is None:
                if row is not None:
                    self.rows.leave(row, nlris)
                    self._doomed[family].update(nlris)
            elif row is None:
                self._doomed[family].difference_update(nlris)
                self.rows.enter(self.rows.home(family, target), nlris)
            elif row.target == target:
                continue
            elif len(nlris) == len(row.nlris):
                row.retarget(target)
            else:
                self._split(row, target, nlris)
            yield

    def _split(self, row: Row, target: Target, nlris: list[Nlri]) -> None:
        """Some prefixes of a row get a target of their own: a copy of the present owners, one step
        on, or a row that is just there already."""
        now = self.clock()
        idle = _Idle(self.kernel, row)
        copy = Row(0, row.family, target, present=row.present)
        step = self._plan(copy, idle, now)
        self.rows.leave(row, nlris)
        twin = self.rows.twin(row.family, target, step.owners) if step is not None else None
        if twin is not None:
            self.rows.enter(twin, nlris)
            return
        made = self.rows.new(row.family, target)
        made.present = copy.present
        made.names(row.entries)
        self.rows.enter(made, nlris)
        if step is not None:
            self._write(made, step, idle, now)

    def _plan(self, row: Row, idle: _Idle, now: float) -> Step | None:
        return row.plan(
            buckets=self.buckets,
            usable=lambda address: self.connected(address) is not None,
            idle_s=idle,
            idle_timer_s=self.idle_timer_s,
            deadline_s=self.move_deadline_s,
            now=now,
        )

    def _advance(self, row: Row, now: float) -> None:
        idle = _Idle(self.kernel, row)
        step = self._plan(row, idle, now)
        if step is not None:
            self._write(row, step, idle, now)
            return
        # Nothing to forward to: upstream must not send it here. The owners are remembered.
        gone = row.nlris & self.routed[row.family]
        self._doomed[row.family] |= gone
        row.unrouted |= gone
        if row.in_kernel:
            self._empty.append(row.id)
        row.in_kernel, row.waiting = False, ()
        row.failed("no next hop is on a connected network whose link is up", now)

    def _write(self, row: Row, step: Step, idle: _Idle, now: float) -> None:
        """Bring the kernel's group to `step.owners`."""
        if row.present is not None and row.present.buckets != step.owners.buckets:
            # Another number of buckets is another group: the kernel cannot change it in place.
            self._empty.append(row.id)
            self.rows.renumber(row)
            row.in_kernel, row.present = False, None
            row.names(())
        hops = {}
        slots = []
        for member in step.owners.members:
            interface = self.connected(member)
            assert interface is not None, "a step gives no bucket to a next hop that is unusable"
            slot = self.slots.slot(member, interface)
            hops[slot] = (member, interface)
            slots.append(slot)
        by_bucket = [slots[i] for i in step.owners.owners.tolist()]
        entries = assign(by_bucket, row.entries if row.in_kernel else None)
        if not row.in_kernel or list(row.entries) != entries:
            missing = self._replicas.missing(entries, hops)
            # The kernel lists a group's buckets from its last entry to its first (KERNEL.md §2).
            # Its own idle timer is 0 so that the buckets of a new group count as used just now.
            group = Group(row.id, tuple(reversed(entries)), resilient=True, buckets=len(entries))
            ops: list[Op] = [*(PutNextHop(n) for n in missing), PutGroup(group)]
            errors = [error for error in self.kernel.apply(ops) if error is not None]
            if errors:
                self._replicas.adopt(self.kernel.nexthops()[0])
                row.failed(errors[0].text, now)
                return
            self._replicas.made(missing)
            self._count(step, row, idle)
        row.names(entries)
        if not row.in_kernel:
            row.in_kernel = True
            row.unrouted |= row.nlris
        row.succeeded()
        row.stepped(step, idle.read, now, self.idle_timer_s, self.move_deadline_s)
        if any(slot_of(e) != s for e, s in zip(entries, by_bucket, strict=True)):
            ways = [self.slots.way(slot_of(entry)) for entry in entries]
            row.present = from_owners([way[0] for way in ways if way is not None])
            row.dirty, row.look_at = True, now  # the rest moves in the next step

    def _count(self, step: Step, row: Row, idle: _Idle) -> None:
        living = {hop.address for hop in row.target.hops if self.connected(hop.address)}
        for move in step.moved:
            if move.old not in living:
                self.moved.departed += 1
            elif idle.read is not None and idle.read[move.bucket] >= self.idle_timer_s:
                self.moved.idle += 1
            else:
                self.moved.deadline += 1

    def _merge(self) -> Iterator[None]:
        """Settled groups of one target become one."""
        for row in self.rows:
            if not (row.settled and row.nlris):
                continue
            home = self.rows.settled_home(row)
            if home is not row:
                nlris = list(row.nlris)
                self.rows.leave(row, nlris)
                self.rows.enter(home, nlris)
                yield

    def _route(self) -> Iterator[None]:
        for row in self.rows:
            if not (row.in_kernel and row.unrouted):
                continue
            nlris = list(row.unrouted)
            for start in range(0, len(nlris), ROUTES_A_STEP):
                part = nlris[start : start + ROUTES_A_STEP]
                error = self.kernel.apply([PutRoutes(row.family, part, row.id, self.metric)])[0]
                failed = dict(error.failed) if error is not None else {}
                if error is not None and not failed:
                    failed = dict.fromkeys(part, error.text)
                done = [n for n in part if n not in failed] if failed else part
                row.unrouted.difference_update(done)
                self.routed[row.family].update(done)
                self._doomed[row.family].difference_update(done)
                for nlri in part:
                    self.errors.pop((row.family, nlri), None)
                self.errors.update({(row.family, n): text for n, text in failed.items()})
                yield
            if row.unrouted:
                row.failed(f"{len(row.unrouted)} routes were refused", self.clock())

    def _remove(self) -> Iterator[None]:
        for family, doomed in self._doomed.items():
            nlris = list(doomed)
            for start in range(0, len(nlris), ROUTES_A_STEP):
                part = nlris[start : start + ROUTES_A_STEP]
                error = self.kernel.apply([DeleteRoutes(family, part, self.metric)])[0]
                failed = set(error.failed or part) if error is not None else set()
                doomed.difference_update(n for n in part if n not in failed)
                self.routed[family].difference_update(n for n in part if n not in failed)
                yield
        self._empty += [row.id for row in self.rows if not row.nlris]
        empty, self._empty = self._empty, []
        for number in dict.fromkeys(empty):
            row = self.rows.by_id.get(number)
            if row is not None and (row.nlris and row.in_kernel):
                continue
            error = self.kernel.apply([DeleteNextHop(number)])[0]
            if error is not None:
                self._empty.append(number)
            elif row is not None and not row.nlris:
                self.rows.remove(row)
            yield
        yield from self._trim()

    def _trim(self) -> Iterator[None]:
        """Remove the replicas of next hops that nothing names any more."""
        used = set().union(*(row.slots for row in self.rows))
        unused = self._replicas.unused(used)
        if unused:
            self.kernel.apply([DeleteNextHop(i) for i in unused])
            self._replicas.gone(unused)
            yield


class _Idle:
    """The idle times of a row's buckets, read at most once and only when asked."""

    def __init__(self, kernel: Kernel, row: Row) -> None:
        self.kernel, self.row = kernel, row
        self.read: list[float] | None = None

    def __call__(self) -> list[float] | None:
        if self.row.in_kernel and self.read is None:
            self.read = self.kernel.bucket_state(self.row.id).idle_s
        return self.read

"""Services in the kernel: resilient groups whose every bucket we own, and the routes to them.

`programs.gateway` says what each prefix wants (`want`), and runs `work()`, a generator that does
one small piece between two yields, so that the event loop is never held up. Each pass: prefixes are
put to groups, groups take their next step (`apply.tables`: replicas first, then the group in
place), routes are written in batches (`apply.service_routes`), and what nothing uses any more is
removed in reverse order. `want`, `links_changed` and `configure` only mark, and may be called
between two pieces.

Prefixes share a group only while both their present owners and their target are identical
(DESIGN §5). A prefix whose target changes alone first gets a group that copies its present owners,
so that no flow of it moves; when its moves are done, it joins a group with the same target.

Nothing is written or deleted before `in_sync`. Failures stay on their row and are tried again.
What is not done: choosing owners (`hashing`), plain routes (`apply.routes`), reading the kernel
back (`apply.readback`; `mend` takes the differences).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

from samepath.apply.adoption import adopt
from samepath.apply.counters import Counters
from samepath.apply.mending import mend
from samepath.apply.readback import Difference, Expected
from samepath.apply.row import Elsewhere, Idle, Row, look_pause_s
from samepath.apply.rows import Rows
from samepath.apply.service_routes import ServiceRoutes
from samepath.apply.slots import Slots
from samepath.apply.tables import Outcome, Tables
from samepath.hashing.step import Step
from samepath.model.net import Address, Family, Nlri
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.socket import NetlinkError
from samepath.plan.gateway import Target

PIECE = 4096
"""Prefixes that are put to another group in one step: some 5 ms."""
RETRY_S = 1.0
"""A deletion that the kernel refused is tried again after so long."""


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
        why_not: Callable[[Address], str] = lambda address: "",
    ) -> None:
        """`connected`: the link that a next hop is on; `why_not`: for people, if on none."""
        self.kernel = kernel
        self.buckets = buckets
        self.idle_timer_s = idle_timer_s
        self.move_deadline_s = move_deadline_s
        self.clock = clock
        self.in_sync = False
        self.moved = Counters()
        self.rows = Rows()
        self.tables = Tables(kernel, slots, connected=connected, why_not=why_not)
        self.routes = ServiceRoutes(kernel, metric)
        self.elsewhere: Elsewhere | None = None
        """Of the BPF data plane, while it takes the packets."""
        self.orphans: dict[Family, set[Nlri]] = {f: set() for f in Family}
        """Adopted prefixes that nobody has asked for yet; deleted once in sync."""
        self._changed: dict[Family, dict[Nlri, Target | None]] = {f: {} for f in Family}
        self._in_hand: Row | None = None
        """The row whose step is being made."""
        self._retry_at = math.inf
        self._pause_s = look_pause_s(0.0)

    # what is wanted

    def want(self, family: Family, nlris: Iterable[Nlri], target: Target | None) -> None:
        """From now on these prefixes have this target; None: they are gone."""
        changed, orphans = self._changed[family], self.orphans[family]
        if target is None:
            held = self.rows.of[family]
            nlris = [n for n in nlris if n in held or n in changed]
        changed.update(dict.fromkeys(nlris, target))
        if orphans:
            orphans.difference_update(nlris)

    def links_changed(self) -> None:
        """Next hops may resolve otherwise: look at every row."""
        self.tables.refused.clear()
        for row in self.rows:
            row.touch()

    def configure(
        self, *, buckets: int, idle_timer_s: float, move_deadline_s: float | None
    ) -> None:
        """Another number of buckets makes every table anew, and every flow may move."""
        self.idle_timer_s, self.move_deadline_s = idle_timer_s, move_deadline_s
        for row in self.rows:
            if row.waiting or buckets != self.buckets:
                row.touch()
        self.buckets = buckets

    # what is there

    @property
    def routed(self) -> Mapping[Family, Mapping[Nlri, int]]:
        """Prefixes whose route stands in the kernel, with its group: what may be advertised."""
        return self.routes.stands

    @property
    def is_busy(self) -> bool:
        """Something is still to be written: more than moves that wait for their buckets."""
        return (
            any(self._changed.values())
            or any(self.orphans.values())
            or self._in_hand is not None
            or any(r.dirty or r.error or r.unrouted or not r.in_kernel for r in self.rows)
            or not self.routes.is_done
            or bool(self.rows.left_over)
        )

    @property
    def holds_any(self) -> bool:
        """Whether any service is wanted or routed."""
        return any(self.rows.of.values()) or any(self.routed.values())

    @property
    def is_cut_off(self) -> bool:
        """There are tables, and not one of their next hops is on a link that can be used."""
        connected = self.tables.connected
        hops = {hop.address for row in self.rows if row.present for hop in row.target.hops}
        return bool(hops) and not any(connected(address) for address in hops)

    def hops(self) -> dict[tuple[Family, Nlri], frozenset[Address]]:
        """Who owns buckets of each prefix now."""
        return {
            (row.family, nlri): frozenset(row.present.counts())
            for row in self.rows
            if row.present is not None
            for nlri in row.nlris
        }

    def used_slots(self) -> set[int]:
        """Slots that must keep their meaning."""
        return self.tables.used_slots(self.rows)

    def adopt(
        self,
        nexthops: Iterable[NextHop],
        groups: Iterable[Group],
        routes: Mapping[Family, Mapping[tuple[Nlri, int], int]],
    ) -> list[str]:
        """Take over what an earlier process of ours left; returns what could not be adopted, in
        words. `routes`: (prefix, metric) -> next hop id. A row starts dirty only when its target
        turns out to be another."""
        hops = list(nexthops)
        self.tables.replicas.adopt(hops)
        problems = adopt(self.kernel, self.rows, self.routes, hops, groups, routes)
        for family in Family:
            self.orphans[family] = set(self.rows.of[family])
        return problems

    def expected(self) -> Expected:
        """What the kernel should hold, as a snapshot for `readback.compare`."""
        replicas, slots = self.tables.replicas, self.tables.slots
        return Expected(
            groups={row.id: row.entries for row in self.rows if row.in_kernel},
            left_over=set(self.rows.left_over),
            replicas=replicas.ids(),
            ways={slot: way for slot in replicas.slots if (way := slots.way(slot)) is not None},
            routes={family: dict(routes) for family, routes in self.routed.items()},
            metric=self.routes.metric,
        )

    def mend(self, difference: Difference) -> None:
        """Mark what the kernel lost and what others changed: the next pass makes it as it was."""
        self.tables.doubtful = False
        mend(self.rows, self.tables, self.routes, difference)

    # the work

    @property
    def next_look(self) -> float:
        """When `work` has something to do by itself."""
        if not self.in_sync:
            return math.inf
        if any(self._changed.values()) or any(self.orphans.values()):
            return -math.inf
        return min(self._retry_at, *(row.next_look for row in self.rows), math.inf)

    def work(self) -> Iterator[None]:
        """One pass, in small steps. Errors are left on the rows."""
        if not self.in_sync:
            return
        yield from self.regroup()
        began = self.clock()
        for row in self.rows:
            now = self.clock()
            if row.nlris and row.due(now):
                yield from self._advance(row, now)
                yield
        self._pause_s = look_pause_s(self.clock() - began)
        yield from self._merge()
        for row in self.rows:
            if row.in_kernel and row.unrouted and row.routes_at <= self.clock():
                good = yield from self.routes.put(row)
                if not good:
                    row.routes_failed(self.clock())
        yield from self._remove()

    def _remove(self) -> Iterator[None]:
        if self._retry_at > self.clock() and self._retry_at != math.inf:
            return
        good = yield from self.routes.delete(self.rows.of)
        for row in self.rows:
            if not row.nlris and not self.routes.uses[row.id]:
                self.rows.remove(row)
        free = [n for n in self.rows.left_over if not self.routes.uses[n]]
        good &= yield from self.tables.remove(self.rows, free)
        self._retry_at = math.inf if good else self.clock() + RETRY_S

    # prefixes to groups

    def regroup(self) -> Iterator[None]:
        """The first part of a pass: which row has which prefixes and which target."""
        if not self.in_sync:
            return
        for family in Family:
            self.want(family, list(self.orphans[family]), None)
            self.orphans[family].clear()
        yield from self._regroup()

    def _regroup(self) -> Iterator[None]:
        """Put prefixes whose target changed to rows: first those that go, so that a row whose
        others go is not split."""
        for family in Family:
            changed, rows = self._changed[family], self.rows.of[family]
            by_object: dict[tuple[int, int], list[Nlri]] = defaultdict(list)
            for count, nlri in enumerate(list(changed), 1):
                by_object[id(rows.get(nlri)), id(changed[nlri])].append(nlri)
                if count % PIECE == 0:
                    yield
            parts: dict[tuple[Row | None, Target | None], list[Nlri]] = defaultdict(list)
            for nlris in by_object.values():
                parts[rows.get(nlris[0]), changed[nlris[0]]] += nlris
            for (row, target), nlris in sorted(parts.items(), key=_has_target):
                yield from self._regroup_part(family, row, target, nlris)

    def _regroup_part(
        self, family: Family, row: Row | None, target: Target | None, nlris: list[Nlri]
    ) -> Iterator[None]:
        changed = self._changed[family]
        nlris = [n for n in nlris if changed.get(n, self) == target]  # still
        if not nlris:
            return
        if row is None or target is None or row.target == target:
            home = self.rows.home(family, target) if row is None and target is not None else None
            for piece in self._pieces(family, target, nlris):
                if home is not None:
                    self.routes.keep(family, piece)
                    self.rows.enter(home, piece)
                elif row is not None and target is None:
                    self.rows.leave(row, piece)
                    self.routes.doom(family, piece)
                yield
        elif len(nlris) < len(row.nlris):
            yield from self._split(row, target, nlris)
        else:
            self.rows.retarget(row, target)
            for nlri in nlris:
                del changed[nlri]
            yield

    def _pieces(
        self, family: Family, target: Target | None, nlris: list[Nlri]
    ) -> Iterator[list[Nlri]]:
        """In pieces, taken from what is to be done, those for which `target` is still wanted."""
        changed = self._changed[family]
        for start in range(0, len(nlris), PIECE):
            piece = [n for n in nlris[start : start + PIECE] if changed.get(n, self) == target]
            for nlri in piece:
                del changed[nlri]
            yield piece

    def _split(self, row: Row, target: Target, nlris: list[Nlri]) -> Iterator[None]:
        """Some prefixes of a row get a target of their own: a copy of the present owners, one step
        on, or a row that is just there already."""
        now = self.clock()
        idle = Idle(self.kernel, row, self.elsewhere)
        copy = Row(0, row.family, target, present=row.present, entries=row.entries)
        copy.waiting_since = dict(row.waiting_since)
        step = self._plan(copy, idle, now)
        twin = self.rows.twin(row.family, target, step.owners) if step is not None else None
        made = twin or self.rows.new(row.family, target)
        if twin is None:
            made.present, made.waiting_since = copy.present, copy.waiting_since
        for piece in self._pieces(row.family, target, nlris):
            self.rows.leave(row, piece)
            self.rows.enter(made, piece)
            yield
        if twin is None and step is not None:
            # At once, for the idle times are those of the old group: a new one has none.
            made.dirty = False
            outcome = yield from self._write(made, step, idle, now)
            made.dirty |= outcome is Outcome.PLAN_AGAIN

    def _merge(self) -> Iterator[None]:
        """Settled groups of one target become one."""
        for row in self.rows:
            home = self.rows.settled_home(row) if row.settled and row.nlris else row
            nlris = list(row.nlris) if home is not row else []
            for start in range(0, len(nlris), PIECE):
                piece = nlris[start : start + PIECE]
                self.rows.leave(row, piece)
                self.rows.enter(home, piece)
                yield

    # a group's next step

    def _plan(self, row: Row, idle: Idle, now: float) -> Step | None:
        return row.plan(
            buckets=self.buckets,
            usable=lambda address: self.tables.usable(address, now),
            idle_s=idle,
            idle_timer_s=self.idle_timer_s,
            deadline_s=self.move_deadline_s,
            now=now,
        )

    def _advance(self, row: Row, now: float) -> Iterator[None]:
        self._in_hand = row
        # What comes from now on makes it dirty again.
        row.dirty, row.look_at, row.error = False, math.inf, ""
        outcome = Outcome.PLAN_AGAIN
        try:
            while outcome is Outcome.PLAN_AGAIN:
                idle = Idle(self.kernel, row, self.elsewhere)
                step = self._plan(row, idle, now)
                if step is None:
                    self._shut(row, now)
                    break
                outcome = yield from self._write(row, step, idle, now)
            if not row.error:
                self._say_refused(row, now)
        except NetlinkError as error:
            row.failed(f"its buckets could not be read: {error}", now)
        self._in_hand = None

    def _write(
        self, row: Row, step: Step, idle: Idle, now: float
    ) -> Generator[None, None, Outcome]:
        """Bring the kernel's group to `step.owners`."""
        if row.present is not None and row.present.buckets != step.owners.buckets:
            # Another number of buckets is another group: the kernel cannot change it in place.
            self.rows.abandon(row)
            row.present = None
        outcome = yield from self.tables.write(row, step.owners, now)
        if outcome is Outcome.FAILED and not row.in_kernel:
            self.rows.abandon(row)  # whoever has that id may keep it
        if outcome not in (Outcome.WRITTEN, Outcome.SAME):
            return outcome
        if outcome is Outcome.WRITTEN:
            living = {h.address for h in row.target.hops if self.tables.connected(h.address)}
            self.moved.count(step, living, idle.read, self.idle_timer_s)
        if not row.in_kernel:
            row.in_kernel = True
            row.unrouted |= row.nlris
        row.failures = 0
        look_at = row.look_at
        row.stepped(step, idle.read, now, self.idle_timer_s, self.move_deadline_s, self._pause_s)
        row.look_at = min(row.look_at, look_at)
        return outcome

    def _say_refused(self, row: Row, now: float) -> None:
        """The row stands without the next hops that the kernel refuses; they are tried again."""
        refused = self.tables.refused
        ways = [(h.address, self.tables.connected(h.address) or 0) for h in row.target.hops]
        for way in ways:
            if refused.is_refused(way, now):
                row.error = f"{row.error}; {refused.why(way)}".removeprefix("; ")
                row.look_at = min(row.look_at, refused.until(way))

    def _shut(self, row: Row, now: float) -> None:
        """Nothing to forward to: upstream must not send it here. The owners are remembered."""
        self.routes.doom(row.family, row.nlris)
        if row.in_kernel:
            self.rows.abandon(row)
        row.waiting = ()
        reasons = sorted({self.tables.why_unusable(hop.address) for hop in row.target.hops})
        row.failed(f"no next hop can be used: {'; '.join(reasons)}", now)


def _has_target(part: tuple[tuple[Row | None, Target | None], list[Nlri]]) -> bool:
    return part[0][1] is not None

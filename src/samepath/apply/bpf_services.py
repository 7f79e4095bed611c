"""Services in the BPF data plane: the same targets as the kernel's groups, brought about at once.

`ResilientRoutes` (apply.groups) decides which prefixes there are, which row they belong to and what
each row's target is; this driver takes that over after each of its passes and makes the maps so:
every bucket has its new owner at once, and where flows of the former one may live the bucket is in
transition (`plan.transitions`). `work()` is a generator that does one small piece between two
yields; programs.gateway runs it in a thread.

Order: next hops before the buckets that name them, tables before the services that use them;
unmade in reverse. Services whose targets part get a copy of their table, transitions and all, so no
flow moves for that; steady tables of one target become one. Nothing is deleted before `in_sync`.
All that is needed stands in the maps: a new process reads them and goes on, and so does this one
every half minute and after any failure.

What is not done: prefixes that are no host routes stay with the kernel's groups (`beyond`). Which
links the program is attached to is `apply.bpf_links`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from errno import EBADF

import numpy as np

from samepath.apply.bpf_hops import Hops, NoIndexLeft
from samepath.apply.bpf_plane import Mode, Plane, buckets_of, seconds_of, ticks_of
from samepath.apply.bpf_tables import (
    BpfTables,
    Counts,
    Held,
    Wish,
    former_of,
    owners_of,
    wish_of,
)
from samepath.apply.groups import ResilientRoutes
from samepath.apply.row import LOOK_AT_LEAST_S, Row, backoff_s
from samepath.bpf.errors import BpfError, Unavailable
from samepath.bpf.layout import Sizes
from samepath.hashing.table import Table
from samepath.model.net import Address, Family, Nlri, host_nlri
from samepath.netlink.kernel import Kernel
from samepath.plan.gateway import Target
from samepath.plan.transitions import Buckets, advance, steady

PIECE = 4096
"""Services that are written between two yields."""
READ_AGAIN_S = 30.0
"""The maps are compared with what we believe so often."""


class BpfServices:
    """The driver of all services in the maps of one gateway."""

    def __init__(
        self,
        open_plane: Callable[[Sizes], Plane],
        sizes: Sizes,
        kernel: Kernel,
        services: ResilientRoutes,
        *,
        mode: Mode,
        idle_s: float,
        deadline_s: float | None,
    ) -> None:
        """`open_plane` opens, adopts or enlarges. Raises Unavailable, BpfError."""
        self.open_plane = open_plane
        self._plane: Plane | None = open_plane(sizes)
        self.opened = self.plane.opened.value
        """`created`, `adopted` or `migrated`."""
        self.services = services
        self.mode = mode
        self.idle_s, self.deadline_s = idle_s, deadline_s
        self.clock = services.clock
        self.hops = Hops(kernel, services.tables.connected)
        self.tables = BpfTables()
        self.counts = Counts()
        self.beyond: dict[Family, set[Nlri]] = {f: set() for f in Family}
        """Prefixes that are no host routes: the kernel's groups serve them."""
        self.error = ""
        self.is_serving = False
        """The program is attached: packets come to the maps."""
        self._failures = 0
        self._retry_at = -math.inf
        self._read_at = -math.inf
        self._hops_due = True
        self._alive: set[Address] = set()
        self._reopen: Sizes | None = None
        """The maps are to be opened anew, so large."""
        self._wishes: dict[Row, tuple[Target, Wish | None]] = {}
        """By row: for which target."""
        self._routes_seen = -1
        """Which version of the routes `unplaced` was compared with."""
        try:
            self._adopt()
        except BpfError:
            self.plane.close()  # or its lock would keep the next try out
            raise
        services.rows.news = {f: set() for f in Family}
        services.elsewhere = self.idle_of

    @property
    def is_open(self) -> bool:
        return self._plane is not None

    @property
    def plane(self) -> Plane:
        """Raises BpfError while the maps could not be opened again; the program goes on by them."""
        if self._plane is None:
            raise BpfError("the maps", EBADF)
        return self._plane

    # what others ask and tell

    def neighbors_changed(self) -> None:
        """MACs may be others: look at every next hop."""
        self._hops_due = True

    def links_changed(self) -> None:
        """Next hops may be on other links, or on none."""
        self._wishes = {}
        self._hops_due = True

    def reopen_soon(self, flows: int) -> None:
        """With so many flows, and whatever else `open_plane` takes, in the next pass."""
        self._reopen = replace(self.plane.sizes, flows=flows)

    def configure(self, *, idle_s: float, deadline_s: float | None) -> None:
        self.idle_s, self.deadline_s = idle_s, deadline_s
        for held in self.tables:
            held.look_at = -math.inf

    @property
    def next_look(self) -> float:
        """When `work` has something to do by itself."""
        if self.error:
            return self._retry_at
        if self._has_news:
            return -math.inf
        looks = (held.look_at for held in self.tables) if self.services.in_sync else ()
        return min(self._read_at, *looks, math.inf)

    @property
    def is_settled(self) -> bool:
        """The maps hold what is wanted, but for transitions."""
        is_done = not self.error and not self._has_news
        return is_done and not any(held.unready for held in self.tables)

    @property
    def _has_news(self) -> bool:
        if self._hops_due or self._reopen is not None:
            return True
        if not self.services.in_sync:
            return False
        if self.tables.unplaced and self._routes_seen != self.services.routes.version:
            return True
        return any((self.services.rows.news or {}).values())

    def idle_of(self, row: Row) -> list[float] | None:
        """For the kernel's group of a row: a bucket counts as idle when the maps have it steady
        with its new owner, so that both go in step. None: ask the kernel."""
        tables = self.tables.of_row.get(row)
        if not self.is_serving or not tables or row.present is None:
            return None
        if not self.beyond[row.family].isdisjoint(row.nlris):
            return None  # the kernel alone sees the packets of these
        if any(held.wish is None for held in tables):
            return None
        if len(self.tables.by_id[next(iter(tables)).id].buckets) != row.present.buckets:
            return None
        wish = self._wish(row)
        behind = any(held.wish != wish or held.unready for held in tables)
        if (
            wish is None
            or behind
            or any(self.tables.row_of[a] is row for a in self.tables.unplaced)
        ):
            return [0.0] * row.present.buckets
        moving = np.any([held.buckets.moving for held in tables], axis=0)
        return [0.0 if m else math.inf for m in moving.tolist()]

    # the maps, as they are

    def _adopt(self) -> None:
        """Take over what the maps hold; all rows are put to their services anew."""
        now = ticks_of(self.clock())
        former = {held.id: held.wish for held in self.tables}
        self._hops_due = True
        self.hops.adopt(self.plane)
        self.tables = BpfTables()
        by_table: dict[int, list[Address]] = {}
        for address, number in self.plane.services().items():
            by_table.setdefault(number, []).append(address)
        for family, held in self.services.rows.of.items():
            for nlri, row in held.items():
                self._belongs(family, nlri, row)
        for number, addresses in by_table.items():
            buckets = buckets_of(self.plane.table(number), now)
            held_table = self.tables.by_id[number] = Held(number, buckets)
            held_table.wish = former.get(number)
            for address in addresses:
                self.tables.put(held_table, address)
        self._read_at = self.clock() + READ_AGAIN_S

    def _belongs(self, family: Family, nlri: Nlri, row: Row | None) -> None:
        if nlri[0] != family.bits:
            (self.beyond[family].add if row is not None else self.beyond[family].discard)(nlri)
        else:
            self.tables.belongs(nlri[1:], row)

    # the work

    def work(self) -> Iterator[None]:
        """One pass, in small steps. What fails is told in `error` and tried again."""
        now = self.clock()
        if self.error and now < self._retry_at:
            return
        try:
            if self._reopen is not None:
                self._grow(self._reopen, force=True)
                yield
            if self.error or now >= self._read_at:
                self._adopt()
                yield
            yield from self._pass()
            self.error, self._failures = "", 0
        except (BpfError, Unavailable, NoIndexLeft) as error:
            self.error = str(error)
            self._retry_at = now + backoff_s(self._failures)
            self._failures += 1

    def _pass(self) -> Iterator[None]:
        if not self.services.in_sync:
            if self._hops_due:
                self._hops_due = False
                alive = {hop.address for hop in self.hops.known.values() if hop.alive}
                self.hops.put(self.plane, alive, self.mode)
            return
        yield from self._take_news()
        wishes = {row: self._wish(row) for row in self.services.rows if row.nlris}
        self._wishes = {row: self._wishes[row] for row in wishes}
        # Also those that cannot be used now: the flows of a link that comes back are recorded.
        alive = {hop.address for row in wishes for hop in row.target.hops}
        self.hops.give(sorted(alive))
        sizes = self.plane.sizes
        services = _enough(sizes.services, len(self.tables.row_of))
        hops = _enough(sizes.hops, 1 + max(self.hops.index.values(), default=0))
        self._grow(replace(sizes, services=services, hops=hops))
        if self._hops_due or alive != self._alive:
            self._hops_due, self._alive = False, alive
            self.hops.put(self.plane, alive, self.mode)
            yield
        for held in self.tables:
            yield from self._bring(held, wishes)
        yield from self._place(wishes)
        yield from self._delete()
        yield from self._merge()
        self._tidy(alive)

    def _take_news(self) -> Iterator[None]:
        news = self.services.rows.news
        assert news is not None
        for family, nlris in news.items():
            rows = self.services.rows.of[family]
            while nlris:
                for _ in range(min(PIECE, len(nlris))):
                    nlri = nlris.pop()
                    self._belongs(family, nlri, rows.get(nlri))
                yield

    def _wish(self, row: Row) -> Wish | None:
        now, tables = self.clock(), self.services.tables
        known = self._wishes.get(row)
        if known is not None and known[0] is row.target and not tables.refused:
            return known[1]
        wish = wish_of(row, self.services.buckets, lambda address: tables.usable(address, now))
        self._wishes[row] = row.target, wish
        return wish

    def _grow(self, wanted: Sizes, *, force: bool = False) -> None:
        """Larger maps, where these do not hold what is wanted."""
        sizes = wanted
        if self._plane is not None:
            sizes = self._plane.sizes
            if wanted == sizes and not force:
                return
            self._plane.close()
            self._plane = None
        self._reopen = sizes  # if all fails, the next pass begins with it
        try:
            self._plane = self.open_plane(wanted)
        except (BpfError, Unavailable):
            self._plane = self.open_plane(sizes)
            self._reopen = None
            raise
        self._reopen = None

    def _new_table(self, buckets: Buckets) -> Held:
        sizes = self.plane.sizes
        made = self.tables.new(buckets, sizes.tables)
        if made is None:
            self._grow(replace(sizes, tables=2 * sizes.tables))
            made = self.tables.new(buckets, self.plane.sizes.tables)
            assert made is not None
        return made

    # tables

    def _bring(self, held: Held, wishes: dict[Row, Wish | None]) -> Iterator[None]:
        """A table and its services to what their rows want."""
        parts: dict[Wish | None, list[Row]] = {}
        for row in held.users:
            if row is not None:
                parts.setdefault(wishes.get(row), []).append(row)
        if not parts:
            return
        size = {wish: sum(len(held.users[r]) for r in rows) for wish, rows in parts.items()}
        stays, *others = sorted(parts, key=lambda wish: -size[wish])
        for wish in others:
            addresses = [a for row in parts[wish] for a in held.users[row]]
            yield from self._part(held, wish, addresses)
        is_due = held.unready or held.look_at <= self.clock()
        if stays is not None and (is_due or stays != held.wish):
            self._step(held, stays)
            yield

    def _part(self, held: Held, wish: Wish | None, addresses: list[Address]) -> Iterator[None]:
        """Some services get a table of their own, which begins as a copy of that of before."""
        made = self._new_table(held.buckets)
        self.plane.copy_table(held.id, made.id)
        made.look_at = held.look_at
        if wish is not None:
            self._step(made, wish)
        yield from self._put(dict.fromkeys(addresses, made))

    def _step(self, held: Held, wish: Wish) -> None:
        now = self.clock()
        ticks = ticks_of(now)
        step = advance(
            buckets_of(self.plane.table(held.id), ticks),
            owners_of(wish.want, self.hops.index),
            living=[self.hops.index[a] for a in wish.living],
            ready=self.hops.ready,
            now=ticks,
            idle=ticks_of(self.idle_s),
            deadline=None if self.deadline_s is None else ticks_of(self.deadline_s),
        )
        if len(step.changed):
            self.plane.put_table(held.id, step.buckets.owner, step.buckets.old)
        held.buckets, held.wish, held.look_at = step.buckets, wish, math.inf
        held.unready = step.unready
        if len(step.changed):
            for row in held.users:
                if row is not None and row.waiting:
                    row.look_at = -math.inf  # the kernel's group goes in step
        if step.look_at is not None:
            held.look_at = max(now + LOOK_AT_LEAST_S, seconds_of(step.look_at + 1))
        self.counts.count(step)

    # services

    def _place(self, wishes: dict[Row, Wish | None]) -> Iterator[None]:
        """Services that have no table yet, once the kernel has their routes: where somebody else's
        route stands instead, that one is left alone."""
        self._routes_seen = self.services.routes.version
        stands = self.services.routes.stands
        fresh: dict[tuple[Wish, Table | None], list[Address]] = {}
        for address in self.tables.unplaced:
            row = self.tables.row_of[address]
            wish = wishes.get(row)
            if wish is not None and host_nlri(address) in stands[row.family]:
                fresh.setdefault((wish, former_of(row, wish)), []).append(address)
        if not fresh:
            return
        steady_ones = [h for h in self.tables if h.is_steady and not h.unready]
        homes = {held.wish: held for held in steady_ones}
        where: dict[Address, Held] = {}
        for (wish, former), addresses in fresh.items():
            home = homes.get(wish) if former is None else None
            where.update(dict.fromkeys(addresses, home or self._make(wish, former)))
            yield
        yield from self._put(where)

    def _make(self, wish: Wish, former: Table | None) -> Held:
        """A table without a past, or with that of the kernel's group, which had the flows."""
        numbers = owners_of(former or wish.want, self.hops.index)
        made = self._new_table(steady(numbers, ticks_of(self.clock())))
        self.plane.put_table(made.id, numbers)
        self._step(made, wish)
        return made

    def _put(self, where: Mapping[Address, Held]) -> Iterator[None]:
        for piece in _pieces(where):
            self.plane.put_services({address: where[address].id for address in piece})
            for address in piece:
                self.tables.put(where[address], address)
            yield

    def _delete(self) -> Iterator[None]:
        gone = [a for held in self.tables for a in held.users.get(None, ())]
        taken = [nlri[1:] for _, nlri in self.services.routes.taken]
        gone += [a for a in taken if a in self.tables.at and a in self.tables.row_of]
        for piece in _pieces(gone):
            self.plane.delete_services(piece)
            self.tables.gone(piece)
            yield

    def _merge(self) -> Iterator[None]:
        """Steady tables of one target become one."""
        homes: dict[Wish, Held] = {}
        for held in sorted(self.tables, key=lambda held: -held.count):
            if held.wish is None or not held.is_steady or held.unready:
                continue
            home = homes.setdefault(held.wish, held)
            if home is not held:
                yield from self._put(dict.fromkeys(held.services, home))

    def _tidy(self, alive: set[Address]) -> None:
        for held in self.tables:
            if not held.count:
                self.tables.drop(held)
        self.hops.bury(self.plane, alive)
        if all(held.is_steady for held in self.tables):
            named = set().union(*(held.buckets.hops for held in self.tables))
            self.hops.forget(self.plane, named)


def _enough(size: int, needed: int) -> int:
    """A power of two times `size` that holds so many."""
    while size < needed:
        size *= 2
    return size


def _pieces(addresses: Iterable[Address]) -> Iterator[list[Address]]:
    every = list(addresses)
    for start in range(0, len(every), PIECE):
        yield every[start : start + PIECE]

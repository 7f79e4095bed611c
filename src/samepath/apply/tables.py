"""Bucket tables in the kernel: the replicas that they name, and the groups themselves.

Used by `apply.groups`, which says which owners a row is to have (`write`) and which groups it has
left behind (`remove`). Both are generators that do one batch between two yields. Replicas are made
before the group that names them; a group is written in one message, so that the kernel never holds
half a table.

A next hop that the kernel does not take is left out of all tables for a while (`usable`). If it
forwards already, a refusal of one more replica is no reason to move its flows: then the row fails
and is tried again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Generator, Iterable, Sequence

from samepath.apply.refused import Refused
from samepath.apply.replicas import Replicas, assign
from samepath.apply.row import Row
from samepath.apply.rows import Rows
from samepath.apply.slots import NoSlotLeft, Slots, Way
from samepath.hashing.table import Table
from samepath.model.net import Address
from samepath.model.ours import slot_of
from samepath.netlink.kernel import Kernel, Results
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.ops import DeleteNextHop, Op, PutGroup, PutNextHop

SPARE_REPLICAS = 1024
"""Unused ones are kept up to so many, and as many again as are used."""


class Outcome(enum.Enum):
    WRITTEN = "the kernel holds the table"
    SAME = "the kernel held it already"
    FAILED = "refused: the row has the error"
    PLAN_AGAIN = "a next hop cannot be used any more"


class Tables:
    def __init__(
        self,
        kernel: Kernel,
        slots: Slots,
        *,
        connected: Callable[[Address], int | None],
        why_not: Callable[[Address], str],
    ) -> None:
        """`connected`: the link that a next hop is on; `why_not`: for people, if on none."""
        self.kernel = kernel
        self.slots = slots
        self.connected = connected
        self.why_not = why_not
        self.replicas = Replicas()
        self.refused = Refused()
        self.doubtful = False
        """The kernel did not take a group: it may not be as we believe. Read it back."""
        self._strays: set[int] = set()
        self._tidy = False

    # which next hops can be used

    def usable(self, address: Address, now: float) -> bool:
        link = self.connected(address)
        return link is not None and not self.refused.is_refused((address, link), now)

    def why_unusable(self, address: Address) -> str:
        """For people; empty if it can be used."""
        link = self.connected(address)
        if link is None:
            return self.why_not(address) or "not on a connected network whose link is up"
        return self.refused.why((address, link))

    # writing

    def write(self, row: Row, owners: Table, now: float) -> Generator[None, None, Outcome]:
        """Bring the row's group to `owners`."""
        ways = self._ways(owners.members, now)
        if ways is None:
            return Outcome.PLAN_AGAIN
        slots = list(ways)
        before = row.entries if row.in_kernel else None
        entries = assign([slots[i] for i in owners.owners.tolist()], before)
        missing = self.replicas.missing(entries, ways)
        if missing:
            outcome = yield from self._make(row, missing, now)
            if outcome is not Outcome.WRITTEN:
                return outcome
        if before is not None and list(before) == entries:
            return Outcome.SAME
        # The kernel lists a group's buckets from its last entry to its first (KERNEL.md §2). Its
        # own idle timer is 0 so that the buckets of a new group count as used just now.
        group = Group(row.id, tuple(reversed(entries)), resilient=True, buckets=len(entries))
        (error,) = self.kernel.apply([PutGroup(group)])
        if error is not None:
            self.doubtful = True
            row.failed(error.text, now)
            return Outcome.FAILED
        row.entries, row.slots = entries, frozenset(slots)
        return Outcome.WRITTEN

    def _ways(self, members: Sequence[Address], now: float) -> dict[int, Way] | None:
        """Slot -> way of each member, in their order; None: one has no link any more, or no
        slot."""
        ways = {}
        for member in members:
            link = self.connected(member)
            if link is None:
                return None
            try:
                ways[self.slots.slot(member, link)] = member, link
            except NoSlotLeft as full:
                self.refused.note((member, link), str(full), now)
                return None
        return ways

    def _make(self, row: Row, missing: list[NextHop], now: float) -> Generator[None, None, Outcome]:
        results = yield from self._apply([PutNextHop(n) for n in missing])
        refused: dict[Way, str] = {}
        made = []
        for nexthop, error in zip(missing, results, strict=True):
            assert nexthop.gateway is not None
            if error is None:
                made.append(nexthop)
            else:
                refused[nexthop.gateway, nexthop.oif] = error.text
        self.replicas.made(made)
        outcome = Outcome.PLAN_AGAIN if refused else Outcome.WRITTEN
        for way, text in refused.items():
            if self.slots.slot(*way) in self.replicas.slots:
                row.failed(text, now)
                outcome = Outcome.FAILED
            else:
                self.refused.note(way, text, now)
        return outcome

    # unmaking

    def used_slots(self, rows: Rows) -> set[int]:
        """Slots that replicas in the kernel, or our groups, name."""
        return self.replicas.slots | rows.slots

    def tidy(self, strays: Iterable[int]) -> None:
        """At the next `remove`, look for replicas that no group names; and delete these."""
        self._tidy = True
        self._strays |= set(strays)

    def remove(self, rows: Rows, groups: Collection[int]) -> Generator[None, None, bool]:
        """Delete these groups, and replicas that nothing names. False: something was refused."""
        good = True
        for number in groups:
            (error,) = self.kernel.apply([DeleteNextHop(number)])
            if error is None:
                del rows.left_over[number]
            good = good and error is None
            yield
        unused = [*self._strays, *self.replicas.unused(rows.slots)]
        if self._tidy:
            self._tidy = False
            unused += yield from self._spare(rows)
        results = yield from self._apply([DeleteNextHop(i) for i in unused])
        deleted = {i for i, error in zip(unused, results, strict=True) if error is None}
        self.replicas.gone(deleted)
        self._strays -= deleted
        return good and not any(results)

    def _spare(self, rows: Rows) -> Generator[None, None, list[int]]:
        """Replicas of living next hops that no group names, if there are many of them."""
        if len(self.replicas) < SPARE_REPLICAS or rows.left_over:
            return []
        used: set[int] = set()
        for row in rows:
            used.update(row.entries)
            yield
        if len(self.replicas) < 2 * len(used) + SPARE_REPLICAS:
            return []
        slots = rows.slots
        return [i for i in self.replicas.ids() if i not in used and slot_of(i) in slots]

    def _apply(self, ops: Sequence[Op]) -> Generator[None, None, Results]:
        """Apply, pausing after each batch."""
        if not ops:
            return []
        steps = self.kernel.apply_steps(ops)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                results: Results = done.value
                return results
            yield

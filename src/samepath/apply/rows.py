"""Which prefixes use which group. Bookkeeping only: nothing here speaks with the kernel.

Owned by `apply.groups`. A prefix has one row. A row without prefixes is no row any more: its group,
as that of a row that got another number, is left over until no route stands by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from samepath.apply.row import Row
from samepath.hashing.table import Table
from samepath.model.net import Family, Nlri
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE
from samepath.plan.gateway import Target


class Rows:
    def __init__(self) -> None:
        self.by_id: dict[int, Row] = {}
        self.of: dict[Family, dict[Nlri, Row]] = {f: {} for f in Family}
        """The row of each prefix."""
        self.left_over: dict[int, frozenset[int]] = {}
        """Groups that may be in the kernel and are of no row, with the slots that they use."""
        self.news: dict[Family, set[Nlri]] | None = None
        """Prefixes that came to another row or to none, for the BPF data plane, which takes them;
        None: it is not there."""
        self._settled: dict[tuple[Family, Target], Row] = {}

    def __iter__(self) -> Iterator[Row]:
        """A copy: rows may come and go meanwhile."""
        return iter(list(self.by_id.values()))

    def add(self, row: Row) -> None:
        self.by_id[row.id] = row

    def new(self, family: Family, target: Target) -> Row:
        row = Row(self._free_id(), family, target)
        self.add(row)
        return row

    def abandon(self, row: Row) -> None:
        """The row gives up its group and begins another, of another id. Its owners are kept."""
        if row.in_kernel:
            self.left_over[row.id] = row.slots
        number = self._free_id()
        del self.by_id[row.id]
        row.id = number
        row.in_kernel, row.entries, row.slots = False, (), frozenset()
        row.unrouted |= row.nlris
        self.add(row)

    def remove(self, row: Row) -> None:
        assert not row.nlris, "prefixes still use the row"
        del self.by_id[row.id]
        if row.in_kernel:
            self.left_over[row.id] = row.slots
        self._unsettle(row)

    def retarget(self, row: Row, target: Target) -> None:
        self._unsettle(row)
        row.retarget(target)

    def _unsettle(self, row: Row) -> None:
        if self._settled.get((row.family, row.target)) is row:
            del self._settled[row.family, row.target]

    def enter(self, row: Row, nlris: Iterable[Nlri]) -> None:
        row.nlris.update(nlris)
        row.unrouted.update(nlris)
        self.of[row.family].update(dict.fromkeys(nlris, row))
        if self.news is not None:
            self.news[row.family].update(nlris)

    def leave(self, row: Row, nlris: Iterable[Nlri]) -> None:
        row.nlris.difference_update(nlris)
        row.unrouted.difference_update(nlris)
        where = self.of[row.family]
        for nlri in nlris:
            where.pop(nlri, None)
        if self.news is not None:
            self.news[row.family].update(nlris)

    def home(self, family: Family, target: Target) -> Row:
        """Where a prefix without flows of its own goes: a settled group of the same target."""
        row = self._settled.get((family, target))
        if row is not None and row.settled and row.target == target:
            return row
        for row in self.by_id.values():  # made in this very pass
            if row.family is family and row.target == target and row.present is None:
                return row
        return self.new(family, target)

    def twin(self, family: Family, target: Target, present: Table) -> Row | None:
        """A group with just these owners and this target."""
        same = (r for r in self.by_id.values() if r.family is family and r.target == target)
        return next((r for r in same if r.in_kernel and r.present == present), None)

    def settled_home(self, row: Row) -> Row:
        """The settled group that a settled row may join: the first one of its target, which may
        be itself."""
        key = (row.family, row.target)
        home = self._settled.get(key)
        if home is not None and home.settled and home.target == row.target and home.nlris:
            # Settled rows of one target have one table, unless a link has just changed.
            return home if home.present == row.present else row
        self._settled[key] = row
        return row

    @property
    def slots(self) -> set[int]:
        """All that groups use."""
        used = (row.slots for row in self.by_id.values())
        return set().union(*used, *self.left_over.values())

    def _free_id(self) -> int:
        ids = range(GROUP_BASE, PLAIN_GROUP_BASE)
        return next(i for i in ids if i not in self.by_id and i not in self.left_over)

"""Which prefixes use which group. Bookkeeping only: nothing here speaks with the kernel.

Owned by `apply.groups`. A prefix has one row; a row without prefixes is about to be deleted.
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

    def renumber(self, row: Row) -> None:
        """Give the row another group id, never the one that it had."""
        number = self._free_id()
        del self.by_id[row.id]
        row.id = number
        self.add(row)

    def remove(self, row: Row) -> None:
        assert not row.nlris, "prefixes still use the row"
        del self.by_id[row.id]
        if self._settled.get((row.family, row.target)) is row:
            del self._settled[row.family, row.target]

    def enter(self, row: Row, nlris: Iterable[Nlri]) -> None:
        row.nlris.update(nlris)
        row.unrouted.update(nlris)
        self.of[row.family].update(dict.fromkeys(nlris, row))

    def leave(self, row: Row, nlris: Iterable[Nlri]) -> None:
        row.nlris.difference_update(nlris)
        row.unrouted.difference_update(nlris)
        where = self.of[row.family]
        for nlri in nlris:
            where.pop(nlri, None)

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
        if home is None or not home.settled or home.target != row.target or not home.nlris:
            home = self._settled[key] = row
        return home

    def _free_id(self) -> int:
        return next(i for i in range(GROUP_BASE, PLAIN_GROUP_BASE) if i not in self.by_id)

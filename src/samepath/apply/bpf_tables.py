"""Which service uses which table of the BPF data plane. Bookkeeping only: it writes nothing.

Owned by `apply.bpf_services`. A service (the address of a host route) has one table. Services of
one table may be of several rows of the kernel's driver (`apply.row`), as long as these want the
same; what a row wants is its `Wish`. A table's state is in the maps; what is kept here is a copy,
read again before each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from samepath.apply.row import Row
from samepath.hashing.table import Table, build
from samepath.model.net import Address
from samepath.plan.transitions import NONE, Advance, Buckets, Numbers


@dataclass(frozen=True, slots=True)
class Wish:
    """A target as buckets: the very table of the kernel data plane, and who keeps old flows."""

    want: Table
    living: frozenset[Address]
    """The members and those that drain."""


def owners_of(table: Table, index: dict[Address, int]) -> Numbers:
    """The owner of each bucket by its index; NONE for a member that has none: it is gone."""
    members = np.array([index.get(m, NONE) for m in table.members], np.uint16)
    return members[table.owners]


def wish_of(row: Row, buckets: int, usable: Callable[[Address], bool]) -> Wish | None:
    """None: no next hop can be used."""
    members = row.target.members(usable)
    if not members:
        return None
    living = frozenset(hop.address for hop in row.target.hops if usable(hop.address))
    return Wish(build(members, buckets), living)


def former_of(row: Row, wish: Wish) -> Table | None:
    """The kernel's table of a row, where flows are by it that are not by the one that is wanted."""
    present = row.present
    if present is None or present.buckets != wish.want.buckets or present == wish.want:
        return None
    return present


@dataclass(slots=True)
class Counts:
    """Buckets, since the program began."""

    begun: int = 0
    chained: int = 0
    departed: int = 0
    idle: int = 0
    late: int = 0

    def count(self, step: Advance) -> None:
        self.begun += step.begun
        self.chained += step.chained
        self.departed += step.departed
        self.idle += step.idle
        self.late += step.late


@dataclass(slots=True, eq=False)
class Held:
    """A table in the maps, and whose services use it."""

    id: int
    buckets: Buckets
    users: dict[Row | None, set[Address]] = field(default_factory=dict)
    """None: services that no row has; they are to go."""
    wish: Wish | None = None
    """What it was brought to last; None: nothing yet since it was read."""
    look_at: float = -math.inf
    """When a transition may end."""
    unready: int = 0
    """Buckets that wait for a next hop's MAC."""

    @property
    def services(self) -> Iterator[Address]:
        for addresses in self.users.values():
            yield from addresses

    @property
    def count(self) -> int:
        return sum(map(len, self.users.values()))

    @property
    def is_steady(self) -> bool:
        return not self.buckets.moving.any()


class BpfTables:
    def __init__(self) -> None:
        self.by_id: dict[int, Held] = {}
        self.at: dict[Address, Held] = {}
        """The table of each service that stands in the map."""
        self.row_of: dict[Address, Row] = {}
        """The row of each service, in the map or not."""
        self.of_row: dict[Row, set[Held]] = {}
        self.unplaced: set[Address] = set()
        """Services that have a row and no table yet."""

    def __iter__(self) -> Iterator[Held]:
        """A copy: tables may come and go meanwhile."""
        return iter(list(self.by_id.values()))

    def new(self, buckets: Buckets, count: int) -> Held | None:
        """A table of the lowest free number below `count`; None: there is none."""
        number = next((i for i in range(count) if i not in self.by_id), None)
        if number is None:
            return None
        held = self.by_id[number] = Held(number, buckets)
        return held

    def drop(self, held: Held) -> None:
        assert not held.count, "services still use the table"
        del self.by_id[held.id]

    def belongs(self, address: Address, row: Row | None) -> None:
        """The service is of this row from now on; None: of none."""
        held = self.at.get(address)
        if held is not None:
            self._leave(held, address)
        if row is None:
            self.row_of.pop(address, None)
            self.unplaced.discard(address)
        else:
            self.row_of[address] = row
        if held is not None:
            self._enter(held, address)
        elif row is not None:
            self.unplaced.add(address)

    def put(self, held: Held, address: Address) -> None:
        """The service stands in the map with this table."""
        former = self.at.get(address)
        if former is not None:
            self._leave(former, address)
        self.at[address] = held
        self.unplaced.discard(address)
        self._enter(held, address)

    def gone(self, addresses: Iterable[Address]) -> None:
        """These stand in the map no more."""
        for address in addresses:
            self._leave(self.at.pop(address), address)
            if address in self.row_of:
                self.unplaced.add(address)

    def _enter(self, held: Held, address: Address) -> None:
        row = self.row_of.get(address)
        held.users.setdefault(row, set()).add(address)
        if row is not None:
            self.of_row.setdefault(row, set()).add(held)

    def _leave(self, held: Held, address: Address) -> None:
        row = self.row_of.get(address)
        users = held.users[row]
        users.discard(address)
        if users:
            return
        del held.users[row]
        if row is not None:
            self.of_row[row].discard(held)
            if not self.of_row[row]:
                del self.of_row[row]

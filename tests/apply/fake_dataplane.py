"""A double of `bpf.dataplane.Dataplane`: the maps in memory, and the program's rules for a packet.

It outlives the driver as pinned maps outlive a process.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samepath.apply.bpf_plane import Mode, ticks_of
from samepath.bpf.errors import BpfError, Unavailable
from samepath.bpf.layout import BUCKET, Counters, FlowCount, Hop, Sizes
from samepath.model.net import Address
from samepath.plan.transitions import Numbers


@dataclass(frozen=True)
class FakeAttachment:
    mode: Mode
    how: str


class Killed(BaseException):
    """kill -9, here."""


class Opened(enum.Enum):
    ADOPTED = "adopted"


@dataclass
class FakeDataplane:
    clock: Callable[[], float]
    sizes: Sizes
    map: dict[Address, int] = field(default_factory=dict)
    arrays: dict[int, Any] = field(default_factory=dict)
    hop_map: dict[int, Hop] = field(default_factory=dict)
    links: dict[int, FakeAttachment] = field(default_factory=dict)
    records: dict[tuple[Address, int], tuple[int, int]] = field(default_factory=dict)
    """(service, flow) -> hop, tick of the record"""
    times_opened: int = 0
    opened: Opened = Opened.ADOPTED
    is_open: bool = False
    lives_for: int | None = None
    """The process is killed after so many writes."""
    refuse_open: int = 0
    refuse: str = ""
    """The next operation of this name is refused."""
    log: list[str] = field(default_factory=list)

    def open(self, sizes: Sizes) -> FakeDataplane:
        if self.refuse_open:
            self.refuse_open -= 1
            raise Unavailable("open: refused")
        self.is_open = True
        self.sizes = sizes
        self.times_opened += 1
        return self

    def close(self) -> None:
        assert self.is_open
        self.is_open = False

    def _did(self, what: str) -> None:
        assert self.is_open
        if self.lives_for is not None:
            self.lives_for -= 1
            if self.lives_for < 0:
                self.lives_for = None
                raise Killed
        self.log.append(what)
        if self.refuse == what:
            self.refuse = ""
            raise BpfError(what, 12)

    def services(self) -> dict[Address, int]:
        assert self.is_open
        return dict(self.map)

    def put_services(self, tables: Mapping[Address, int]) -> None:
        self._did("put_services")
        for address, number in tables.items():
            assert number in self.arrays, "a table before its services"
            self.map[address] = number
        assert len(self.map) <= self.sizes.services

    def delete_services(self, addresses: Iterable[Address]) -> None:
        self._did("delete_services")
        for address in addresses:
            del self.map[address]

    def table(self, table: int) -> Any:
        return self.arrays[table].copy()

    def put_table(self, table: int, owner: Numbers, old: Numbers | None = None) -> int:
        self._did("put_table")
        assert table < self.sizes.tables
        assert set(owner.tolist()) <= {0, *self.hop_map}, "a next hop before the buckets"
        array = self.arrays.setdefault(table, np.zeros(len(owner), BUCKET))
        old = np.zeros_like(owner) if old is None else old
        now = ticks_of(self.clock()) & 0xFFFFFFFF
        differs = (array["owner"] != owner) | (array["old"] != old)
        changes = (array["owner"] != owner) & (old != 0)
        array["since"][(array["old"] == 0) & (old != 0)] = now
        for name in ("changed", "stamp"):
            array[name][changes] = now
        array["owner"], array["old"] = owner, old
        return int(np.count_nonzero(differs))

    def copy_table(self, source: int, table: int) -> None:
        self._did("copy_table")
        self.arrays[table] = self.arrays[source].copy()

    def hops(self) -> dict[int, Hop]:
        return dict(self.hop_map)

    def put_hop(self, index: int, hop: Hop) -> None:
        self._did("put_hop")
        self.hop_map[index] = hop

    def delete_hop(self, index: int) -> None:
        self._did("delete_hop")
        used = [a for n in set(self.map.values()) for a in (self.arrays[n],)]
        assert not any(index in a["owner"] or index in a["old"] for a in used)
        del self.hop_map[index]

    def counters(self) -> Counters:
        return Counters({}, {}, {})

    def flows(self, newer_than: int | None = None) -> FlowCount:
        by_hop: dict[int, int] = {}
        for hop, _ in self.records.values():
            by_hop[hop] = by_hop.get(hop, 0) + 1
        return FlowCount(len(self.records), by_hop, self.sizes.flows)

    def attach(
        self, ifindex: int, mac: bytes, mode: Mode = "tc", vlans: Sequence[tuple[int, int]] = ()
    ) -> FakeAttachment:
        self._did("attach")
        made = self.links[ifindex] = FakeAttachment(mode, "tcx" if mode == "tc" else "xdp")
        return made

    def detach(self, ifindex: int) -> None:
        del self.links[ifindex]

    def attached(self) -> dict[int, FakeAttachment]:
        return dict(self.links)

    # a packet

    def packet(self, service: Address, flow: int, *, syn: bool = False) -> Address | None:
        """Where a packet of the flow goes; None: it is left to the kernel."""
        number = self.map.get(service)
        if number is None:
            return None
        array = self.arrays[number]
        entry = array[flow % len(array)]
        now = ticks_of(self.clock()) & 0xFFFFFFFF
        hop = int(entry["owner"])
        if entry["old"]:
            recorded, when = self.records.get((service, flow), (0, 0))
            if when < entry["since"] or not (recorded and self.hop_map[recorded].alive):
                recorded = 0
            if not syn:
                hop = recorded or int(entry["old"])
            self.records[service, flow] = hop, now
            if hop != entry["owner"]:
                entry["stamp"] = now
        found = self.hop_map[hop]
        return found.address if found.resolved else None

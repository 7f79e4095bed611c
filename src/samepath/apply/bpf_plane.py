"""The BPF data plane as its driver sees it: a protocol, and time in its ticks.

`bpf.dataplane.Dataplane` is the real one; tests have a double. Arrays have the types of
`bpf.layout`. Every write may raise `BpfError`, an OSError, and may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samepath.bpf.layout import TICK_SHIFT, Counters, FlowCount, Hop, Sizes
from samepath.model.net import Address
from samepath.plan.transitions import Buckets, Numbers

Mode = Literal["tc", "xdp"]


class Attached(Protocol):
    """How the program is attached to a link."""

    @property
    def mode(self) -> Mode: ...

    @property
    def how(self) -> str: ...


class Plane(Protocol):
    """The maps. A table is known by its number, a next hop by its index, 0 being none."""

    sizes: Sizes

    @property
    def opened(self) -> enum.Enum: ...

    def services(self) -> dict[Address, int]: ...

    def put_services(self, tables: Mapping[Address, int]) -> None: ...

    def delete_services(self, addresses: Iterable[Address]) -> None: ...

    def table(self, table: int) -> NDArray[Any]:
        """A copy, of `layout.BUCKET`."""
        ...

    def put_table(self, table: int, owner: Numbers, old: Numbers | None = None) -> int:
        """Write the entries that differ; how many."""
        ...

    def copy_table(self, source: int, table: int) -> None:
        """All of it, transitions with their times included."""
        ...

    def hops(self) -> dict[int, Hop]: ...

    def put_hop(self, index: int, hop: Hop) -> None: ...

    def delete_hop(self, index: int) -> None: ...

    def counters(self) -> Counters: ...

    def flows(self, newer_than: int | None = None) -> FlowCount: ...

    def attach(
        self, ifindex: int, mac: bytes, mode: Mode = "tc", vlans: Sequence[tuple[int, int]] = ()
    ) -> Attached: ...

    def detach(self, ifindex: int) -> None: ...

    def attached(self) -> Mapping[int, Attached]: ...

    def close(self) -> None: ...


def ticks_of(seconds: float) -> int:
    """A time of CLOCK_MONOTONIC as ticks, not wrapped."""
    return int(seconds * 1e9) >> TICK_SHIFT


def seconds_of(ticks: int) -> float:
    return (ticks << TICK_SHIFT) / 1e9


def unwrapped(ticks: NDArray[np.uint32], now: int) -> NDArray[np.int64]:
    """Ticks of 32 bits, as they stand in the maps, as whole ones: less than half a wrap from
    `now`."""
    ages = (np.uint32(now & 0xFFFFFFFF) - ticks).astype(np.uint32).view(np.int32)
    whole: NDArray[np.int64] = np.int64(now) - ages.astype(np.int64)
    return whole


def buckets_of(entries: NDArray[Any], now: int) -> Buckets:
    """A table of the maps, for `plan.transitions`."""
    return Buckets(
        owner=entries["owner"].astype(np.uint16),
        old=entries["old"].astype(np.uint16),
        changed=unwrapped(entries["changed"], now),
        stamp=unwrapped(entries["stamp"], now),
    )

"""The BPF data plane as its driver sees it: services, tables, hops, counters, links.

Called by the driver in `apply`, from one thread; the program in the kernel reads the same maps at
every packet meanwhile. Each field has one writer: the program stamps buckets, records flows and
counts; everything else is written here, and a bucket's two owners in one store. Nothing is kept in
this process but the descriptors: what is read is what the kernel has.

Not done: which owner a bucket should have, when a transition begins and ends (the driver's), and
services that are prefixes rather than addresses (the kernel's own path takes them).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samepath.bpf import attachments, layout, libbpf, opening, pins, syscall
from samepath.bpf.attachments import Attachment, Mode
from samepath.bpf.errors import BpfError, Unavailable
from samepath.bpf.layout import (
    BUCKET,
    COUNT,
    FLOW,
    HOP,
    HOP_ALIVE,
    HOP_RESOLVED,
    LINK,
    LINK_KEY,
    MOVING,
    SERVICE,
    Count,
    Counters,
    FlowCount,
    Hop,
    Sizes,
    Total,
)
from samepath.bpf.opening import Opened
from samepath.model.net import Address

_V4 = bytes(10) + b"\xff\xff"


class Dataplane:
    def __init__(self, folder: Path, lock: int, pinned: pins.Pinned, opened: Opened) -> None:
        """Use `open`."""
        self.folder, self.opened = folder, opened
        self._lock, self._pinned = lock, pinned
        self._maps = pinned.maps
        self.sizes = Sizes(
            services=self._maps["services"].max_entries,
            buckets=int(self._settings()["buckets"]),
            tables=self._maps["buckets"].max_entries // int(self._settings()["buckets"]),
            hops=self._maps["hops"].max_entries,
            flows=self._maps["flows"].max_entries,
        )
        memory = self._maps["buckets"].memory()
        # owners (owner | old << 16), since, stamp, changed: each a store of its own
        self._words: NDArray[np.uint32] = np.frombuffer(memory, "<u4").reshape(-1, 4)

    @classmethod
    def open(cls, pin_dir: Path, sizes: Sizes, seed: int, file: Path = libbpf.OBJECT) -> Dataplane:
        """Adopt what is pinned in `pin_dir`; or make it; or make what differs anew and carry over
        what it held. Tables of another number of buckets are dropped with their services.

        Raises Unavailable, and then nothing has changed.
        """
        pins.check_folder(pin_dir)
        lock = os.open(pin_dir, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pinned, opened = opening.opened(pin_dir, sizes, seed, file)
        except BlockingIOError:
            os.close(lock)
            raise Unavailable(f"another process has {pin_dir}") from None
        except BpfError as error:
            os.close(lock)
            raise Unavailable(str(error), libbpf.advice(error.errno or 0)) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(pin_dir, lock, pinned, opened)

    def close(self) -> None:
        """Let go: the program goes on."""
        self._words = np.empty((0, 4), np.uint32)  # and with it goes the memory
        self._pinned.close()
        os.close(self._lock)

    def remove(self) -> None:
        """Detach it everywhere, forget everything, and close."""
        for ifindex in self.attached():
            self.detach(ifindex)
        self.close()
        shutil.rmtree(self.folder)

    def program(self, mode: Mode = "tc") -> int:
        """The program's descriptor."""
        return self._pinned.programs["samepath_xdp" if mode == "xdp" else "samepath_tc"]

    @property
    def seed(self) -> int:
        return int(self._settings()["seed"])

    def _settings(self) -> np.void:
        return opening.read_settings(self._maps["settings"])

    # services

    def services(self) -> dict[Address, int]:
        """The table of each service address."""
        entries = self._services()
        tables = (entries["first"] // self.sizes.buckets).tolist()
        return dict(zip((_address(k) for k in entries["key"]), tables, strict=True))

    def put_services(self, tables: Mapping[Address, int]) -> None:
        """Add services, or give them other tables. Raises BpfError (E2BIG) beyond the size."""
        if not tables:
            return
        for table in set(tables.values()):
            self._rows(table)
        present = self._services()
        counts = {_address(e["key"]): int(e["count"]) for e in present}
        new = [address for address in tables if address not in counts]
        free = np.setdiff1d(np.arange(self.sizes.services, dtype="<u4"), present["count"])
        if len(new) > len(free):
            raise BpfError(f"{len(new)} more services", errno.E2BIG)
        fresh = free[: len(new)]
        counts.update(zip(new, fresh.tolist(), strict=True))
        width = syscall.possible_cpus() * COUNT.itemsize
        self._maps["service_counts"].put_many(fresh, np.zeros(len(fresh), f"V{width}"))
        values = np.array([(t * self.sizes.buckets, counts[a]) for a, t in tables.items()], SERVICE)
        self._maps["services"].put_many(_keys(tables), values)

    def delete_services(self, addresses: Iterable[Address]) -> None:
        self._maps["services"].delete_many(_keys(addresses))

    def _services(self) -> NDArray[np.void]:
        keys, values = self._maps["services"].items()
        entries = np.empty(len(keys), [("key", "V16"), *SERVICE.descr])
        entries["key"] = keys
        for name in SERVICE.names or ():
            entries[name] = values.view(SERVICE)[name]
        return entries

    # tables

    def table(self, table: int) -> NDArray[np.void]:
        """A copy of a table's buckets, of dtype BUCKET."""
        return self._rows(table).copy().view(BUCKET).reshape(-1)

    def put_table(
        self, table: int, owner: NDArray[np.uint16], old: NDArray[np.uint16] | None = None
    ) -> int:
        """Write the buckets that differ; how many did. `old` is 0 where there is no transition."""
        rows = self._rows(table)
        wanted = np.asarray(owner, "<u4").copy()
        if old is not None:
            wanted |= np.asarray(old, "<u4") << 16
        if wanted.shape != (self.sizes.buckets,):
            raise ValueError(f"a table has {self.sizes.buckets} buckets, not {wanted.shape}")
        if max((wanted & 0xFFFF).max(), (wanted >> 16).max()) >= self.sizes.hops:
            raise ValueError(f"hops: less than {self.sizes.hops}")
        present = rows[:, 0].copy()
        changed = np.flatnonzero(present != wanted)
        begins = changed[(present[changed] >> 16 == 0) & (wanted[changed] >> 16 != 0)]
        is_new = (present ^ wanted) & 0xFFFF != 0
        is_new[begins] = True
        renewed = np.flatnonzero(is_new & (wanted >> 16 != 0))
        # The times first: the program looks at them once it sees the transition. Another owner in
        # a transition begins its wait anew, for the flows of the owner that was.
        # `since` is a tick early: the program reads a coarse clock, which lags by some ms, and what
        # it records at once must not count as older.
        now = layout.tick(time.monotonic_ns())
        rows[begins, 1] = (now - 1) & 0xFFFFFFFF
        rows[renewed, 2] = rows[renewed, 3] = now
        rows[changed, 0] = wanted[changed]
        return len(changed)

    def copy_table(self, source: int, table: int) -> None:
        """A copy that no service uses yet, transitions and their times included."""
        self._rows(table)[:] = self._rows(source)

    def moving(self) -> NDArray[np.void]:
        """Every bucket in transition, of dtype MOVING."""
        at = np.flatnonzero(self._words[:, 0] >> 16)
        words = self._words[at]
        found = np.empty(len(at), MOVING)
        found["table"], found["bucket"] = np.divmod(at, self.sizes.buckets)
        found["owner"], found["old"] = words[:, 0] & 0xFFFF, words[:, 0] >> 16
        found["since"], found["stamp"], found["changed"] = words[:, 1], words[:, 2], words[:, 3]
        return found

    def _rows(self, table: int) -> NDArray[np.uint32]:
        if not 0 <= table < self.sizes.tables:
            raise ValueError(f"table: 0 to {self.sizes.tables - 1}, not {table}")
        return self._words[table * self.sizes.buckets : (table + 1) * self.sizes.buckets]

    # hops

    def hops(self) -> dict[int, Hop]:
        keys, values = self._maps["hops"].items()
        entries = values.view(HOP)
        used = np.flatnonzero(entries["length"])
        indices = keys.view("<u4")
        return {int(indices[i]): _hop(entries[i]) for i in used}

    def put_hop(self, index: int, hop: Hop) -> None:
        """Raises ValueError for an index that is not a next hop's."""
        if not 0 < index < self.sizes.hops:
            raise ValueError(f"hop: 1 to {self.sizes.hops - 1}, not {index}")
        key, value = index.to_bytes(4, "little"), np.zeros((), HOP)
        value["ifindex"], value["mtu"], value["vlan"] = hop.ifindex, min(hop.mtu, 0xFFFF), hop.vlan
        value["destination_mac"], value["source_mac"] = hop.destination_mac, hop.source_mac
        value["flags"] = HOP_ALIVE * hop.alive | HOP_RESOLVED * hop.resolved
        value["length"], value["address"] = len(hop.address), hop.address.ljust(16, b"\0")
        present = np.frombuffer(self._maps["hops"].get(key) or bytes(HOP.itemsize), HOP)[0]
        if present.tobytes() == value.tobytes():
            return
        moved = any(present[n] != value[n] for n in ("ifindex", "destination_mac", "source_mac"))
        if moved and present["flags"] & HOP_RESOLVED:
            # An array's entry is not written in one step: no packet may leave with half of each.
            present = present.copy()
            present["flags"] &= ~np.uint8(HOP_RESOLVED)
            self._maps["hops"].put(key, present.tobytes())
        self._maps["hops"].put(key, value.tobytes())

    def delete_hop(self, index: int) -> None:
        self._maps["hops"].put(index.to_bytes(4, "little"), bytes(HOP.itemsize))

    # what the program tells

    def counters(self) -> Counters:
        by_service, by_hop = self._counts("service_counts"), self._counts("hop_counts")
        _, totals = self._maps["totals"].items()
        sums = totals.view("<u8").reshape(len(totals), -1).sum(1)
        used = np.flatnonzero(by_hop["packets"])
        return Counters(
            {_address(e["key"]): _count(by_service[e["count"]]) for e in self._services()},
            {int(i): _count(by_hop[i]) for i in used},
            {which: int(sums[which]) for which in Total},
        )

    def _counts(self, name: str) -> NDArray[np.void]:
        _, values = self._maps[name].items()
        per_cpu = values.view(COUNT).reshape(len(values), -1)
        sums = np.empty(len(values), COUNT)
        for field in COUNT.names or ():
            sums[field] = per_cpu[field].sum(1)
        return sums

    def flows(self, newer_than: int | None = None) -> FlowCount:
        """Count the flow table: all of it, or the flows seen at or after a tick."""
        _, values = self._maps["flows"].items()
        entries = values.view(FLOW)
        if newer_than is not None:
            age = (entries["seen"] - np.uint32(newer_than)).view("<i4")
            entries = entries[age >= 0]
        hops, counts = np.unique(entries["hop"], return_counts=True)
        by_hop = dict(zip(hops.tolist(), counts.tolist(), strict=True))
        return FlowCount(len(entries), by_hop, self.sizes.flows)

    # links

    def attach(
        self, ifindex: int, mac: bytes, mode: Mode = "tc", vlans: Sequence[tuple[int, int]] = ()
    ) -> Attachment:
        """Attach to a link of the caller's network namespace, or leave what is attached.

        `mac` is the link's own; `vlans` the tags (outer, inner or 0) that are ours too; a VLAN that
        is a link of its own is better attached itself. Raises Unavailable: this link, this mode.
        """
        wanted = {(ifindex, 0, 0), *((ifindex, outer, inner) for outer, inner in vlans)}
        keys = np.array(sorted(wanted), LINK_KEY)
        values = np.zeros(len(keys), LINK)
        values["mac"] = mac
        have, _ = self._maps["links"].items()
        have = have.view(LINK_KEY)
        self._maps["links"].put_many(keys, values)
        ours = have[have["ifindex"] == ifindex]
        self._maps["links"].delete_many(ours[~np.isin(ours, keys)])
        how = attachments.attach(self.folder / pins.LINKS, ifindex, mode, self._pinned.programs)
        return Attachment(mode, how)

    def detach(self, ifindex: int) -> None:
        attachments.detach(self.folder / pins.LINKS, ifindex)
        keys, _ = self._maps["links"].items()
        keys = keys.view(LINK_KEY)
        self._maps["links"].delete_many(keys[keys["ifindex"] == ifindex])

    def attached(self) -> dict[int, Attachment]:
        return attachments.attached(self.folder / pins.LINKS)


def _keys(addresses: Iterable[Address]) -> NDArray[np.void]:
    return np.array([a if len(a) == 16 else _V4 + a for a in addresses], "V16")


def _address(key: np.void) -> Address:
    octets = key.tobytes()
    return octets[12:] if octets.startswith(_V4) else octets


def _hop(entry: np.void) -> Hop:
    flags = int(entry["flags"])
    return Hop(
        entry["address"].tobytes()[: entry["length"]], int(entry["ifindex"]),
        entry["source_mac"].tobytes(), entry["destination_mac"].tobytes(), int(entry["mtu"]),
        bool(flags & HOP_ALIVE), bool(flags & HOP_RESOLVED), int(entry["vlan"]),
    )  # fmt: skip


def _count(entry: np.void) -> Count:
    return Count(int(entry["packets"]), int(entry["octets"]))

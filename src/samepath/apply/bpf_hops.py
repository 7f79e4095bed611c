"""Next hops of the BPF data plane: their indices, their MACs, and whether they live.

Used by `apply.bpf_services`. A next hop is known by its address and keeps its index for as long as
the maps may speak of it: flows are recorded with the index, so one that is gone is only marked
dead, and its index is free again when nothing is in transition any more (records of former
transitions are void). One that returns gets its old index.

MACs come from the kernel's neighbour table, which is read again after any news of it. So that they
stay there without traffic through the kernel, the neighbours are made `managed` (Linux 5.16): the
kernel asks for them by itself, and is told to ask at once when one has failed. Until the first
answer, or if its link is not of a kind that the program can send on, the packets of a next hop are
left to the kernel's own path. Afterwards the last known MAC stands until there is another: the
kernel's groups have other owners for buckets in transition, and a flow must not go there and back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count

from samepath.apply.bpf_plane import Mode, Plane
from samepath.bpf.layout import MAX_HOPS, Hop
from samepath.model.net import Address
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Link, Neighbor
from samepath.netlink.ops import DeleteNeighbor, Op, PutNeighbor

ETHERNET_OCTETS = 6
NO_MAC = bytes(ETHERNET_OCTETS)


class NoIndexLeft(Exception):
    """All indices name next hops."""


class Hops:
    def __init__(self, kernel: Kernel, connected: Callable[[Address], int | None]) -> None:
        self.kernel = kernel
        self.connected = connected
        self.index: dict[Address, int] = {}
        self.known: dict[int, Hop] = {}
        """What the map holds."""
        self.why: dict[Address, str] = {}
        """Why packets for a living next hop are left to the kernel, in words."""
        self.errors: list[str] = []
        self._managed: set[tuple[int, Address]] = set()

    def adopt(self, plane: Plane) -> None:
        """What stands in the map."""
        self.known = plane.hops()
        self.index = {}
        for number, hop in sorted(self.known.items()):
            self.index.setdefault(hop.address, number)

    def give(self, addresses: Iterable[Address]) -> None:
        """An index to each of them. Raises NoIndexLeft."""
        fresh = [a for a in addresses if a not in self.index]
        if not fresh:
            return
        used = {*self.index.values(), *self.known}
        free = (i for i in count(1) if i not in used)
        for address, index in zip(fresh, free, strict=False):
            if index > MAX_HOPS:
                raise NoIndexLeft(f"all {MAX_HOPS} indices name next hops")
            self.index[address] = index

    @property
    def ready(self) -> list[int]:
        """Those that the program can send to."""
        return [index for index, hop in self.known.items() if hop.alive and hop.resolved]

    def address(self, index: int) -> Address | None:
        hop = self.known.get(index)
        return hop.address if hop is not None else None

    def put(self, plane: Plane, alive: Collection[Address], mode: Mode) -> None:
        """Write what is otherwise than in the map: all that have an index. `alive` are those that
        some service names; they are not withdrawn, though they may be out of reach.

        Called before buckets name them; `bury` afterwards.
        """
        links = {link.index: link for link in self.kernel.links()}
        macs = {(n.index, n.address): n for n in self.kernel.neighbors()}
        self._manage(alive, macs)
        self.why.clear()
        for address, index in self.index.items():
            before = self.known.get(index)
            if address in alive:
                hop = self._living(address, links, macs, mode)
                if before is not None and before.destination_mac != NO_MAC:
                    hop = _remembered(hop, before)
            elif before is not None:
                hop = before
            else:
                continue
            if hop != before:
                plane.put_hop(index, hop)
                self.known[index] = hop

    def _living(
        self,
        address: Address,
        links: Mapping[int, Link],
        macs: Mapping[tuple[int, Address], Neighbor],
        mode: Mode,
    ) -> Hop:
        oif = self.connected(address)
        link = links.get(oif) if oif is not None else None
        if link is None:
            self.why[address] = "not on a connected network whose link is up"
            return Hop(address, 0, NO_MAC, NO_MAC, 0, resolved=False)
        neighbor = macs.get((link.index, address))
        mac = NO_MAC
        if len(link.address) != ETHERNET_OCTETS or link.address == NO_MAC:
            self.why[address] = f"{link.name} is no Ethernet link"
        elif mode == "xdp" and link.kind == "vlan":
            self.why[address] = f"{link.name} is a VLAN, and the program is attached by XDP"
        elif neighbor is None or not neighbor.state & uapi.NUD_VALID or not neighbor.mac:
            self.why[address] = f"its MAC is not known on {link.name}"
        else:
            mac = neighbor.mac
        source = link.address if len(link.address) == ETHERNET_OCTETS else NO_MAC
        mtu = min(link.mtu, 0xFFFF)
        return Hop(address, link.index, source, mac, mtu, resolved=mac != NO_MAC)

    def bury(self, plane: Plane, alive: Collection[Address]) -> None:
        """Mark as dead the others: their records are void, and what still comes for one of them is
        left to the kernel."""
        for index, hop in list(self.known.items()):
            if hop.alive and (hop.address not in alive or self.index.get(hop.address) != index):
                dead = replace(hop, alive=False, resolved=False)
                plane.put_hop(index, dead)
                self.known[index] = dead

    def forget(self, plane: Plane, named: Collection[int]) -> None:
        """Set the indices of the dead free, but those that buckets name. Only while no bucket is in
        transition."""
        for index, hop in list(self.known.items()):
            if not hop.alive and index not in named:
                plane.delete_hop(index)
                del self.known[index]
                if self.index.get(hop.address) == index:
                    del self.index[hop.address]

    def _manage(
        self, alive: Collection[Address], macs: Mapping[tuple[int, Address], Neighbor]
    ) -> None:
        """Have the kernel keep the living resolved, and only these."""
        ways = {(oif, a) for a in alive if (oif := self.connected(a)) is not None}
        ops: list[Op] = [
            PutNeighbor(Neighbor(*way, 0, managed=True, protocol=PROTOCOL))
            for way in ways
            if _is_to_be_asked(macs.get(way))
        ]
        for way, found in macs.items():
            if found.managed and found.protocol == PROTOCOL and way not in ways:
                ops.append(DeleteNeighbor(*way))
        self.errors = [e.text for e in self.kernel.apply(ops) if e is not None] if ops else []


def release(kernel: Kernel) -> None:
    """Let go of the neighbours that the kernel was told to keep resolved."""
    ours = [n for n in kernel.neighbors() if n.managed and n.protocol == PROTOCOL]
    kernel.apply([DeleteNeighbor(n.index, n.address) for n in ours])


def _is_to_be_asked(found: Neighbor | None) -> bool:
    if found is None or found.state & uapi.NUD_FAILED:
        return True
    return not (found.managed or found.state & (uapi.NUD_PERMANENT | uapi.NUD_NOARP))


def _remembered(now: Hop, before: Hop) -> Hop:
    """Where its MAC is not known now, the one that it had on the same link."""
    if now.resolved:
        return now
    if not now.ifindex:  # its link is down: it may come back as it was
        return replace(before, alive=True, resolved=False)
    if (now.ifindex, now.source_mac) != (before.ifindex, before.source_mac):
        return now
    return replace(before, mtu=now.mtu, alive=True, resolved=True)

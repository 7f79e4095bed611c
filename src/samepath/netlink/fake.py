"""A kernel for tests: refuses what the real one refuses, and forgets what it forgets.

`FakeKernel` has the interface of `kernel.Kernel` and hooks to play the world: links that go up and
down, time, packets that keep a bucket busy, other daemons, a refusal on request. Its texts and
error numbers are the real kernel's. One suite (tests/netlink/test_kernel_both.py) runs on both, so
that the fake stays honest.

What is not done: routes that the kernel itself makes for connected networks (only what was put is
read back), multipath without next hop objects in `route_get`, the unbalanced timer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from errno import (
    EINVAL,
    ENETUNREACH,
    ENODEV,
)

from samepath.hashing.flow import Flow, lookup_hash
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    family_of,
)
from samepath.netlink import uapi
from samepath.netlink.encode import BATCH_MESSAGES
from samepath.netlink.fake_links import create_veth, delete_link, set_link
from samepath.netlink.fake_world import LO, FakeWorld, Refused
from samepath.netlink.kernel import Results, Steps
from samepath.netlink.monitor import Monitor
from samepath.netlink.objects import (
    Bucket,
    BucketState,
    Group,
    InterfaceAddress,
    Link,
    Lookup,
    Neighbor,
    NextHop,
    Route,
)
from samepath.netlink.ops import (
    ApplyError,
    CreateVeth,
    DeleteAddress,
    DeleteLink,
    DeleteNeighbor,
    DeleteNextHop,
    DeleteRoute,
    DeleteRoutes,
    Op,
    PutAddress,
    PutGroup,
    PutNeighbor,
    PutNextHop,
    PutRoute,
    PutRoutes,
    SetLink,
)
from samepath.netlink.socket import NetlinkError


@dataclass(slots=True)
class _Failure:
    predicate: Callable[[Op], bool]
    errno: int
    said: str


class FakeMonitor:
    """An event descriptor that is readable while there is news."""

    def __init__(self, unheard: frozenset[str]) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unheard = unheard
        self._kinds: set[str] = set()

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def drain(self) -> set[str]:
        kinds, self._kinds = self._kinds, set()
        if kinds:
            os.eventfd_read(self._descriptor)
        return kinds

    def notify(self, kinds: Iterable[str]) -> None:
        news = set(kinds) - self._unheard
        if news and self._descriptor >= 0:
            self._kinds |= news
            os.eventfd_write(self._descriptor, 1)


class FakeKernel:
    """One network namespace with `lo` up."""

    def __init__(self) -> None:
        self.world = FakeWorld()
        self.hash_seed = 1
        self.log: list[Op] = []
        """Every op that was applied, in order; refused ones too."""
        self.namespaces: dict[int, FakeKernel] = {}
        """Others, by the descriptor that stands for them."""
        self._failures: list[_Failure] = []
        self._monitors: list[FakeMonitor] = []

    # -- the world, played by a test

    def add_link(self, name: str, *addresses: tuple[Address, int], up: bool = True) -> int:
        """A veth with these (address, prefix length); its index."""
        index = self.world.new_index()
        self.world.links[index] = Link(
            index, name, up, up, 1500, b"\2\0\0\0\0" + bytes([index]), "veth", running=up
        )
        for address, length in addresses:
            self.world.addresses[index, address] = InterfaceAddress(index, address, length)
        self._notify("link", "address")
        return index

    def set_link(self, index: int, *, up: bool | None = None, carrier: bool | None = None) -> None:
        """Down, or without carrier: its next hops, their groups and routes go, and nobody is told
        of these. Down takes IPv6 addresses, too. Up brings nothing back."""
        link = self.world.links[index]
        up = link.up if up is None else up
        # A link that is up again has the carrier that its cable has.
        self.world.set_link(index, up=up, carrier=up and (up if carrier is None else carrier))
        self._notify("link")

    def remove_link(self, index: int) -> None:
        self.world.remove_link(index)
        self._notify("link")

    def advance(self, seconds: float) -> None:
        """Time passes; idle buckets of members that own too many move."""
        self.world.now += seconds
        for table in self.world.tables.values():
            table.upkeep(self.world.now)

    def touch(self, group_id: int, bucket: int) -> None:
        """A packet uses this bucket now."""
        self.set_idle(group_id, bucket, 0.0)

    def set_idle(self, group_id: int, bucket: int, seconds: float) -> None:
        """The last packet used this bucket so long ago."""
        slot = self.world.tables[group_id].buckets[bucket]
        slot.used = self.world.now - seconds
        slot.migrated = slot.used - 1.0

    def fail_next(self, predicate: Callable[[Op], bool], errno: int, said: str = "") -> None:
        """The next op that satisfies `predicate` is refused."""
        self._failures.append(_Failure(predicate, errno, said))

    def foreign(self, ops: Sequence[Op]) -> Results:
        """Another process writes; monitors hear of it."""
        logged = len(self.log)
        results = self.apply(ops)
        del self.log[logged:]
        for op in ops:
            self._notify(_KIND.get(type(op), "route"))
        return results

    def _notify(self, *kinds: str) -> None:
        for monitor in self._monitors:
            monitor.notify(kinds)

    def close(self) -> None: ...

    # -- reads

    def monitor(self, *, routes: bool = False, neighbors: bool = False) -> Monitor:
        heard = {"route": routes, "neighbor": neighbors}
        monitor = FakeMonitor(frozenset(kind for kind, wanted in heard.items() if not wanted))
        self._monitors.append(monitor)
        return monitor

    def links(self) -> list[Link]:
        return list(self.world.links.values())

    def link(self, which: int | str) -> Link | None:
        return next((x for x in self.world.links.values() if which in (x.index, x.name)), None)

    def addresses(self) -> list[InterfaceAddress]:
        return list(self.world.addresses.values())

    def neighbors(self, index: int | None = None) -> list[Neighbor]:
        return [n for n in self.world.neighbors.values() if index in (None, n.index)]

    def nexthops(self, protocol: int | None = None) -> tuple[list[NextHop], list[Group]]:
        items = [
            item
            for _, item in sorted(self.world.nexthops.items())
            if protocol is None or item.protocol == protocol
        ]
        return (
            [item for item in items if isinstance(item, NextHop)],
            [item for item in items if isinstance(item, Group)],
        )

    def nexthop(self, id_: int) -> NextHop | Group | None:
        return self.world.nexthops.get(id_)

    def buckets(self, group_id: int) -> list[Bucket]:
        state = self.bucket_state(group_id)
        return [
            Bucket(i, *pair) for i, pair in enumerate(zip(state.ids, state.idle_s, strict=True))
        ]

    def bucket_state(self, group_id: int) -> BucketState:
        table = self.world.tables.get(group_id)
        if table is None:
            return BucketState([], [])
        return BucketState(table.ids(), table.idle_s(self.world.now))

    def routes(
        self, family: Family, protocol: int | None = None, table: int = uapi.RT_TABLE_MAIN
    ) -> list[Route]:
        return [
            route
            for (of, number, _, _), route in self.world.routes.items()
            if of is family and number == table and protocol in (None, route.protocol)
        ]

    def route_nexthops(
        self, family: Family, protocol: int, table: int = uapi.RT_TABLE_MAIN
    ) -> dict[tuple[Nlri, int], int]:
        return {
            (route.nlri, route.metric): route.nexthop_id
            for route in self.routes(family, protocol, table)
            if route.nexthop_id is not None
        }

    def route_get(
        self,
        destination: Address,
        source: Address | None = None,
        protocol: int | None = None,
        source_port: int | None = None,
        destination_port: int | None = None,
        *,
        iif: int | None = None,
        oif: int | None = None,
    ) -> Lookup:
        family = family_of(destination)
        if any(address == destination for _, address in self.world.addresses):
            return Lookup(None, LO, None, uapi.RTN_LOCAL)
        route = self.world.best_route(family, destination)
        if route is not None and route.type == uapi.RTN_UNICAST and route.nexthop_id is None:
            return Lookup(route.gateway, route.oif or 0, None)
        if route is None or route.nexthop_id is None:
            index = self.world.connected(destination)
            if route is not None or index is None:
                raise NetlinkError(ENETUNREACH, os.strerror(ENETUNREACH))
            return Lookup(None, index, None)
        flow = Flow(
            source or bytes(family.octets),
            destination,
            protocol or 0,
            source_port or 0,
            destination_port or 0,
        )
        hop = self.world.pick(route.nexthop_id, lookup_hash(flow, self.hash_seed))
        if hop.blackhole:
            raise NetlinkError(EINVAL, os.strerror(EINVAL))
        return Lookup(hop.gateway, hop.oif, None)

    # -- writes

    def apply(self, ops: Sequence[Op]) -> Results:
        return [self._apply_one(op) for op in ops]

    def apply_steps(self, ops: Sequence[Op]) -> Steps:
        results: Results = []
        for op in ops:
            results.append(self._apply_one(op))
            rows = len(op.nlris) if isinstance(op, PutRoutes | DeleteRoutes) else 1
            for _ in range(0, rows, BATCH_MESSAGES):
                yield min(rows, BATCH_MESSAGES)
        return results

    def _apply_one(self, op: Op) -> ApplyError | None:
        self.log.append(op)
        for failure in self._failures:
            if failure.predicate(op):
                self._failures.remove(failure)
                said = failure.said or os.strerror(failure.errno)
                rows = op.nlris if isinstance(op, PutRoutes | DeleteRoutes) else ()
                return ApplyError(op, failure.errno, said, dict.fromkeys(rows, said))
        if isinstance(op, PutRoutes | DeleteRoutes):
            return self._apply_bulk(op)
        try:
            self._dispatch(op)
        except Refused as refused:
            return ApplyError(op, refused.errno, refused.said)
        return None

    def _apply_bulk(self, op: PutRoutes | DeleteRoutes) -> ApplyError | None:
        failed: dict[Nlri, str] = {}
        errno = 0
        for nlri in op.nlris:
            try:
                if isinstance(op, PutRoutes):
                    route = Route(
                        op.family, nlri, op.table, op.metric, op.nexthop_id, protocol=op.protocol
                    )
                    self.world.put_route(route, op.exclusive)
                else:
                    self.world.delete_route(op.family, op.table, nlri, op.metric, op.protocol)
            except Refused as refused:
                errno = errno or refused.errno
                failed[nlri] = refused.said
        return ApplyError(op, errno, next(iter(failed.values())), failed) if failed else None

    def _dispatch(self, op: Op) -> None:
        match op:
            case PutNextHop(nexthop):
                self.world.put_nexthop(nexthop)
            case PutGroup(group):
                self.world.put_group(group)
            case DeleteNextHop(id_):
                self.world.remove(id_)
            case PutRoute(route, exclusive):
                self.world.put_route(route, exclusive)
            case DeleteRoute(route):
                self.world.delete_route(
                    route.family, route.table, route.nlri, route.metric, route.protocol
                )
            case PutAddress():
                self.world.put_address(op)
            case DeleteAddress(index, address, _):
                self.world.addresses.pop((index, address), None)
            case PutNeighbor(neighbor):
                if neighbor.index not in self.world.links:
                    raise Refused(ENODEV)
                self.world.neighbors[neighbor.index, neighbor.address] = neighbor
            case DeleteNeighbor(index, address):
                self.world.neighbors.pop((index, address), None)
            case CreateVeth():
                create_veth(self.world, op, {n: k.world for n, k in self.namespaces.items()})
            case SetLink():
                set_link(self.world, op)
            case DeleteLink(index):
                delete_link(self.world, index)
            case _:
                raise AssertionError(op)


_KIND = {
    PutNextHop: "nexthop",
    PutGroup: "nexthop",
    DeleteNextHop: "nexthop",
    PutAddress: "address",
    DeleteAddress: "address",
    PutNeighbor: "neighbor",
    DeleteNeighbor: "neighbor",
    CreateVeth: "link",
    SetLink: "link",
    DeleteLink: "link",
}

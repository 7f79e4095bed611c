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
from dataclasses import dataclass, replace
from errno import (
    EEXIST,
    EHOSTUNREACH,
    EINVAL,
    ENETDOWN,
    ENETUNREACH,
    ENODEV,
)

from samepath.hashing.flow import Flow, lookup_hash
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    family_of,
    make_nlri,
)
from samepath.netlink import uapi
from samepath.netlink.encode import BATCH_MESSAGES
from samepath.netlink.fake_groups import ResilientTable
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
    DeleteAddress,
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
)
from samepath.netlink.socket import NetlinkError

LO = 1
IPV6_DEFAULT_METRIC = 1024
MAX_MEMBERS = 8191

RouteKey = tuple[Family, int, Nlri, int]
"""Family, table, prefix, metric."""


class _Refused(Exception):
    def __init__(self, errno: int, said: str = "") -> None:
        super().__init__(said)
        self.errno = errno
        self.said = said or os.strerror(errno)


@dataclass(slots=True)
class _Failure:
    predicate: Callable[[Op], bool]
    errno: int
    said: str


class FakeMonitor:
    """An event descriptor that is readable while there is news."""

    def __init__(self, routes: bool) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._routes = routes
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
        news = {kind for kind in kinds if self._routes or kind != "route"}
        if news and self._descriptor >= 0:
            self._kinds |= news
            os.eventfd_write(self._descriptor, 1)


class FakeKernel:
    """One network namespace with `lo` up."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds; `advance` moves it."""
        self.hash_seed = 1
        self.log: list[Op] = []
        """Every op that was applied, in order; refused ones too."""
        self.routes_by_key: dict[RouteKey, Route] = {}
        self._links: dict[int, Link] = {LO: Link(LO, "lo", True, True, 65536, bytes(6))}
        self._addresses: dict[tuple[int, Address], InterfaceAddress] = {}
        self._neighbors: dict[tuple[int, Address], Neighbor] = {}
        self._nexthops: dict[int, NextHop | Group] = {}
        self._tables: dict[int, ResilientTable] = {}
        self._failures: list[_Failure] = []
        self._monitors: list[FakeMonitor] = []

    # -- the world, played by a test

    def add_link(self, name: str, *addresses: tuple[Address, int], up: bool = True) -> int:
        """A veth with these (address, prefix length); its index."""
        index = max(self._links) + 1
        self._links[index] = Link(index, name, up, up, 1500, b"\2\0\0\0\0" + bytes([index]), "veth")
        for address, length in addresses:
            self._addresses[index, address] = InterfaceAddress(index, address, length)
        self._notify("link", "address")
        return index

    def set_link(self, index: int, *, up: bool | None = None, carrier: bool | None = None) -> None:
        """Down, or without carrier: its next hops, their groups and routes go, and nobody is told
        of these. Down takes IPv6 addresses, too. Up brings nothing back."""
        link = self._links[index]
        up = link.up if up is None else up
        # A link that is up again has the carrier that its cable has.
        carrier = up and (up if carrier is None else carrier)
        self._links[index] = replace(link, up=up, carrier=carrier)
        if not (up and carrier):
            self._flush_link(index)
        if not up:
            self._neighbors = {k: v for k, v in self._neighbors.items() if k[0] != index}
            self._addresses = {
                key: value
                for key, value in self._addresses.items()
                if key[0] != index or len(value.address) == 4
            }
        self._notify("link")

    def remove_link(self, index: int) -> None:
        self.set_link(index, up=False)
        del self._links[index]
        self._addresses = {k: v for k, v in self._addresses.items() if k[0] != index}

    def advance(self, seconds: float) -> None:
        """Time passes; idle buckets of members that own too many move."""
        self.now += seconds
        for table in self._tables.values():
            table.upkeep(self.now)

    def touch(self, group_id: int, bucket: int) -> None:
        """A packet uses this bucket now."""
        self.set_idle(group_id, bucket, 0.0)

    def set_idle(self, group_id: int, bucket: int, seconds: float) -> None:
        """The last packet used this bucket so long ago."""
        slot = self._tables[group_id].buckets[bucket]
        slot.used = self.now - seconds
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

    # -- reads

    def monitor(self, *, routes: bool = False) -> Monitor:
        monitor = FakeMonitor(routes)
        self._monitors.append(monitor)
        return monitor

    def links(self) -> list[Link]:
        return list(self._links.values())

    def addresses(self) -> list[InterfaceAddress]:
        return list(self._addresses.values())

    def neighbors(self) -> list[Neighbor]:
        return list(self._neighbors.values())

    def nexthops(self, protocol: int | None = None) -> tuple[list[NextHop], list[Group]]:
        items = [
            item
            for _, item in sorted(self._nexthops.items())
            if protocol is None or item.protocol == protocol
        ]
        return (
            [item for item in items if isinstance(item, NextHop)],
            [item for item in items if isinstance(item, Group)],
        )

    def nexthop(self, id_: int) -> NextHop | Group | None:
        return self._nexthops.get(id_)

    def buckets(self, group_id: int) -> list[Bucket]:
        state = self.bucket_state(group_id)
        return [
            Bucket(i, *pair) for i, pair in enumerate(zip(state.ids, state.idle_s, strict=True))
        ]

    def bucket_state(self, group_id: int) -> BucketState:
        table = self._tables.get(group_id)
        if table is None:
            return BucketState([], [])
        return BucketState(table.ids(), table.idle_s(self.now))

    def routes(
        self, family: Family, protocol: int | None = None, table: int = uapi.RT_TABLE_MAIN
    ) -> list[Route]:
        return [
            route
            for (of, number, _, _), route in self.routes_by_key.items()
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
        route = self._best(family, destination)
        if route is not None and route.type == uapi.RTN_UNICAST and route.nexthop_id is None:
            return Lookup(route.gateway, route.oif or 0, None)
        if route is None or route.nexthop_id is None:
            index = self._connected(destination)
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
        hop = self._pick(route.nexthop_id, lookup_hash(flow, self.hash_seed))
        if hop.blackhole:
            raise NetlinkError(EINVAL, os.strerror(EINVAL))
        return Lookup(hop.gateway, hop.oif, None)

    def _best(self, family: Family, destination: Address) -> Route | None:
        matching = [
            (-nlri[0], metric, route)
            for (of, table, nlri, metric), route in self.routes_by_key.items()
            if of is family
            and table == uapi.RT_TABLE_MAIN
            and make_nlri(destination, nlri[0]) == nlri
        ]
        return min(matching, key=lambda m: m[:2])[2] if matching else None

    def _pick(self, id_: int, number: int) -> NextHop:
        item = self._nexthops[id_]
        if isinstance(item, Group):
            table = self._tables.get(id_)
            ids = table.ids() if table is not None else item.members
            item = self._nexthops[ids[number % len(ids)]]
        assert isinstance(item, NextHop)
        return item

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
        except _Refused as refused:
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
                    self._put_route(route, op.exclusive)
                else:
                    self._delete_route(op.family, op.table, nlri, op.metric, op.protocol)
            except _Refused as refused:
                errno = errno or refused.errno
                failed[nlri] = refused.said
        return ApplyError(op, errno, next(iter(failed.values())), failed) if failed else None

    def _dispatch(self, op: Op) -> None:
        match op:
            case PutNextHop(nexthop):
                self._put_nexthop(nexthop)
            case PutGroup(group):
                self._put_group(group)
            case DeleteNextHop(id_):
                self._remove(id_)
            case PutRoute(route, exclusive):
                self._put_route(route, exclusive)
            case DeleteRoute(route):
                self._delete_route(
                    route.family, route.table, route.nlri, route.metric, route.protocol
                )
            case PutAddress():
                self._put_address(op)
            case DeleteAddress(index, address, _):
                self._addresses.pop((index, address), None)
            case PutNeighbor(neighbor):
                if neighbor.index not in self._links:
                    raise _Refused(ENODEV)
                self._neighbors[neighbor.index, neighbor.address] = neighbor
            case _:
                raise AssertionError(op)

    def _put_nexthop(self, nexthop: NextHop) -> None:
        old = self._nexthops.get(nexthop.id)
        if isinstance(old, Group):
            raise _Refused(EINVAL, "Can not replace a nexthop group with a nexthop.")
        if nexthop.blackhole:
            nexthop = replace(nexthop, oif=LO)
        else:
            self._check_link(nexthop)
        # Only a next hop that is there already can be in use.
        if (
            old is not None
            and nexthop.family is Family.IPV4
            and Family.IPV6 in self._families_routed_by(nexthop.id)
        ):
            raise _Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        self._nexthops[nexthop.id] = nexthop

    def _check_link(self, nexthop: NextHop) -> None:
        link = self._links.get(nexthop.oif)
        if link is None:
            raise _Refused(EINVAL, "Invalid device index")
        if not link.up:
            raise _Refused(ENETDOWN, "Nexthop device is not up")
        if not link.carrier:
            raise _Refused(ENETDOWN, "Carrier for nexthop device is down")
        gateway = nexthop.gateway
        if gateway is None or nexthop.flags & uapi.RTNH_F_ONLINK:
            return
        if len(gateway) == 16 and any(a == gateway for _, a in self._addresses):
            raise _Refused(EINVAL, "Gateway can not be a local address")
        if gateway[:2] == b"\xfe\x80" or self._connected(gateway, nexthop.oif) is not None:
            return
        if len(gateway) == 4:
            raise _Refused(ENETUNREACH, "Nexthop has invalid gateway")
        raise _Refused(EHOSTUNREACH)

    def _connected(self, address: Address, index: int | None = None) -> int | None:
        """The link whose network holds `address`."""
        for (of, own), item in self._addresses.items():
            if len(own) == len(address) and index in (None, of):
                network = make_nlri(own, item.prefix_length)
                if make_nlri(address, item.prefix_length) == network:
                    return of
        return None

    def _put_group(self, group: Group) -> None:
        self._check_members(group)
        old = self._nexthops.get(group.id)
        if isinstance(old, NextHop):
            raise _Refused(EINVAL, "Can not replace a nexthop with a nexthop group.")
        if old is not None and old.resilient != group.resilient:
            raise _Refused(EINVAL, "Can not replace a nexthop group with one of a different type.")
        if old is not None and old.buckets != group.buckets:
            raise _Refused(EINVAL, "Can not change number of buckets of a resilient nexthop group.")
        if group.resilient and not group.buckets:
            raise _Refused(EINVAL, "Number of buckets needs to be non-0")
        if old is not None and Family.IPV6 in self._routed_by({group.id}) and self._has_ipv4(group):
            raise _Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        group = replace(group, weights=_unless_all_one(group.weights))
        self._nexthops[group.id] = group
        if group.resilient:
            table = self._tables.get(group.id)
            if table is None:
                table = self._tables[group.id] = ResilientTable(group.buckets, group.idle_timer_s)
            table.idle_timer_s = group.idle_timer_s
            table.replace(group.members, group.weights or [1] * len(group.members), self.now)

    def _check_members(self, group: Group) -> None:
        if not 1 <= len(group.members) <= MAX_MEMBERS:
            raise _Refused(EINVAL, "Invalid length for nexthop group attribute")
        if len(set(group.members)) != len(group.members):
            raise _Refused(EINVAL, "Nexthop id can not be used twice in a group")
        for id_ in group.members:
            member = self._nexthops.get(id_)
            if member is None:
                raise _Refused(EINVAL, "Invalid nexthop id")
            if isinstance(member, Group):
                raise _Refused(EINVAL, "Hash-threshold group can not be a nexthop within a group")
            if member.blackhole and len(group.members) > 1:
                raise _Refused(
                    EINVAL,
                    "Blackhole nexthop can not be used in a group with more than 1 path",
                )

    def _has_ipv4(self, item: NextHop | Group) -> bool:
        members = item.members if isinstance(item, Group) else (item.id,)
        hops = (self._nexthops.get(id_, item) for id_ in members)
        return any(isinstance(hop, NextHop) and hop.family is Family.IPV4 for hop in hops)

    def _families_routed_by(self, id_: int) -> set[Family]:
        groups = {
            item.id
            for item in self._nexthops.values()
            if isinstance(item, Group) and id_ in item.members
        }
        return self._routed_by(groups | {id_})

    def _routed_by(self, ids: set[int]) -> set[Family]:
        return {r.family for r in self.routes_by_key.values() if r.nexthop_id in ids}

    def _put_route(self, route: Route, exclusive: bool) -> None:
        if route.nexthop_id is not None:
            item = self._nexthops.get(route.nexthop_id)
            if item is None:
                raise _Refused(EINVAL, "Nexthop id does not exist")
            if route.family is Family.IPV6 and self._has_ipv4(item):
                raise _Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        metric = route.metric
        if route.family is Family.IPV6 and not metric:
            metric = IPV6_DEFAULT_METRIC
        key = (route.family, route.table, route.nlri, metric)
        if exclusive and key in self.routes_by_key:
            raise _Refused(EEXIST)
        self.routes_by_key[key] = replace(route, metric=metric)

    def _delete_route(
        self, family: Family, table: int, nlri: Nlri, metric: int, protocol: int
    ) -> None:
        key = (family, table, nlri, metric)
        route = self.routes_by_key.get(key)
        if route is not None and protocol in (0, route.protocol):
            del self.routes_by_key[key]

    def _put_address(self, op: PutAddress) -> None:
        if op.index not in self._links:
            raise _Refused(
                ENODEV,
                "ipv4: Device not found"
                if len(op.address) == 4
                else "ipv6: Unable to find the interface",
            )
        flags = 0x80 if len(op.address) == 4 else 0x80 | uapi.IFA_F_NODAD
        self._addresses[op.index, op.address] = InterfaceAddress(
            op.index, op.address, op.prefix_length, op.protocol, op.scope, flags
        )

    # -- forgetting

    def _remove(self, id_: int) -> None:
        """A next hop or group goes: from its groups, with its routes; an empty group goes, too."""
        if self._nexthops.pop(id_, None) is None:
            return
        self._tables.pop(id_, None)
        self.routes_by_key = {k: r for k, r in self.routes_by_key.items() if r.nexthop_id != id_}
        for group in [g for g in self._nexthops.values() if isinstance(g, Group)]:
            if id_ not in group.members:
                continue
            at = group.members.index(id_)
            members = group.members[:at] + group.members[at + 1 :]
            if not members:
                self._remove(group.id)
                continue
            weights = _unless_all_one(group.weights[:at] + group.weights[at + 1 :])
            self._nexthops[group.id] = replace(group, members=members, weights=weights)
            if group.id in self._tables:
                self._tables[group.id].remove(id_, self.now)

    def _flush_link(self, index: int) -> None:
        """The kernel keeps a link's next hops in a list with the newest in front."""
        ids = [
            item.id
            for item in self._nexthops.values()
            if isinstance(item, NextHop) and item.oif == index
        ]
        doomed = set(ids)
        for item in list(self._nexthops.values()):
            if isinstance(item, Group) and doomed.issuperset(item.members):
                self._remove(item.id)  # as it ends, without going through each loss
        for id_ in reversed(ids):
            self._remove(id_)
        self.routes_by_key = {
            key: route
            for key, route in self.routes_by_key.items()
            if route.nexthop_id is not None or route.oif != index
        }


def _unless_all_one(weights: tuple[int, ...]) -> tuple[int, ...]:
    return weights if any(weight != 1 for weight in weights) else ()


_KIND = {
    PutNextHop: "nexthop",
    PutGroup: "nexthop",
    DeleteNextHop: "nexthop",
    PutAddress: "address",
    DeleteAddress: "address",
}

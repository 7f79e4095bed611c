"""The kernel as `apply` sees it: read everything, write in batches. A protocol and the real one.

`Kernel` is what drivers take; `RealKernel` speaks rtnetlink in one network namespace,
`fake.FakeKernel` is its double. Reads return what is there now; nothing is cached, since the kernel
forgets silently (docs/decisions/0006). Writes go out 512 messages a send with one acknowledgement
asked for at the end; the kernel reports every message that failed and goes on past it.

One instance belongs to one thread at a time. `apply` blocks for about 1.5 ms a batch; a caller with
an event loop to keep uses `apply_steps`, which pauses after every batch.

Standards: rtnetlink(7); <linux/nexthop.h>.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Generator, Iterable, Sequence
from errno import EADDRNOTAVAIL, EMSGSIZE, ENODEV, ENOENT, ENXIO, ESRCH
from typing import Protocol

from samepath.model import ours
from samepath.model.net import Address, Family, Nlri, family_of
from samepath.netlink import decode, uapi
from samepath.netlink.codec import attribute, attribute_u8, attribute_u32
from samepath.netlink.encode import BATCH_MESSAGES, Batch, fill, link_name
from samepath.netlink.monitor import Monitor, RealMonitor
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
    Bulk,
    DeleteAddress,
    DeleteLink,
    DeleteNeighbor,
    DeleteNextHop,
    DeleteRoute,
    DeleteRoutes,
    Op,
    PutGroup,
)
from samepath.netlink.socket import DATAGRAM_OCTETS, NetlinkError, Netns, Overrun, Socket

Results = list[ApplyError | None]
"""Parallel to the ops: None where the kernel did as it was asked."""

Steps = Generator[int, None, Results]
"""Yields the number of messages of each batch once it is done; returns the results."""

STEP_S = 0.02
"""A batch that takes longer makes the next one smaller."""

_PROBE_MISSES = 32

_NHMSG = struct.Struct("=BBBxI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=B3xiHBB")


class Kernel(Protocol):
    def close(self) -> None: ...

    def links(self) -> list[Link]: ...

    def link(self, which: int | str) -> Link | None:
        """One of them, by index or name."""
        ...

    def addresses(self) -> list[InterfaceAddress]: ...

    def neighbors(self, index: int | None = None) -> list[Neighbor]:
        """Of all links or of one."""
        ...

    def nexthops(self, protocol: int | None = None) -> tuple[list[NextHop], list[Group]]:
        """All next hops and groups, or those of one maker."""
        ...

    def nexthop(self, id_: int) -> NextHop | Group | None:
        """One of them; None if there is none of that id."""
        ...

    def buckets(self, group_id: int) -> list[Bucket]:
        """The buckets of a resilient group by index; empty if there is no such group."""
        ...

    def bucket_state(self, group_id: int) -> BucketState:
        """The same as parallel lists, quicker."""
        ...

    def routes(
        self, family: Family, protocol: int | None = None, table: int = uapi.RT_TABLE_MAIN
    ) -> list[Route]: ...

    def route_nexthops(
        self, family: Family, protocol: int, table: int = uapi.RT_TABLE_MAIN
    ) -> dict[tuple[Nlri, int], int]:
        """(prefix, metric) to next hop id, of the routes that have one: the quick form."""
        ...

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
        """Where a packet would go. Raises NetlinkError (ENETUNREACH) where there is no way.

        `iif` asks as for a packet that came in there and is forwarded.
        """
        ...

    def apply(self, ops: Sequence[Op]) -> Results: ...

    def apply_steps(self, ops: Sequence[Op]) -> Steps: ...

    def monitor(self, *, routes: bool = False, neighbors: bool = False) -> Monitor:
        """Wake-ups for changes that others make to links, addresses, next hops and, where asked
        for, routes and neighbours. The caller closes it."""
        ...


class RealKernel:
    """The running kernel, in the given namespace or in the present one."""

    def __init__(self, netns: Netns = None, *, datagram_octets: int = DATAGRAM_OCTETS) -> None:
        self._netns = netns
        self._socket = Socket(netns, datagram_octets=datagram_octets)
        self._known_groups: set[int] | None = None
        """Group ids, kept once dumps of groups have failed for their size."""

    def close(self) -> None:
        self._socket.close()

    def monitor(
        self, *, routes: bool = False, neighbors: bool = False, ignore_links: str = ""
    ) -> Monitor:
        """Links whose names begin with `ignore_links` are no news."""
        return RealMonitor(
            self._netns,
            ignore_port=self._socket.port,
            routes=routes,
            neighbors=neighbors,
            ignore_links=ignore_links,
            ignored=(
                x.index for x in self.links() if ignore_links and x.name.startswith(ignore_links)
            ),
        )

    def _links_named(self, prefix: str) -> list[int]:
        return [link.index for link in self.links() if link.name.startswith(prefix)]

    def links(self) -> list[Link]:
        body = _IFINFOMSG.pack(0, 0, 0, 0, 0)
        body += attribute_u32(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
        return [decode.link(b) for b in self._socket.dump(uapi.RTM_GETLINK, body)]

    def link(self, which: int | str) -> Link | None:
        index = which if isinstance(which, int) else 0
        body = _IFINFOMSG.pack(0, 0, index, 0, 0)
        body += attribute_u32(uapi.IFLA_EXT_MASK, uapi.RTEXT_FILTER_SKIP_STATS)
        if isinstance(which, str):
            body += attribute(uapi.IFLA_IFNAME, link_name(which))
        try:
            return decode.link(self._socket.request(uapi.RTM_GETLINK, body)[0])
        except NetlinkError as error:
            if error.errno == ENODEV:
                return None
            raise

    def addresses(self) -> list[InterfaceAddress]:
        body = _IFADDRMSG.pack(0, 0, 0, 0, 0)
        return [decode.address(b) for b in self._socket.dump(uapi.RTM_GETADDR, body)]

    def neighbors(self, index: int | None = None) -> list[Neighbor]:
        found = []
        for family in Family:
            body = _NDMSG.pack(family.af, 0, 0, 0, 0)
            if index is not None:
                body += attribute_u32(uapi.NDA_IFINDEX, index)
            for answer in self._socket.dump(uapi.RTM_GETNEIGH, body):
                neighbor = decode.neighbor(answer)
                if neighbor is not None:
                    found.append(neighbor)
        return found

    # -- next hops, groups, buckets

    def nexthops(self, protocol: int | None = None) -> tuple[list[NextHop], list[Group]]:
        try:
            bodies = self._socket.dump(uapi.RTM_GETNEXTHOP, _NHMSG.pack(0, 0, 0, 0))
        except NetlinkError as error:
            if error.errno != EMSGSIZE:
                raise
            return self._nexthops_singly(protocol)
        self._known_groups = None
        return _sorted_out((decode.nexthop(body) for body in bodies), protocol)

    def _nexthops_singly(self, protocol: int | None) -> tuple[list[NextHop], list[Group]]:
        """A dump fails on a group too large for 32 KiB (about 4,040 members) and tells nothing of
        what lies beyond. Next hops are still dumped by link; groups are read one by one."""
        found: list[NextHop | Group] = []
        for link in self.links():
            body = _NHMSG.pack(0, 0, 0, 0) + attribute_u32(uapi.NHA_OIF, link.index)
            found += map(decode.nexthop, self._socket.dump(uapi.RTM_GETNEXTHOP, body))
        hops = [hop for hop in found if isinstance(hop, NextHop)]
        groups = []
        for id_ in sorted(self._group_ids()):
            group = self.nexthop(id_)
            if isinstance(group, Group):
                groups.append(group)
        return _sorted_out([*hops, *groups], protocol)

    def _group_ids(self) -> set[int]:
        """Resilient groups by their buckets, mpath groups by their routes; and our own plain
        groups, of which a fresh one has no routes yet, by asking for one id after another."""
        if self._known_groups is None:
            body = _NHMSG.pack(0, 0, 0, 0)
            answers = self._socket.dump(uapi.RTM_GETNEXTHOPBUCKET, body)
            self._known_groups = {row[0] for row in decode.buckets(answers)}
        ids = self._known_groups
        for family in Family:
            for answer in self._socket.dump(uapi.RTM_GETROUTE, _route_filter(family, None, 0)):
                route = decode.route(answer)
                if route is not None and route.nexthop_id is not None:
                    ids.add(route.nexthop_id)
        id_, misses = ours.PLAIN_GROUP_BASE, 0
        while misses < _PROBE_MISSES:
            if self.nexthop(id_) is None:
                misses += 1
            else:
                ids.add(id_)
                misses = 0
            id_ += 1
        return ids

    def nexthop(self, id_: int) -> NextHop | Group | None:
        body = _NHMSG.pack(0, 0, 0, 0) + attribute_u32(uapi.NHA_ID, id_)
        try:
            answers = self._socket.request(uapi.RTM_GETNEXTHOP, body)
        except NetlinkError as error:
            if error.errno == ENOENT:
                return None
            raise
        return decode.nexthop(answers[0])

    def _bucket_rows(self, group_id: int) -> list[decode.Row]:
        body = _NHMSG.pack(0, 0, 0, 0) + attribute_u32(uapi.NHA_ID, group_id)
        try:
            answers = self._socket.dump(uapi.RTM_GETNEXTHOPBUCKET, body)
        except NetlinkError as error:
            if error.errno == ENOENT:
                return []
            raise
        return decode.buckets(answers)

    def buckets(self, group_id: int) -> list[Bucket]:
        return [Bucket(index, id_, idle) for _, index, id_, idle in self._bucket_rows(group_id)]

    def bucket_state(self, group_id: int) -> BucketState:
        rows = self._bucket_rows(group_id)
        return BucketState([row[2] for row in rows], [row[3] for row in rows])

    # -- routes

    def _route_bodies(self, family: Family, protocol: int | None, table: int) -> list[memoryview]:
        try:
            return self._socket.dump(uapi.RTM_GETROUTE, _route_filter(family, protocol, table))
        except NetlinkError as error:
            if error.errno == ENOENT:  # the table does not exist yet
                return []
            raise

    def routes(
        self, family: Family, protocol: int | None = None, table: int = uapi.RT_TABLE_MAIN
    ) -> list[Route]:
        decoded = map(decode.route, self._route_bodies(family, protocol, table))
        return [r for r in decoded if r is not None and r.type in _OPERATORS]

    def route_nexthops(
        self, family: Family, protocol: int, table: int = uapi.RT_TABLE_MAIN
    ) -> dict[tuple[Nlri, int], int]:
        return decode.nexthop_routes(family, self._route_bodies(family, protocol, table))

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
        body = _RTMSG.pack(family.af, family.bits, family.bits if source else 0, 0, 0, 0, 0, 0, 0)
        body += attribute(uapi.RTA_DST, destination)
        if source is not None:
            body += attribute(uapi.RTA_SRC, source)
        if protocol is not None:
            body += attribute_u8(uapi.RTA_IP_PROTO, protocol)
        for type_, port in ((uapi.RTA_SPORT, source_port), (uapi.RTA_DPORT, destination_port)):
            if port is not None:
                body += attribute(type_, port.to_bytes(2, "big"))
        for type_, index in ((uapi.RTA_IIF, iif), (uapi.RTA_OIF, oif)):
            if index is not None:
                body += attribute_u32(type_, index)
        return decode.lookup(self._socket.request(uapi.RTM_GETROUTE, body)[0])

    # -- writes

    def apply(self, ops: Sequence[Op]) -> Results:
        steps = self.apply_steps(ops)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                results: Results = done.value
                return results

    def apply_steps(self, ops: Sequence[Op]) -> Steps:
        failures: dict[int, list[tuple[int, int, str]]] = {}
        position, limit = (0, 0), BATCH_MESSAGES
        while position[0] < len(ops):
            batch = fill(ops, position, self._socket.next_sequence(0), limit)
            if batch.count:
                began = time.perf_counter()
                try:
                    self._send(batch, ops, failures)
                except Overrun:
                    if limit == 1:
                        raise
                    limit //= 2  # any op may be repeated; fewer errors at a time will fit
                    continue
                limit = _next_limit(limit, time.perf_counter() - began)
                yield batch.count
            position = batch.end
        if self._known_groups is not None:
            self._known_groups |= {op.group.id for op in ops if isinstance(op, PutGroup)}
        return [_error(op, failures.get(index)) for index, op in enumerate(ops)]

    def _send(
        self, batch: Batch, ops: Sequence[Op], failures: dict[int, list[tuple[int, int, str]]]
    ) -> None:
        self._socket.next_sequence(batch.count)
        for number, errno, said in self._socket.transact(batch.data, batch.first + batch.count - 1):
            index, row = batch.origin(number)
            if not _is_gone_anyway(ops[index], errno):
                failures.setdefault(index, []).append((row, errno, said))


_OPERATORS = frozenset(
    (uapi.RTN_UNICAST, uapi.RTN_BLACKHOLE, uapi.RTN_UNREACHABLE, uapi.RTN_PROHIBIT)
)
"""Kinds of routes that somebody chose; the others are the kernel's own bookkeeping."""

_GONE = {
    DeleteNextHop: (ENOENT,),
    DeleteRoute: (ESRCH, ENOENT),
    DeleteRoutes: (ESRCH, ENOENT),
    DeleteAddress: (EADDRNOTAVAIL, ENODEV, ENXIO),
    DeleteNeighbor: (ENOENT, ENODEV),
    DeleteLink: (ENODEV,),
}
"""What the kernel says when that which is to be deleted is not there."""


def _next_limit(limit: int, took_s: float) -> int:
    """Batches shrink where the kernel is slow: an IPv6 route by a group of 4,093 members takes it
    0.25 ms, since it looks at every member."""
    if took_s > STEP_S:
        return max(limit // 2, 16)
    return min(limit * 2, BATCH_MESSAGES) if took_s < STEP_S / 4 else limit


def _is_gone_anyway(op: Op, errno: int) -> bool:
    return errno in _GONE.get(type(op), ())


def _error(op: Op, failures: list[tuple[int, int, str]] | None) -> ApplyError | None:
    if not failures:
        return None
    _, errno, said = failures[0]
    if isinstance(op, Bulk):
        return ApplyError(op, errno, said, {op.nlris[row]: text for row, _, text in failures})
    return ApplyError(op, errno, said)


def _route_filter(family: Family, protocol: int | None, table: int) -> bytes:
    """With strict checking the kernel itself leaves out what the header does not ask for, and
    cached routes without RTM_F_CLONED."""
    body = _RTMSG.pack(family.af, 0, 0, 0, 0, protocol or 0, 0, 0, 0)
    return body + attribute_u32(uapi.RTA_TABLE, table) if table else body


def _sorted_out(
    found: Iterable[NextHop | Group], protocol: int | None
) -> tuple[list[NextHop], list[Group]]:
    hops: list[NextHop] = []
    groups: list[Group] = []
    for item in found:
        if protocol is not None and item.protocol != protocol:
            continue
        if isinstance(item, Group):
            groups.append(item)
        else:
            hops.append(item)
    return hops, groups

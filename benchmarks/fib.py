"""What a router's kernel holds, seen from outside: how far it is, and whether it is all there.

Used by the benchmarks to stop the clock. Asking must not slow the router down: `Fib.looks_complete`
counts the kernel's prefixes and looks a few of them up; only when these are as they should be is
the whole table read and compared (`missing`). Next hops are understood in each way that routers
write them: in the route itself, as a group, as a resilient group with many replicas of one gateway.
Of such replicas, known by their numbers, one is asked: to dump all of them, more than 60,000 with a
thousand peers, would keep the kernel and a processor from the router.

rtnetlink(7); RTM_F_FIB_MATCH asks for the route itself, not for the way of one packet.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from samepath.model.net import Address, Family, nlri_address
from samepath.model.ours import is_replica, slot_of
from samepath.netlink import decode, uapi
from samepath.netlink.codec import attribute
from samepath.netlink.kernel import RealKernel
from samepath.netlink.objects import Group, Route
from samepath.netlink.socket import NetlinkError, Socket

RTM_F_FIB_MATCH = 0x2000
_RTMSG = struct.Struct("=BBBBBBBBI")
LOOKED_UP = 32
FIRST_PAUSE_S = 0.005
PAUSE_SHARE = 0.01
"""The pause between two looks, as a share of the time that has gone by."""
PAUSE_MOST_S = 0.25

Hops = frozenset[Address]
NONE: Hops = frozenset()
Asked = dict[int, Hops]
"""Of a next hop's or a group's id, or of a slot of ours: what was read in one look."""


class Fib:
    def __init__(self, netns: Path, pid: int) -> None:
        """`pid`: any process within the namespace, for its /proc/net."""
        self.kernel = RealKernel(netns)
        self._socket = Socket(netns)
        self._triestat = Path(f"/proc/{pid}/net/fib_triestat")
        self.known: dict[int, Address] = {}
        """Next hop ids to gateways, as `learn` has read them last."""
        self._before = self.count()
        self._rng = random.Random(1)

    def close(self) -> None:
        self.kernel.close()
        self._socket.close()

    def count(self) -> int:
        """IPv4 prefixes in the main table (and in the local one where both are one)."""
        for line in self._triestat.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Prefixes":
                return int(value)
        return 0

    def hops(self, address: Address, asked: Asked | None = None) -> Hops:
        """The next hops of the /32 of `address`; none if there is no such route. `asked`: what one
        look has asked so far."""
        body = _RTMSG.pack(uapi.AF_INET, 32, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
        body += attribute(uapi.RTA_DST, address)
        try:
            route = decode.route(self._socket.request(uapi.RTM_GETROUTE, body)[0])
        except NetlinkError:
            return NONE
        if route is None or route.nlri[0] != 32:
            return NONE
        return self._hops(route, {} if asked is None else asked)

    def _hops(self, route: Route, asked: Asked) -> Hops:
        if route.nexthop_id is not None:
            return self._members(route.nexthop_id, asked)
        if route.multipath:
            return frozenset(h.gateway for h in route.multipath if h.gateway)
        return frozenset((route.gateway,)) if route.gateway else NONE

    def _members(self, id_: int, asked: Asked) -> Hops:
        """The gateways of a next hop object or group."""
        number = slot_of(id_) if is_replica(id_) else id_
        found = asked.get(number)
        if found is None:
            thing = self.kernel.nexthop(id_)
            if isinstance(thing, Group):
                one_each = {slot_of(i) if is_replica(i) else i: i for i in thing.members}
                found = NONE.union(*(self._members(i, asked) for i in one_each.values()))
            elif thing is not None and thing.gateway:
                found = frozenset((thing.gateway,))
            else:
                found = NONE
            asked[number] = found
        return found

    def learn(self) -> None:
        """Read which next hop is whose, all of them."""
        hops, _ = self.kernel.nexthops()
        self.known = {hop.id: hop.gateway for hop in hops if hop.gateway}

    def looks_complete(
        self, expected: Mapping[Address, Hops], among: list[Address], looks: int = LOOKED_UP
    ) -> bool:
        """Whether the count is right and a random choice `among` the prefixes is as expected."""
        if self.count() - self._before < len(expected):
            return False
        chosen = self._rng.sample(among, min(looks, len(among)))
        asked: Asked = {}
        return all(self.hops(address, asked) == expected[address] for address in chosen)

    def missing(self, expected: Mapping[Address, Hops]) -> list[Address]:
        """The prefixes that are not there with exactly the next hops expected: the whole truth.

        The table is read first, the groups that it names right after it.
        """
        asked: Asked = {}
        found: dict[Address, Hops] = {}
        for route in self.kernel.routes(Family.IPV4):
            if route.nlri[0] == 32:
                address = nlri_address(Family.IPV4, route.nlri)
                if address in expected:
                    found[address] = self._hops(route, asked)
        return [a for a, hops in expected.items() if found.get(a, NONE) != hops]

    def wait(self, expected: Mapping[Address, Hops], since: float, limit_s: float) -> float | None:
        """Seconds from `since` until everything is there; None if it is not within the limit."""
        among = list(expected)
        pause = FIRST_PAUSE_S
        while time.monotonic() - since < limit_s:
            time.sleep(pause)
            if self.looks_complete(expected, among):
                seen = time.monotonic() - since
                missing = self.missing(expected)
                if not missing:
                    return seen
                among = missing
            gone_by = time.monotonic() - since
            pause = min(max(FIRST_PAUSE_S, gone_by * PAUSE_SHARE), PAUSE_MOST_S)
        return None

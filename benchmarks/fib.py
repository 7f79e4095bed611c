"""What a router's kernel holds, seen from outside: how far it is, and whether it is all there.

Used by the benchmarks to stop the clock. Asking must not slow the router down: `Fib.looks_complete`
counts the kernel's prefixes and looks a few of them up; only when these are as they should be is
the whole table read and compared (`missing`). Next hops are understood in each way that routers
write them: in the route itself, as a group, as a resilient group with many replicas of one gateway.

rtnetlink(7); RTM_F_FIB_MATCH asks for the route itself, not for the way of one packet.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from samepath.model.net import Address, Family, nlri_address
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


class Fib:
    def __init__(self, netns: Path, pid: int) -> None:
        """`pid`: any process within the namespace, for its /proc/net."""
        self.kernel = RealKernel(netns)
        self._socket = Socket(netns)
        self._triestat = Path(f"/proc/{pid}/net/fib_triestat")
        self.known: dict[int, Address] = {}
        """Next hop ids to gateways, as read last."""
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

    def hops(self, address: Address) -> Hops:
        """The next hops of the /32 of `address`; none if there is no such route."""
        body = _RTMSG.pack(uapi.AF_INET, 32, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
        body += attribute(uapi.RTA_DST, address)
        try:
            route = decode.route(self._socket.request(uapi.RTM_GETROUTE, body)[0])
        except NetlinkError:
            return NONE
        if route is None or route.nlri[0] != 32:
            return NONE
        return self._hops(route, {})

    def _hops(self, route: Route, groups: dict[int, Hops]) -> Hops:
        if route.nexthop_id is not None:
            found = groups.get(route.nexthop_id)
            if found is None:
                found = groups[route.nexthop_id] = self.members(route.nexthop_id)
            return found
        if route.multipath:
            return frozenset(h.gateway for h in route.multipath if h.gateway)
        return frozenset((route.gateway,)) if route.gateway else NONE

    def members(self, id_: int) -> Hops:
        """The gateways of a next hop object or group."""
        thing = self.kernel.nexthop(id_)
        if thing is None:
            return NONE
        if not isinstance(thing, Group):
            return frozenset((thing.gateway,)) if thing.gateway else NONE
        return frozenset(self.gateways(thing.members).values())

    def learn(self) -> None:
        """Read which next hop is whose; `gateways` remembers it, as long as ids keep their hop."""
        hops, _ = self.kernel.nexthops()
        self.known = {hop.id: hop.gateway for hop in hops if hop.gateway}

    def gateways(self, ids: Collection[int]) -> dict[int, Address]:
        if any(id_ not in self.known for id_ in ids):
            self.learn()
        return {id_: self.known[id_] for id_ in ids if id_ in self.known}

    def looks_complete(
        self, expected: Mapping[Address, Hops], among: list[Address], looks: int = LOOKED_UP
    ) -> bool:
        """Whether the count is right and a random choice `among` the prefixes is as expected."""
        if self.count() - self._before < len(expected):
            return False
        chosen = self._rng.sample(among, min(looks, len(among)))
        return all(self.hops(address) == expected[address] for address in chosen)

    def missing(self, expected: Mapping[Address, Hops]) -> list[Address]:
        """The prefixes that are not there with exactly the next hops expected: the whole truth.

        The table is read first and understood later, so that its state is that of one moment.
        """
        self.learn()
        groups: dict[int, Hops] = {}
        found: dict[Address, Hops] = {}
        for route in self.kernel.routes(Family.IPV4):
            if route.nlri[0] == 32:
                address = nlri_address(Family.IPV4, route.nlri)
                if address in expected:
                    found[address] = self._hops(route, groups)
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

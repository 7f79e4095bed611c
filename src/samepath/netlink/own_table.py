"""The kernel with our routes in a table of their own, before the main one.

For a gateway beside a routing daemon. In the main table our route to a prefix would displace the
daemon's: zebra takes a route that it did not make for the better one, and takes its own out of the
kernel, whereupon we would have no reason for ours. A rule sends every lookup to our table first;
what it does not hold is found in the main one, as ever. So theirs stands below ours, whatever the
metrics, and packets go by it while ours is not there.

`TableKernel` is `RealKernel` but for that, and also reads the daemon's routes.

Standards: rtnetlink(7), ip-rule(8); <linux/fib_rules.h>.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from errno import EEXIST, ENOENT

from samepath.model.net import Family, Nlri
from samepath.model.ours import PROTOCOL, RULE_PREFERENCE, TABLE
from samepath.netlink import decode, uapi
from samepath.netlink.codec import attribute_u8, attribute_u32
from samepath.netlink.kernel import RealKernel, Steps
from samepath.netlink.objects import Route
from samepath.netlink.ops import DeleteRoutes, Op, PutRoutes
from samepath.netlink.socket import NetlinkError

_RULE = struct.Struct("=BBBBBBBBI")


class TableKernel(RealKernel):
    def routes(
        self, family: Family, protocol: int | None = None, table: int = uapi.RT_TABLE_MAIN
    ) -> list[Route]:
        return super().routes(family, protocol, TABLE if protocol == PROTOCOL else table)

    def route_nexthops(
        self, family: Family, protocol: int, table: int = uapi.RT_TABLE_MAIN
    ) -> dict[tuple[Nlri, int], int]:
        return super().route_nexthops(family, protocol, TABLE if protocol == PROTOCOL else table)

    def apply_steps(self, ops: Sequence[Op]) -> Steps:
        moved = [
            replace(op, table=TABLE) if isinstance(op, PutRoutes | DeleteRoutes) else op
            for op in ops
        ]
        return (yield from super().apply_steps(moved))

    # the rules that lead to our table

    def put_rules(self) -> bool:
        """Whether one was not there."""
        made = [self._rule(f, uapi.RTM_NEWRULE, uapi.NLM_F_CREATE | uapi.NLM_F_EXCL)
                for f in Family]  # fmt: skip
        return any(made)

    def delete_rules(self) -> bool:
        """Whether one was there."""
        gone = [self._rule(family, uapi.RTM_DELRULE, 0) for family in Family]
        return any(gone)

    def _rule(self, family: Family, type_: int, flags: int) -> bool:
        body = _RULE.pack(family.af, 0, 0, 0, TABLE, 0, 0, uapi.FR_ACT_TO_TBL, 0)
        body += attribute_u32(uapi.FRA_PRIORITY, RULE_PREFERENCE)
        body += attribute_u8(uapi.FRA_PROTOCOL, PROTOCOL)
        try:
            self._socket.request(type_, body, flags)
        except NetlinkError as error:
            if error.errno in (EEXIST, ENOENT):
                return False
            raise
        return True

    # what others have in the main table

    def routes_of(
        self, family: Family, protocols: Collection[int], within: Callable[[Nlri], bool]
    ) -> list[Route]:
        """The routes of these makers to the prefixes that `within` holds."""
        found = []
        for protocol in sorted(protocols):
            bodies = self._route_bodies(family, protocol, uapi.RT_TABLE_MAIN)
            found += decode.routes_within(family, bodies, within)
        return found

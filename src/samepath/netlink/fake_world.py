"""What a fake kernel holds, and the rules by which it takes, refuses and forgets.

The rules of net/ipv4/nexthop.c, net/ipv4/fib_semantics.c and net/ipv6/route.c that Samepath leans
on, with the kernel's own texts and error numbers. `fake.FakeKernel` puts the interface and the
hooks for tests around it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from errno import EEXIST, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, ENODEV

from samepath.model.net import Address, Family, Nlri, make_nlri
from samepath.netlink import uapi
from samepath.netlink.fake_groups import ResilientTable
from samepath.netlink.objects import (
    Group,
    InterfaceAddress,
    Link,
    Neighbor,
    NextHop,
    Route,
)
from samepath.netlink.ops import PutAddress

LO = 1
IPV6_DEFAULT_METRIC = 1024
MAX_MEMBERS = 8191

RouteKey = tuple[Family, int, Nlri, int]
"""Family, table, prefix, metric."""


class Refused(Exception):
    def __init__(self, errno: int, said: str = "") -> None:
        super().__init__(said)
        self.errno = errno
        self.said = said or os.strerror(errno)


@dataclass(slots=True)
class FakeWorld:
    """One network namespace with `lo` up. `now` is in seconds."""

    now: float = 0.0
    links: dict[int, Link] = field(
        default_factory=lambda: {LO: Link(LO, "lo", True, True, 65536, bytes(6), running=True)}
    )
    addresses: dict[tuple[int, Address], InterfaceAddress] = field(default_factory=dict)
    neighbors: dict[tuple[int, Address], Neighbor] = field(default_factory=dict)
    nexthops: dict[int, NextHop | Group] = field(default_factory=dict)
    tables: dict[int, ResilientTable] = field(default_factory=dict)
    routes: dict[RouteKey, Route] = field(default_factory=dict)
    ends: dict[int, tuple[FakeWorld, int]] = field(default_factory=dict, repr=False)
    """The other end of a veth that was made by an op, by the index of ours."""
    last_index: int = LO

    def new_index(self) -> int:
        """Never one that was used before."""
        self.last_index += 1
        return self.last_index

    def set_link(self, index: int, *, up: bool, carrier: bool) -> None:
        self.links[index] = replace(self.links[index], up=up, carrier=carrier, running=carrier)
        if not (up and carrier):
            self.flush_link(index)
        if not up:
            self.neighbors = {k: v for k, v in self.neighbors.items() if k[0] != index}
            self.addresses = {
                key: value
                for key, value in self.addresses.items()
                if key[0] != index or len(value.address) == 4
            }

    def remove_link(self, index: int) -> None:
        self.set_link(index, up=False, carrier=False)
        del self.links[index]
        self.ends.pop(index, None)
        self.addresses = {k: v for k, v in self.addresses.items() if k[0] != index}

    def put_nexthop(self, nexthop: NextHop) -> None:
        old = self.nexthops.get(nexthop.id)
        if isinstance(old, Group):
            raise Refused(EINVAL, "Can not replace a nexthop group with a nexthop.")
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
            raise Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        self.nexthops[nexthop.id] = nexthop

    def _check_link(self, nexthop: NextHop) -> None:
        link = self.links.get(nexthop.oif)
        if link is None:
            raise Refused(EINVAL, "Invalid device index")
        if not link.up:
            raise Refused(ENETDOWN, "Nexthop device is not up")
        if not link.carrier:
            raise Refused(ENETDOWN, "Carrier for nexthop device is down")
        gateway = nexthop.gateway
        if gateway is None or nexthop.flags & uapi.RTNH_F_ONLINK:
            return
        if len(gateway) == 16 and any(a == gateway for _, a in self.addresses):
            raise Refused(EINVAL, "Gateway can not be a local address")
        if gateway[:2] == b"\xfe\x80" or self.connected(gateway, nexthop.oif) is not None:
            return
        if len(gateway) == 4:
            raise Refused(ENETUNREACH, "Nexthop has invalid gateway")
        raise Refused(EHOSTUNREACH)

    def connected(self, address: Address, index: int | None = None) -> int | None:
        """The link whose network holds `address`."""
        for (of, own), item in self.addresses.items():
            if len(own) == len(address) and index in (None, of):
                network = make_nlri(own, item.prefix_length)
                if make_nlri(address, item.prefix_length) == network:
                    return of
        return None

    def put_group(self, group: Group) -> None:
        self._check_members(group)
        old = self.nexthops.get(group.id)
        if isinstance(old, NextHop):
            raise Refused(EINVAL, "Can not replace a nexthop with a nexthop group.")
        if old is not None and old.resilient != group.resilient:
            raise Refused(EINVAL, "Can not replace a nexthop group with one of a different type.")
        if old is not None and old.buckets != group.buckets:
            raise Refused(EINVAL, "Can not change number of buckets of a resilient nexthop group.")
        if group.resilient and not group.buckets:
            raise Refused(EINVAL, "Number of buckets needs to be non-0")
        if old is not None and Family.IPV6 in self._routed_by({group.id}) and self._has_ipv4(group):
            raise Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        group = replace(group, weights=_unless_all_one(group.weights))
        self.nexthops[group.id] = group
        if group.resilient:
            table = self.tables.get(group.id)
            if table is None:
                table = self.tables[group.id] = ResilientTable(group.buckets, group.idle_timer_s)
            table.idle_timer_s = group.idle_timer_s
            table.replace(group.members, group.weights or [1] * len(group.members), self.now)

    def _check_members(self, group: Group) -> None:
        if not 1 <= len(group.members) <= MAX_MEMBERS:
            raise Refused(EINVAL, "Invalid length for nexthop group attribute")
        if len(set(group.members)) != len(group.members):
            raise Refused(EINVAL, "Nexthop id can not be used twice in a group")
        for id_ in group.members:
            member = self.nexthops.get(id_)
            if member is None:
                raise Refused(EINVAL, "Invalid nexthop id")
            if isinstance(member, Group):
                raise Refused(EINVAL, "Hash-threshold group can not be a nexthop within a group")
            if member.blackhole and len(group.members) > 1:
                raise Refused(
                    EINVAL,
                    "Blackhole nexthop can not be used in a group with more than 1 path",
                )

    def _has_ipv4(self, item: NextHop | Group) -> bool:
        members = item.members if isinstance(item, Group) else (item.id,)
        hops = (self.nexthops.get(id_, item) for id_ in members)
        return any(isinstance(hop, NextHop) and hop.family is Family.IPV4 for hop in hops)

    def _families_routed_by(self, id_: int) -> set[Family]:
        groups = {
            item.id
            for item in self.nexthops.values()
            if isinstance(item, Group) and id_ in item.members
        }
        return self._routed_by(groups | {id_})

    def _routed_by(self, ids: set[int]) -> set[Family]:
        return {r.family for r in self.routes.values() if r.nexthop_id in ids}

    def put_route(self, route: Route, exclusive: bool) -> None:
        if route.nexthop_id is not None:
            item = self.nexthops.get(route.nexthop_id)
            if item is None:
                raise Refused(EINVAL, "Nexthop id does not exist")
            if route.family is Family.IPV6 and self._has_ipv4(item):
                raise Refused(EINVAL, "IPv6 routes can not use an IPv4 nexthop")
        metric = route.metric
        if route.family is Family.IPV6 and not metric:
            metric = IPV6_DEFAULT_METRIC
        key = (route.family, route.table, route.nlri, metric)
        if exclusive and key in self.routes:
            raise Refused(EEXIST)
        self.routes[key] = replace(route, metric=metric)

    def delete_route(
        self, family: Family, table: int, nlri: Nlri, metric: int, protocol: int
    ) -> None:
        key = (family, table, nlri, metric)
        route = self.routes.get(key)
        if route is not None and protocol in (0, route.protocol):
            del self.routes[key]

    def put_address(self, op: PutAddress) -> None:
        if op.index not in self.links:
            raise Refused(
                ENODEV,
                "ipv4: Device not found"
                if len(op.address) == 4
                else "ipv6: Unable to find the interface",
            )
        flags, scope = 0x80, uapi.RT_SCOPE_UNIVERSE
        if len(op.address) == 16:
            flags |= uapi.IFA_F_NODAD | (0 if op.is_source else uapi.IFA_F_DEPRECATED)
        elif not op.is_source:
            scope = uapi.RT_SCOPE_HOST
        self.addresses[op.index, op.address] = InterfaceAddress(
            op.index, op.address, op.prefix_length, op.protocol, scope, flags
        )

    # -- forgetting

    def remove(self, id_: int) -> None:
        """A next hop or group goes: from its groups, with its routes; an empty group goes, too."""
        if self.nexthops.pop(id_, None) is None:
            return
        self.tables.pop(id_, None)
        self.routes = {k: r for k, r in self.routes.items() if r.nexthop_id != id_}
        for group in [g for g in self.nexthops.values() if isinstance(g, Group)]:
            if id_ not in group.members:
                continue
            at = group.members.index(id_)
            members = group.members[:at] + group.members[at + 1 :]
            if not members:
                self.remove(group.id)
                continue
            weights = _unless_all_one(group.weights[:at] + group.weights[at + 1 :])
            self.nexthops[group.id] = replace(group, members=members, weights=weights)
            if group.id in self.tables:
                self.tables[group.id].remove(id_, self.now)

    def flush_link(self, index: int) -> None:
        """The kernel keeps a link's next hops in a list with the newest in front."""
        ids = [
            item.id
            for item in self.nexthops.values()
            if isinstance(item, NextHop) and item.oif == index
        ]
        doomed = set(ids)
        for item in list(self.nexthops.values()):
            if isinstance(item, Group) and doomed.issuperset(item.members):
                self.remove(item.id)  # as it ends, without going through each loss
        for id_ in reversed(ids):
            self.remove(id_)
        if not self.links[index].up:  # without carrier alone they stay, though they lead nowhere
            self.routes = {
                key: route
                for key, route in self.routes.items()
                if route.nexthop_id is not None or route.oif != index
            }

    # -- looking up

    def best_route(self, family: Family, destination: Address) -> Route | None:
        matching = [
            (-nlri[0], metric, route)
            for (of, table, nlri, metric), route in self.routes.items()
            if of is family
            and table == uapi.RT_TABLE_MAIN
            and make_nlri(destination, nlri[0]) == nlri
        ]
        return min(matching, key=lambda m: m[:2])[2] if matching else None

    def pick(self, id_: int, number: int) -> NextHop:
        item = self.nexthops[id_]
        if isinstance(item, Group):
            table = self.tables.get(id_)
            ids = table.ids() if table is not None else item.members
            item = self.nexthops[ids[number % len(ids)]]
        assert isinstance(item, NextHop)
        return item


def _unless_all_one(weights: tuple[int, ...]) -> tuple[int, ...]:
    return weights if any(weight != 1 for weight in weights) else ()

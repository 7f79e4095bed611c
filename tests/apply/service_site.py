"""A kernel, the driver of services on it, and a clock that the test turns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from samepath.apply.groups import ResilientRoutes
from samepath.apply.readback import compare
from samepath.apply.row import Row
from samepath.apply.slots import Slots
from samepath.hashing.table import Table, from_owners
from samepath.lab.netns import Namespace, veth
from samepath.model.net import Address, Family, Nlri, parse_address, parse_prefix
from samepath.model.ours import PROTOCOL
from samepath.netlink.fake import FakeKernel
from samepath.netlink.kernel import Kernel, RealKernel
from samepath.plan.gateway import Hop, Target

B = 31
V4 = Family.IPV4


def node(number: int) -> Address:
    return parse_address(f"10.9.{number >> 8}.{number & 255}")


def target(*numbers: int, draining: tuple[int, ...] = ()) -> Target:
    return Target(tuple(Hop(node(n), 1, n in draining) for n in sorted({*numbers, *draining})))


def service(number: int) -> Nlri:
    return parse_prefix(f"192.0.2.{number}/32")[1]


class Site:
    def __init__(self, kernel: Kernel, interface: int, metric: int = 10) -> None:
        self.kernel = kernel
        self.interface: int | None = interface
        self.other: dict[Address, int | None] = {}
        """Next hops that are on another link, or on none."""
        self.metric = metric
        self.buckets = B
        self.now = 1000.0
        self.routes = self.restart()

    def restart(self) -> ResilientRoutes:
        """A new process: all that it knows is what the kernel holds."""
        self.slots = Slots()
        nexthops, groups = self.kernel.nexthops(PROTOCOL)
        self.slots.adopt(nexthops)
        self.routes = ResilientRoutes(
            self.kernel,
            self.slots,
            buckets=self.buckets,
            metric=self.metric,
            idle_timer_s=30.0,
            move_deadline_s=None,
            connected=lambda address: self.other.get(address, self.interface),
            clock=lambda: self.now,
        )
        routes = {family: self.kernel.route_nexthops(family, PROTOCOL) for family in Family}
        assert self.routes.adopt(nexthops, groups, routes) == []
        return self.routes

    def want(self, numbers: dict[int, Target | None]) -> None:
        for number, wanted in numbers.items():
            self.routes.want(V4, [service(number)], wanted)
        self.work()

    def work(self) -> None:
        self.routes.in_sync = True
        for _ in self.routes.work():
            pass
        self.slots.retain(self.routes.used_slots())

    def read_back(self) -> bool:
        """Whether the kernel was otherwise than the driver believed; the driver knows now."""
        difference = compare(self.kernel, self.routes.expected())
        self.routes.mend(difference)
        return bool(difference)

    def owners(self, number: int) -> Table | None:
        """Who owns the buckets of a service, by the kernel's own word."""
        for route in self.kernel.routes(V4):
            if route.nlri == service(number) and route.metric == self.metric:
                assert route.nexthop_id is not None
                hops = {n.id: n.gateway for n in self.kernel.nexthops()[0]}
                owners = [hops[i] for i in self.kernel.bucket_state(route.nexthop_id).ids]
                return from_owners([o for o in owners if o is not None])
        return None

    def groups(self) -> int:
        return len(self.kernel.nexthops()[1])

    def row(self, number: int) -> Row:
        return self.routes.rows.of[V4][service(number)]

    def routed_by(self, number: int) -> int | None:
        """The group of a service's route, by the kernel's own word."""
        return self.kernel.route_nexthops(V4, PROTOCOL).get((service(number), self.metric))

    def pass_time(self, seconds: float) -> None:
        """No packets meanwhile."""
        self.now += seconds
        if isinstance(self.kernel, FakeKernel):
            self.kernel.advance(seconds)


_numbers = itertools.count()


def fake_site() -> Site:
    kernel = FakeKernel()
    site = Site(kernel, kernel.add_link("eth0", (parse_address("10.9.0.254"), 16)))
    kernel.add_link("eth1", (parse_address("10.9.255.254"), 16))
    return site


@contextmanager
def real_site() -> Iterator[Site]:
    name = f"spt-grp-{os.getpid()}-{next(_numbers)}"
    with Namespace(name) as host, Namespace(f"{name}p") as peer:
        for link, address in (("eth0", "10.9.0.254/16"), ("eth1", "10.9.255.254/16")):
            veth(host, link, peer, link)
            host.ip("addr", "add", address, "dev", link)
        host.sysctl(net__ipv4__nexthop_compat_mode=0)
        kernel = RealKernel(host.path)
        index = next(link.index for link in kernel.links() if link.name == "eth0")
        yield Site(kernel, index)
        kernel.close()

"""A routing daemon's routes in the kernel, read and followed; without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from samepath.lab.netns import Namespace
from samepath.model.config import GatewayConfig, KernelRoutes
from samepath.model.neighbor import Neighbor
from samepath.model.net import Family, PrefixSet, parse_address, parse_prefix
from samepath.model.ours import TABLE
from samepath.netlink.objects import NextHop
from samepath.netlink.ops import DeleteRoutes, PutNextHop, PutRoutes
from samepath.netlink.own_table import TableKernel
from samepath.plan.kernel_routes import Choice, Hop, Prefix, Taken
from samepath.programs.gateway_kernel_routes import DaemonRoutes, Objects, Reading

A, B = parse_address("10.9.0.11"), parse_address("10.9.0.12")
SERVICE: Prefix = parse_prefix("203.0.113.10/32")
OTHER: Prefix = parse_prefix("203.0.113.11/32")
OLD, NEW = frozenset({("bgpd", 1)}), frozenset({("bgpd", 2)})


def config(**more: object) -> GatewayConfig:
    given = {"router_id": "10.9.0.1", "local_as": 64512, "hash_seed": 1, "neighbors": [],
             "kernel_routes": KernelRoutes(services=["203.0.113.0/24"])}  # fmt: skip
    return GatewayConfig(**(given | more))  # type: ignore[arg-type]


def test_the_daemon_is_the_only_source() -> None:
    with pytest.raises(ValueError, match="the routing daemon speaks BGP"):
        config(neighbors=[Neighbor(address="10.9.0.11", remote_as=64512)])
    with pytest.raises(ValueError, match="plain"):
        config(dataplane="plain")
    with pytest.raises(ValueError, match="no routing protocol 'bpg'"):
        KernelRoutes(services=["203.0.113.0/24"], protocols=["bpg"])
    with pytest.raises(ValueError, match="at least one"):
        KernelRoutes(services=[])


class Source:
    """A `DaemonRoutes` that is told what was read."""

    def __init__(self, adopted: Taken | None = None) -> None:
        self.now = 100.0
        known = {p: frozenset(h.address for h in hops) for p, hops in (adopted or {}).items()}
        self.routes = DaemonRoutes(known, self.now)
        self.config = config(expected_peers=2, selection_deferral_s=60)

    def read(self, taken: Taken, daemons: frozenset[tuple[str, int]] = OLD) -> bool:
        """Whether it is in sync after that."""
        self.now += 1
        reading = Reading(Choice(taken, ()), daemons, frozenset({20}), False)
        self.routes.take(reading, self.now, self.now)
        return self.look()

    def look(self) -> bool:
        if not self.routes.sync.in_sync:
            self.routes.look(self.config, None, self.now)  # type: ignore[arg-type]
        return self.routes.sync.in_sync

    def later(self, seconds: float) -> bool:
        self.now += seconds
        return self.look()


BOTH: Taken = {SERVICE: (Hop(A), Hop(B))}


def test_what_changed_is_named_and_offered_as_paths() -> None:
    source = Source()
    assert source.read(BOTH)
    assert source.routes.take_changed()[Family.IPV4] == {SERVICE[1]}
    paths = source.routes.paths(*SERVICE)
    assert paths is not None
    assert [p.attributes.next_hop for p in paths.best] == [A, B]
    source.read(BOTH)
    assert not source.routes.is_changed
    assert source.routes.paths(*SERVICE) is paths, "the same next hops are the same object"
    source.read({OTHER: (Hop(A), Hop(B))})
    assert source.routes.take_changed()[Family.IPV4] == {SERVICE[1], OTHER[1]}
    assert source.routes.paths(*SERVICE) is None


def test_a_withdrawn_route_is_no_reason_to_wait() -> None:
    source = Source()
    source.read(BOTH | {OTHER: (Hop(A),)})
    assert source.read({SERVICE: (Hop(A),)})
    assert not source.routes.view(source.config.kernel_routes)["holds"]  # type: ignore[arg-type]


def test_a_daemon_that_ends_is_waited_for() -> None:
    source = Source()
    assert source.read(BOTH)
    assert not source.read({}, frozenset()), "it took its routes with it"
    assert not source.read({SERVICE: (Hop(A),)}, NEW)
    assert source.read(BOTH, NEW)


def test_one_that_was_started_anew_unnoticed() -> None:
    """It may be seen before it takes away what its predecessor left."""
    source = Source()
    source.read(BOTH)
    assert not source.read(BOTH, NEW)
    assert not source.read({}, NEW)
    assert source.read(BOTH, NEW)


def test_one_that_does_not_come_back_is_waited_for_no_longer_than_that() -> None:
    source = Source()
    source.read(BOTH)
    assert not source.read({}, frozenset())
    assert not source.later(58)
    assert source.later(3)


def test_each_start_of_the_daemon_begins_the_wait_again() -> None:
    source = Source()
    source.read(BOTH)
    assert not source.read({}, frozenset())
    source.later(50)
    assert not source.read({}, NEW)
    assert not source.later(50)
    assert source.read(BOTH, NEW)


def test_what_went_together_is_waited_for_together() -> None:
    """The link went, or all nodes' hold timers: the first to return must not have everything."""
    source = Source()
    source.read(BOTH)
    source.read({SERVICE: (Hop(A),)})
    source.read({})
    source.routes.begin_again_if_cut_off(source.config, None, source.now)  # type: ignore[arg-type]
    assert not source.later(1000), "nobody is there yet who could be waited for"
    assert not source.read({SERVICE: (Hop(A),)})
    assert source.read(BOTH)


def test_adopted_tables_wait_for_a_daemon_that_comes_later() -> None:
    source = Source(adopted=BOTH)
    assert not source.read({}, frozenset())
    assert not source.read({SERVICE: (Hop(B),)}, OLD)
    assert source.read(BOTH)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace(f"spt-{os.getpid()}-kr") as host:
        host.ip("link", "add", "a0", "type", "veth", "peer", "name", "a1")
        for end in ("a0", "a1"):
            host.ip("link", "set", end, "up")
        host.ip("addr", "add", "10.9.0.1/24", "dev", "a0")
        host.ip("addr", "add", "fd09::1/64", "dev", "a0", "nodad")
        host.sysctl(net__ipv4__nexthop_compat_mode=0)
        yield host


@pytest.mark.netns
def test_every_form_in_which_a_daemon_may_have_its_routes(host: Namespace) -> None:
    host.ip("route", "add", "203.0.113.1", "proto", "bird", "metric", "32",
            "nexthop", "via", "10.9.0.11", "weight", "3",
            "nexthop", "via", "10.9.0.12")  # fmt: skip
    host.ip("route", "add", "203.0.113.2", "proto", "bgp", "metric", "20", "via", "10.9.0.11")
    for number, gateway in ((1, "10.9.0.11"), (2, "10.9.0.12")):
        host.ip("nexthop", "add", "id", str(number), "via", gateway, "dev", "a0", "proto", "zebra")
    host.ip("nexthop", "add", "id", "3", "group", "1/2,5", "proto", "zebra")
    host.ip("route", "add", "203.0.113.3", "proto", "bgp", "metric", "20", "nhid", "3")
    host.ip("route", "add", "blackhole", "203.0.113.4", "proto", "bird")
    host.ip("route", "add", "203.0.113.5", "proto", "static", "via", "10.9.0.11")
    host.ip("route", "add", "198.51.100.1", "proto", "bgp", "via", "10.9.0.11")
    host.ip("route", "add", "default", "proto", "bgp", "via", "10.9.0.11")
    host.ip("-6", "route", "add", "2001:db8::1", "proto", "bird", "metric", "32",
            "nexthop", "via", "fd09::b", "nexthop", "via", "fd09::c")  # fmt: skip
    kernel = TableKernel(host.path)
    within = PrefixSet(["203.0.113.0/24", "2001:db8::/64"])
    objects = Objects(kernel)
    found = {
        route.nlri: objects.seen(route)
        for family in Family
        for route in kernel.routes_of(family, {12, 186}, lambda n, f=family: within.covers(f, n))  # type: ignore[misc]
    }
    kernel.close()
    hops = {
        parse_prefix("203.0.113.1/32")[1]: (Hop(A, 3), Hop(B, 1)),
        parse_prefix("203.0.113.2/32")[1]: (Hop(A, 1),),
        parse_prefix("203.0.113.3/32")[1]: (Hop(A, 1), Hop(B, 5)),
        parse_prefix("203.0.113.4/32")[1]: (),
        parse_prefix("2001:db8::1/128")[1]: (
            Hop(parse_address("fd09::b"), 1),
            Hop(parse_address("fd09::c"), 1),
        ),
    }
    assert {nlri: one.hops for nlri, one in found.items()} == hops
    assert objects.of_zebra


@pytest.mark.netns
def test_our_routes_are_in_a_table_of_their_own(host: Namespace) -> None:
    host.ip("route", "add", "203.0.113.1", "proto", "bgp", "metric", "5", "via", "10.9.0.12")
    kernel = TableKernel(host.path)
    link = kernel.link("a0")
    assert link is not None
    nlri = parse_prefix("203.0.113.1/32")[1]
    hop = NextHop(0x53000001, Family.IPV4, A, link.index)
    assert kernel.put_rules()
    assert not kernel.put_rules(), "it is there already"
    results = kernel.apply([PutNextHop(hop), PutRoutes(Family.IPV4, [nlri], hop.id, 10)])
    assert results == [None, None]
    assert kernel.route_nexthops(Family.IPV4, 83) == {(nlri, 10): hop.id}
    assert "203.0.113.1 nhid" in host.ip("route", "show", "table", str(TABLE))
    assert "203.0.113.1 via 10.9.0.12" in host.ip("route"), "theirs stands below"
    assert kernel.route_get(parse_address("203.0.113.1")).gateway == A, "whatever its metric"
    kernel.apply([DeleteRoutes(Family.IPV4, [nlri], 10)])
    assert kernel.route_get(parse_address("203.0.113.1")).gateway == B
    assert kernel.delete_rules()
    assert not kernel.delete_rules()
    assert "lookup 83" not in host.ip("rule")
    kernel.close()

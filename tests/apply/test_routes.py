"""Plain routes on both kernels: what is wanted stands, what is not ours stays, no history."""

from __future__ import annotations

import json
from errno import ENOMEM

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepath.apply.routes import BLACKHOLE, PlainRoutes
from samepath.apply.slots import Slots
from samepath.model import ours
from samepath.model.net import (
    Family,
    address_text,
    make_nlri,
    parse_address,
    parse_prefix,
    prefix_text,
)
from samepath.netlink import uapi
from samepath.netlink.objects import Group, NextHop, Route
from samepath.netlink.ops import (
    DeleteNextHop,
    DeleteRoute,
    PutGroup,
    PutNextHop,
    PutRoute,
    PutRoutes,
)

METRIC = 10


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def driver(world, *, in_sync: bool = True, clock: Clock | None = None) -> PlainRoutes:
    plain = PlainRoutes(world.kernel, Slots(), metric=METRIC, clock=clock or Clock())
    plain.in_sync = in_sync
    return plain


def table(pairs: dict[str, str]) -> dict:
    return {
        parse_prefix(prefix): BLACKHOLE
        if text == "blackhole"
        else tuple(map(parse_address, text.split()))
        for prefix, text in pairs.items()
    }


def stands(world) -> dict[str, str]:
    """What of ours the kernel holds, resolved: prefix to gateways, as text like `table` takes."""
    hops, groups = world.kernel.nexthops()
    ways = {h.id: [address_text(h.gateway)] for h in hops if h.gateway}
    ways |= {g.id: sorted(w for m in g.members for w in ways[m]) for g in groups}
    found = {}
    for family in Family:
        for route in world.kernel.routes(family, ours.PROTOCOL):
            text = "blackhole" if route.nexthop_id is None else " ".join(ways[route.nexthop_id])
            found[prefix_text(family, route.nlri)] = text
    return found


BOTH = {
    "10.1.0.0/24": "10.9.0.2",
    "10.1.1.0/24": "10.8.0.2",
    "10.1.2.0/24": "blackhole",
    "0.0.0.0/0": "10.8.0.2 10.9.0.2",
    "fd10::/64": "fd09::2",
    "fd11::/64": "blackhole",
    "::/0": "fd08::2 fd09::2",
}


def test_what_is_wanted_stands(world) -> None:
    plain = driver(world)
    plain.want(table(BOTH))
    plain.reconcile()
    assert plain.errors == {}
    assert stands(world) == BOTH
    assert set(plain.installed) == set(table(BOTH))
    assert all(row.installed and not row.error for row in plain.rows)
    if world.namespace is not None:
        shown = json.loads(world.namespace.ip("-j", "route", "show", "proto", "83"))
        assert {r["dst"]: r["metric"] for r in shown} == {
            "default": 10, "10.1.0.0/24": 10, "10.1.1.0/24": 10, "10.1.2.0/24": 10
        }  # fmt: skip


def test_a_pass_without_change_writes_nothing(world) -> None:
    plain = driver(world)
    plain.want(table(BOTH))
    plain.reconcile()
    assert plain.next_look == float("inf")
    before = world.kernel.nexthops(), [world.kernel.routes(f) for f in Family]
    if world.namespace is None:
        world.kernel.log.clear()
    plain.want(table(BOTH))
    assert plain.next_look == float("inf")
    plain.read_again()
    plain.reconcile()
    assert (world.kernel.nexthops(), [world.kernel.routes(f) for f in Family]) == before
    if world.namespace is None:
        assert world.kernel.log == []


def test_what_is_not_wanted_any_more_goes_with_its_groups_and_next_hops(world) -> None:
    plain = driver(world)
    plain.want(table(BOTH))
    plain.reconcile()
    plain.want(table({"10.1.0.0/24": "10.9.0.3"}))
    plain.reconcile()
    assert stands(world) == {"10.1.0.0/24": "10.9.0.3"}
    hops, groups = world.kernel.nexthops()
    assert ([h.gateway for h in hops], groups) == ([parse_address("10.9.0.3")], [])
    plain.want({})
    plain.reconcile()
    assert world.kernel.nexthops() == ([], [])


def test_kinds_change_into_each_other_in_place(world) -> None:
    plain = driver(world)
    for ways in ("10.9.0.2", "10.8.0.2 10.9.0.2", "blackhole", "10.9.0.2", "blackhole",
                 "10.8.0.2 10.9.0.2", "10.8.0.3 10.9.0.2"):  # fmt: skip
        six = ways.replace("10.9.0.", "fd09::").replace("10.8.0.", "fd08::")
        plain.want(table({"10.1.0.0/24": ways, "fd10::/64": six}))
        plain.reconcile()
        assert plain.errors == {}
        assert stands(world) == {"10.1.0.0/24": ways, "fd10::/64": six}


def test_a_restart_adopts_and_writes_nothing(world) -> None:
    first = driver(world)
    first.want(table(BOTH))
    first.reconcile()
    before = world.kernel.nexthops(), [world.kernel.routes(f) for f in Family]
    second = driver(world, in_sync=False)
    second.reconcile()
    assert (world.kernel.nexthops(), [world.kernel.routes(f) for f in Family]) == before
    second.want(table(dict(reversed(BOTH.items()))))
    second.in_sync = True
    second.reconcile()
    assert (world.kernel.nexthops(), [world.kernel.routes(f) for f in Family]) == before


def test_nothing_is_deleted_before_in_sync(world) -> None:
    first = driver(world)
    first.want(table(BOTH))
    first.reconcile()
    second = driver(world, in_sync=False)
    second.want(table({"10.5.0.0/24": "10.9.0.9"}))
    second.reconcile()
    assert stands(world) == BOTH | {"10.5.0.0/24": "10.9.0.9"}
    second.in_sync = True
    assert second.next_look < 0
    second.reconcile()
    assert stands(world) == {"10.5.0.0/24": "10.9.0.9"}


def test_what_others_made_stays(world) -> None:
    """Another daemon's next hops, groups and routes; resilient groups of our own, too."""
    gateway = parse_address("10.9.0.2")
    prefix = parse_prefix("10.1.0.0/24")[1]
    replica = NextHop(ours.replica_id(0, 1), Family.IPV4, gateway, world.a)
    service = Group(ours.GROUP_BASE, (replica.id,), True, 8, 120.0)
    theirs = NextHop(77, Family.IPV4, gateway, world.a, protocol=84)
    ops = [
        PutNextHop(replica),
        PutGroup(service),
        PutRoutes(Family.IPV4, [parse_prefix("192.0.2.1/32")[1]], service.id, METRIC),
        PutNextHop(theirs),
        PutRoutes(Family.IPV4, [prefix], 77, 20, protocol=84),
        PutRoute(Route(Family.IPV4, parse_prefix("10.4.0.0/16")[1], metric=METRIC, protocol=84,
                       type=uapi.RTN_BLACKHOLE)),
    ]  # fmt: skip
    assert world.kernel.apply(ops) == [None] * len(ops)
    before = [world.kernel.routes(f) for f in Family], world.kernel.nexthops()
    plain = driver(world)
    plain.want(table({"10.1.0.0/24": "10.9.0.2", "10.4.0.0/16": "10.9.0.2"}))
    plain.reconcile()
    refused = parse_prefix("10.4.0.0/16")
    assert plain.errors == {refused: "another route to it with the same metric is there already"}
    assert [row.installed for row in plain.rows] == [True, False]
    plain.want({})
    plain.reconcile()
    assert ([world.kernel.routes(f) for f in Family], world.kernel.nexthops()) == before


def test_a_link_that_comes_back_gets_its_routes_back(world) -> None:
    clock = Clock()
    plain = driver(world, clock=clock)
    four = {p: w for p, w in BOTH.items() if ":" not in p}
    plain.want(table(four))
    plain.reconcile()
    world.set_link(world.a, carrier=False)
    plain.read_again()
    plain.reconcile()
    without = four | {"0.0.0.0/0": "10.8.0.2"}
    del without["10.1.0.0/24"]
    assert stands(world) == without
    assert plain.errors[parse_prefix("10.1.0.0/24")] == (
        "a0, which would lead to 10.9.0.2, is down"
    )
    world.set_link(world.a, carrier=True)
    plain.read_again()
    plain.reconcile()
    assert plain.errors == {}
    assert stands(world) == four


def test_what_somebody_deleted_is_made_again(world) -> None:
    plain = driver(world)
    plain.want(table(BOTH))
    plain.reconcile()
    _, groups = world.kernel.nexthops()
    victim = next(r for r in world.kernel.routes(Family.IPV4, ours.PROTOCOL) if r.nlri[0] == 24)
    world.kernel.apply([DeleteNextHop(groups[0].id), DeleteRoute(victim)])
    assert stands(world) != BOTH
    plain.read_again()
    plain.reconcile()
    assert stands(world) == BOTH


def test_a_gateway_that_is_nowhere_is_said(world) -> None:
    plain = driver(world)
    plain.want(table({"10.1.0.0/24": "10.77.9.9", "10.2.0.0/24": "10.9.0.2 10.77.9.9"}))
    plain.reconcile()
    assert stands(world) == {"10.2.0.0/24": "10.9.0.2"}
    assert set(plain.errors.values()) == {"no connected network holds 10.77.9.9"}
    assert [(row.installed, bool(row.error)) for row in plain.rows] == [(False, True), (True, True)]


def test_a_refused_next_hop_leaves_the_old_route_and_is_tried_again(fake_world) -> None:
    clock = Clock()
    plain = driver(fake_world, clock=clock)
    plain.want(table({"10.1.0.0/24": "10.9.0.2"}))
    plain.reconcile()
    fake_world.kernel.fail_next(lambda op: isinstance(op, PutNextHop), ENOMEM)
    plain.want(table({"10.1.0.0/24": "10.9.0.2 10.9.0.3", "10.2.0.0/24": "10.9.0.2"}))
    plain.reconcile()
    assert stands(fake_world) == {"10.1.0.0/24": "10.9.0.2", "10.2.0.0/24": "10.9.0.2"}
    assert "Cannot allocate memory" in plain.errors[parse_prefix("10.1.0.0/24")]
    assert plain.errors.keys() == {parse_prefix("10.1.0.0/24")}
    assert 0 < plain.next_look < 1
    plain.reconcile()
    assert plain.errors
    clock.now = plain.next_look
    plain.reconcile()
    assert plain.errors == {}
    assert stands(fake_world)["10.1.0.0/24"] == "10.9.0.2 10.9.0.3"
    assert plain.next_look == float("inf")


def test_a_refusal_makes_it_read_again(world) -> None:
    """Somebody took a next hop away unheard; the route by it is refused once, then all is well."""
    clock = Clock()
    plain = driver(world, clock=clock)
    plain.want(table({"10.1.0.0/24": "10.9.0.2"}))
    plain.reconcile()
    (hop,), _ = world.kernel.nexthops()
    world.kernel.apply([DeleteNextHop(hop.id)])
    both = {"10.1.0.0/24": "10.9.0.2", "10.2.0.0/24": "10.9.0.2"}
    plain.want(table(both))
    plain.reconcile()
    assert "Nexthop id does not exist" in plain.errors[parse_prefix("10.2.0.0/24")]
    clock.now = plain.next_look
    plain.reconcile()
    assert plain.errors == {}
    assert stands(world) == both


@pytest.mark.parametrize("kind", [PutRoutes, PutGroup, PutRoute])
def test_any_refusal_is_on_its_row_and_heals(fake_world, kind: type) -> None:
    clock = Clock()
    plain = driver(fake_world, clock=clock)
    fake_world.kernel.fail_next(lambda op: isinstance(op, kind), ENOMEM)
    plain.want(table(BOTH))
    plain.reconcile()
    assert plain.errors
    assert all(not row.installed for row in plain.rows if row.error)
    clock.now += 1.0
    plain.reconcile()
    assert plain.errors == {}
    assert stands(fake_world) == BOTH


def test_many_prefixes_share_a_group(world) -> None:
    plain = driver(world)
    gateways = (parse_address("10.9.0.2"), parse_address("10.8.0.2"))
    plain.want(
        {
            (Family.IPV4, make_nlri(bytes((10, 1, i >> 8, i & 255)), 32)): gateways[
                :: 1 - 2 * (i % 2)
            ]
            for i in range(2000)
        }
    )
    steps = sum(1 for _ in plain.work())
    assert steps > 4
    assert len(plain.installed) == 2000
    assert len(world.kernel.nexthops()[1]) == 1


_GATEWAYS = ["10.9.0.2", "10.9.0.3", "10.8.0.2", "10.77.0.1"]
_worlds = st.lists(
    st.dictionaries(
        st.sampled_from(["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/16", "0.0.0.0/0"]),
        st.one_of(
            st.just("blackhole"),
            st.lists(st.sampled_from(_GATEWAYS), min_size=1, unique=True).map(" ".join),
        ),
    ),
    min_size=1,
    max_size=5,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(worlds=_worlds, restarts=st.sets(st.integers(0, 4)), flaps=st.sets(st.integers(0, 4)))
def test_history_does_not_matter(world, worlds: list, restarts: set, flaps: set) -> None:
    """Whatever came before, with restarts and lost links: the last wish is what stands."""
    plain = driver(world)
    plain.want({})
    plain.reconcile()
    for number, pairs in enumerate(worlds):
        if number in restarts:
            plain = driver(world)
        if number in flaps and world.namespace is None:
            world.set_link(world.a, up=False)
            world.set_link(world.a, up=True)
            plain.read_again()
        plain.want(table(pairs))
        plain.reconcile()
    reachable = {
        prefix: " ".join(sorted(g for g in ways.split() if not g.startswith("10.77")))
        for prefix, ways in worlds[-1].items()
    }
    assert stands(world) == {prefix: ways for prefix, ways in reachable.items() if ways}
    hops, groups = world.kernel.nexthops()
    many = {ways for ways in reachable.values() if " " in ways}
    assert len(groups) == len(many)
    assert {h.gateway for h in hops} == {
        parse_address(g) for ways in reachable.values() if ways != "blackhole" for g in ways.split()
    }


@pytest.mark.parametrize("first", ["10.8.0.2", "10.9.0.2"])
def test_a_group_has_the_order_of_addresses_whoever_came_first(world, first: str) -> None:
    """Two gateways that heard of their nodes in another order still have the same group."""
    plain = driver(world)
    for gateways in (first, "10.9.0.2 10.8.0.2"):
        plain.want(table({"10.2.0.0/24": gateways}))
        plain.reconcile()
    hops, groups = world.kernel.nexthops()
    ways = {hop.id: address_text(hop.gateway) for hop in hops if hop.gateway}
    (group,) = groups
    assert [ways[member] for member in group.members] == ["10.8.0.2", "10.9.0.2"]

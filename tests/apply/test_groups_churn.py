"""Services in the kernel when plans change, also midway, and as time passes.

The same scenarios run on the fake kernel and, marked netns, on the running one.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_site import V4, B, Site, fake_site, node, service, target

from samepath.apply.routes import PlainRoutes
from samepath.hashing.table import Member, Table, build
from samepath.model.net import Family
from samepath.model.ours import PROTOCOL, replica_id
from samepath.netlink.fake import FakeKernel
from samepath.netlink.objects import Group, NextHop
from samepath.netlink.ops import (
    Op,
    PutGroup,
    PutNextHop,
    PutRoutes,
)
from samepath.plan.gateway import Target


def wanted(*numbers: int) -> Table:
    return build([Member(node(n)) for n in numbers], B)


def entries(site: Site, number: int) -> list[int]:
    group = site.routed_by(number)
    assert group is not None
    return site.kernel.bucket_state(group).ids


def meddle(site: Site, *ops: Op) -> None:
    assert site.kernel.apply(ops) == [None] * len(ops)


def refusing(site: Site) -> FakeKernel:
    if not isinstance(site.kernel, FakeKernel):
        pytest.skip("the running kernel refuses nothing on request")
    return site.kernel


# What changes


def test_hop_on_another_link_keeps_its_flows(site: Site) -> None:
    site.want({1: target(1, 2)})
    before = site.owners(1)
    other = next(link.index for link in site.kernel.links() if link.name == "eth1")
    site.other[node(2)] = other
    site.routes.links_changed()
    site.work()
    assert site.owners(1) == before
    links = {n.gateway: n.oif for n in site.kernel.nexthops()[0]}
    assert links == {node(1): site.interface, node(2): other}


def test_link_of_one_next_hop_goes_and_returns(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before = site.owners(1)
    site.other[node(2)] = None
    site.routes.links_changed()
    site.work()
    without = site.owners(1)
    assert without is not None
    assert without.count(node(2)) == 0
    site.other.clear()
    site.routes.links_changed()
    site.work()
    assert site.owners(1) == without, "it returns as a new one does: bucket by bucket"
    site.routes.idle_timer_s = 0.0
    site.pass_time(60)
    site.work()
    assert site.owners(1) == before


def test_draining_next_hop_that_withdraws_leaves_at_once(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    site.want({1: target(1, 3, draining=(2,))})
    site.want({1: target(1, 3)})
    owners = site.owners(1)
    assert owners is not None
    assert owners.count(node(2)) == 0
    assert site.routes.moved.departed > 0


def test_all_drain_then_one_returns(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before = site.owners(1)
    site.want({1: target(draining=(1, 2, 3))})
    assert site.owners(1) == before
    site.want({1: target(2, draining=(1, 3))})
    assert site.owners(1) == before, "flows stay where they are"
    assert site.row(1).want == wanted(2)
    site.want({1: target(1, 2, 3)})
    assert site.owners(1) == before
    assert not site.row(1).waiting


def test_deadline_counts_from_the_first_wait(site: Site) -> None:
    """A service that leaves its group on the way does not begin to wait anew."""
    site.routes.move_deadline_s = 100.0
    site.want({1: target(1, 2), 2: target(1, 2)})
    both = {n: target(1, 2, 3) for n in (1, 2)}
    site.want(both)  # type: ignore[arg-type]
    site.now += 60
    site.want({1: target(1, 2, 3, draining=(4,))})
    assert site.routed_by(1) != site.routed_by(2)
    site.now += 41
    site.work()
    assert site.owners(1) == site.owners(2) == wanted(1, 2, 3)


def test_other_weights_move_only_idle_buckets(site: Site) -> None:
    site.want({1: target(1, 2)})
    before = site.owners(1)
    hops = target(1, 2).hops
    heavy = Target((replace(hops[0], weight=3), hops[1]))
    site.want({1: heavy})
    assert site.owners(1) == before
    site.routes.idle_timer_s = 0.0
    site.pass_time(60)
    site.work()
    assert site.owners(1) == build([Member(node(1), 3), Member(node(2), 1)], B)


def test_flapping_between_two_targets_moves_nothing_that_is_in_use(site: Site) -> None:
    site.want({1: target(1, 2, 3), 2: target(1, 2, 3)})
    before = site.owners(1)
    for _ in range(5):
        site.want({1: target(1, 2, 3, 4)})
        site.want({1: target(1, 2, 3)})
    assert site.owners(1) == site.owners(2) == before
    site.work()
    assert site.groups() == 1


def test_part_of_a_group_goes_and_the_rest_changes_without_another_group(site: Site) -> None:
    site.want({n: target(1, 2) for n in (1, 2, 3)})
    number = site.routed_by(1)
    site.want({2: target(1, 2, 3), 3: target(1, 2, 3), 1: None})
    assert site.routed_by(2) == site.routed_by(3) == number


def test_other_metric_after_a_restart_moves_nothing(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(1, 2), 3: target(2, 3)})
    site.want({1: target(1, 2, 3)})  # with moves in progress
    before, number = site.owners(1), site.routed_by(1)
    site.metric = 20
    site.restart()
    assert [r.metric for r in site.kernel.routes(V4) if r.nlri == service(1)] == [10]
    site.want({1: target(1, 2, 3), 2: target(1, 2), 3: None})
    assert site.owners(1) == before
    assert site.routed_by(1) == number
    metrics = {r.nlri: r.metric for r in site.kernel.routes(V4) if r.nexthop_id}
    assert metrics == {service(1): 20, service(2): 20}
    assert not site.routes.is_busy


def test_other_number_of_buckets_makes_every_table_anew(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(2, 3)})
    site.routes.configure(buckets=17, idle_timer_s=30, move_deadline_s=None)
    site.work()
    assert site.owners(1) == build([Member(node(1)), Member(node(2))], 17)
    assert site.groups() == 2
    site.buckets = 17
    site.restart()
    site.want({1: target(1, 2), 2: target(2, 3)})
    assert site.owners(2) == build([Member(node(2)), Member(node(3))], 17)
    assert not site.read_back()


def test_what_is_not_a_table_is_not_adopted_and_goes(site: Site) -> None:
    interface = site.interface
    assert interface is not None
    hop = NextHop(replica_id(3, 1), V4, node(3), interface)
    meddle(site, PutNextHop(hop), PutGroup(Group(0x54000000, (hop.id,))))
    meddle(site, PutRoutes(V4, [service(1), service(2)], 0x54000000, 10))
    site.slots.adopt([hop])
    nexthops, groups = site.kernel.nexthops(PROTOCOL)
    routes = {f: site.kernel.route_nexthops(f, PROTOCOL) for f in Family}
    assert site.routes.adopt(nexthops, groups, routes) == ["group 0x54000000: not a table of ours"]
    site.want({1: target(1, 2)})
    assert site.owners(1) == wanted(1, 2)
    assert site.owners(2) is None
    assert site.groups() == 1


# Time


def test_bucket_moves_soon_after_it_has_become_idle(site: Site) -> None:
    """Run by its own timers alone: each bucket moves within a second of being idle for the timer,
    and the group is not looked at all the time."""
    kernel = refusing(site)
    site.want({1: target(1, 2)})
    site.want({1: target(1, 2, 3)})
    number = site.routed_by(1)
    assert number is not None
    waiting = {m.bucket: float(m.bucket) for m in site.row(1).waiting}
    """bucket -> when its last packet comes"""
    began, looks = site.now, 0
    moved: dict[int, float] = {}
    while len(moved) < len(waiting):
        step = min(site.routes.next_look, site.now + 1.0) - site.now
        assert step > 0, "never busy for nothing"
        site.pass_time(step)
        for bucket, last in waiting.items():
            if bucket not in moved and site.now - began <= last:
                kernel.touch(number, bucket)
        if site.routes.next_look <= site.now:
            looks += 1
            site.work()
        owners = site.owners(1)
        assert owners is not None
        for bucket in waiting.keys() - moved.keys():
            if owners.owner(bucket) == wanted(1, 2, 3).owner(bucket):
                moved[bucket] = site.now - began
        assert site.now - began < 200
    for bucket, at in moved.items():
        assert waiting[bucket] + 29 <= at <= waiting[bucket] + 31.5
    assert looks <= 2 * len(waiting) + 4


def test_at_rest_nothing_is_to_be_looked_at(site: Site) -> None:
    site.want({n: target(1, 2, n + 2) for n in range(1, 20)})
    assert site.routes.next_look == float("inf")
    for n in range(1, 20):
        site.want({n: target(1, 2, n + 2, 30)})
    assert site.now + 29 < site.routes.next_look < float("inf")


# Churn


def test_nothing_grows_over_a_thousand_changes(site: Site) -> None:
    """Groups, next hops, slots and what is remembered: bounded by what is wanted now, though a
    thousand different next hops have come and gone."""
    refusing(site)
    chance = random.Random(5)
    for change in range(1000):
        hops = {change + 1, *(chance.randrange(max(1, change - 5), change + 2) for _ in range(2))}
        draining = (change,) if chance.random() < 0.2 and change else ()
        site.want({chance.randrange(1, 9): target(*hops, draining=draining)})
        site.pass_time(chance.choice([0, 1, 31]))
        site.work()
    final = {n: target(1001 + n % 2, 1005) for n in range(1, 9)}
    for _ in range(3):
        site.want(final)  # type: ignore[arg-type]
        site.pass_time(31)
    site.work()
    assert site.groups() == 2
    assert len(site.slots) == 3
    assert len(site.routes.rows._settled) == 2
    assert len(site.kernel.nexthops()[0]) <= 3 * B
    assert not site.read_back()
    assert not site.routes.is_busy


def test_more_next_hops_over_time_than_there_are_slots() -> None:
    site = fake_site()
    for n in range(0, 4300 * 3, 3):
        site.want({1: target(n + 1, n + 2, n + 3)})
    assert site.owners(1) is not None
    assert len(site.slots) == 3


def test_drivers_share_slots_and_neither_frees_what_the_other_uses() -> None:
    site = fake_site()
    plain = PlainRoutes(site.kernel, site.slots, metric=10)
    plain.in_sync = True
    block = (V4, service(200))
    for n in range(1, 30):
        plain.want({block: (node(n),)})
        site.want({1: target(n, n + 1)})
        plain.reconcile()
        site.slots.retain(site.routes.used_slots() | plain.used_slots())
        hops = {h.id: h.gateway for h in site.kernel.nexthops()[0]}
        routes = site.kernel.route_nexthops(V4, PROTOCOL)
        assert hops[routes[service(200), 10]] == node(n)
        assert site.owners(1) is not None
        assert set(hops.values()) == {node(n), node(n + 1)}
    assert len(site.slots) == 2


Targets = st.one_of(
    st.none(),
    st.builds(
        lambda active, draining: target(*active, draining=tuple(draining - active)),
        st.sets(st.integers(1, 5), min_size=1, max_size=3),
        st.sets(st.integers(1, 6), max_size=2),
    ),
)


@given(st.data())
def test_plans_may_change_between_any_two_steps(data: st.DataObject) -> None:
    """`want`, links and timers change while a pass is under way: at every point each prefix is of
    one row and that row knows it; and in the end the kernel holds what was wanted last."""
    site = fake_site()
    current: dict[int, Target | None] = {}

    def change() -> None:
        match data.draw(st.integers(0, 4), label="event"):
            case 0 | 1 | 2:
                some = data.draw(st.dictionaries(st.integers(1, 5), Targets, max_size=5))
                current.update(some)
                for number, goal in some.items():
                    site.routes.want(V4, [service(number)], goal)
            case 3:
                site.other[node(data.draw(st.integers(1, 5)))] = data.draw(
                    st.sampled_from([None, site.interface])
                )
                site.routes.links_changed()

    site.routes.in_sync = True
    for _ in range(data.draw(st.integers(1, 5), label="passes")):
        change()
        if data.draw(st.booleans(), label="read back"):
            site.read_back()
        for _ in site.routes.work():
            consistent(site)
            change()
        site.pass_time(data.draw(st.sampled_from([0, 1, 40]), label="time"))
    site.other.clear()
    site.routes.links_changed()
    for _ in range(4):
        site.pass_time(60)
        site.work()
        consistent(site)
    for number in range(1, 6):
        goal = current.get(number)
        members = goal.members(lambda _: True) if goal is not None else ()
        assert site.owners(number) == (build(members, B) if members else None)
    assert site.groups() == len({t for t in current.values() if t is not None})
    assert not site.read_back()
    assert not site.routes.is_busy


def consistent(site: Site) -> None:
    rows = site.routes.rows
    for family in Family:
        for nlri, row in rows.of[family].items():
            assert nlri in row.nlris
            assert rows.by_id[row.id] is row
    for number, row in rows.by_id.items():
        assert row.id == number
        assert all(rows.of[row.family][nlri] is row for nlri in row.nlris)
        assert row.unrouted <= row.nlris


def test_own_address_and_foreign_network_are_said_in_words() -> None:
    site = fake_site()
    site.interface = None
    site.routes.tables.why_not = lambda address: "eth0, which would lead there, is down"
    site.want({1: target(1, 2)})
    assert site.row(1).error == ("no next hop can be used: eth0, which would lead there, is down")

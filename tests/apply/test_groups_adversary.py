"""Services in the kernel when others interfere, writes are refused and plans change midway.

The same scenarios run on the fake kernel and, marked netns, on the running one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from errno import ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_site import V4, B, Site, fake_site, node, real_site, service, target

from samepath.apply.routes import PlainRoutes
from samepath.hashing.table import Member, Table, build
from samepath.model.net import Family
from samepath.model.ours import PROTOCOL, replica_id
from samepath.netlink.fake import FakeKernel
from samepath.netlink.objects import Group, NextHop, Route
from samepath.netlink.ops import (
    DeleteNextHop,
    DeleteRoute,
    DeleteRoutes,
    Op,
    PutGroup,
    PutNextHop,
    PutRoute,
    PutRoutes,
)
from samepath.plan.gateway import Target


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.netns)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "fake":
        yield fake_site()
        return
    with real_site() as site:
        yield site


def wanted(*numbers: int) -> Table:
    return build([Member(node(n)) for n in numbers], B)


def entries(site: Site, number: int) -> list[int]:
    group = site.routed_by(number)
    assert group is not None
    return site.kernel.bucket_state(group).ids


def meddle(site: Site, *ops: Op) -> None:
    assert site.kernel.apply(ops) == [None] * len(ops)


# What others do


def test_deleted_replicas_come_back_into_their_buckets(site: Site) -> None:
    """The kernel gives the buckets of a deleted member to others: they must come back, and no other
    bucket may be touched on the way."""
    site.want({1: target(1, 2, 3)})
    site.want({1: target(1, 2, 3, 4)})  # with moves in progress
    before, replicas = site.owners(1), entries(site, 1)
    meddle(site, *(DeleteNextHop(replicas[bucket]) for bucket in (0, 7, 8, 30)))
    assert entries(site, 1) != replicas
    assert site.read_back()
    site.work()
    assert site.owners(1) == before
    after = entries(site, 1)
    kept = [a == b for a, b in zip(replicas, after, strict=True)]
    assert sum(kept) >= B - 8, "only what the kernel has mixed up is written anew"
    assert not site.read_back()


def test_changed_group_is_set_right_in_place(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before, replicas = site.owners(1), entries(site, 1)
    number = site.routed_by(1)
    assert number is not None
    members = [*replicas[3:], *replicas[:3]]
    spare = [replica_id(9, n) for n in (1, 2)]
    interface = site.interface
    assert interface is not None
    foreign = [NextHop(i, V4, node(9), interface, protocol=99) for i in spare]
    group = Group(number, (*members[:-2], *spare), resilient=True, buckets=B)
    meddle(site, *map(PutNextHop, foreign), PutGroup(group))
    assert site.owners(1) != before
    assert site.read_back()
    site.work()
    assert site.owners(1) == before
    assert site.routed_by(1) == number


def test_group_replaced_by_another_kind_is_made_anew(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before, replicas = site.owners(1), entries(site, 1)
    number = site.routed_by(1)
    assert number is not None
    meddle(site, DeleteNextHop(number), PutGroup(Group(number, tuple(replicas[:4]))))
    assert site.read_back()
    site.work()
    assert site.owners(1) == before
    site.work()
    assert not site.read_back()
    assert site.groups() == 1


def test_replica_with_another_gateway_is_set_right(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before, replicas = site.owners(1), entries(site, 1)
    interface = site.interface
    assert interface is not None
    meddle(site, PutNextHop(NextHop(replicas[5], V4, node(77), interface)))
    assert site.owners(1) != before
    assert site.read_back()
    site.work()
    assert site.owners(1) == before
    assert entries(site, 1) == replicas


def test_flushed_routes_come_back(site: Site) -> None:
    site.want({n: target(1, 2) for n in (1, 2, 3)})
    meddle(site, DeleteRoutes(V4, [service(1), service(2)], 10))
    assert site.read_back()
    assert service(1) not in site.routes.routed[V4], "not advertised while it is not there"
    site.work()
    assert site.routed_by(1) == site.routed_by(2) == site.routed_by(3)
    assert not site.read_back()


def test_route_that_leads_elsewhere_is_set_right(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(3, 4)})
    meddle(site, PutRoutes(V4, [service(1)], site.routed_by(2) or 0, 10))
    assert site.read_back()
    site.work()
    assert site.owners(1) == wanted(1, 2)


def test_strangers_route_is_not_replaced(site: Site) -> None:
    interface = site.interface
    assert interface is not None
    theirs = Route(V4, service(1), metric=10, gateway=node(50), oif=interface, protocol=99)
    meddle(site, PutRoute(theirs))
    site.want({1: target(1, 2), 2: target(1, 2)})
    assert site.routed_by(1) is None
    assert site.owners(2) == wanted(1, 2)
    assert "not ours" in site.routes.routes.errors[V4, service(1)]
    assert site.routes.is_busy
    site.want({1: None})
    assert not site.routes.routes.errors, "nobody wants it any more"
    assert [r.protocol for r in site.kernel.routes(V4) if r.nlri == service(1)] == [99]
    site.want({1: target(1, 2)})
    meddle(site, DeleteRoute(theirs))
    site.pass_time(60)
    site.work()
    assert site.owners(1) == wanted(1, 2)
    assert not site.routes.is_busy


def test_strays_of_ours_are_deleted(site: Site) -> None:
    """Left by a process that was killed between two writes, or made by somebody else by our marks:
    what nobody knows is deleted."""
    site.want({1: target(1, 2)})
    interface = site.interface
    assert interface is not None
    stray = [NextHop(replica_id(200, n), V4, node(60), interface) for n in (1, 2, 3)]
    group = Group(0x54000777, tuple(n.id for n in stray), resilient=True, buckets=3)
    meddle(site, *map(PutNextHop, stray), PutGroup(group))
    meddle(site, PutRoutes(V4, [service(99)], group.id, 10))
    ours = entries(site, 1)[:5]
    meddle(site, PutGroup(Group(0x54000778, tuple(ours), resilient=True, buckets=5)))
    assert site.read_back()
    site.work()
    site.work()
    assert site.groups() == 1
    assert not [r for r in site.kernel.routes(V4) if r.nlri == service(99)]
    assert {n.gateway for n in site.kernel.nexthops()[0]} == {node(1), node(2)}
    assert not site.read_back()


# What the kernel refuses


def refusing(site: Site) -> FakeKernel:
    if not isinstance(site.kernel, FakeKernel):
        pytest.skip("the running kernel refuses nothing on request")
    return site.kernel


def test_service_keeps_its_route_while_its_new_group_is_refused(site: Site) -> None:
    kernel = refusing(site)
    site.want({1: target(1, 2), 2: target(1, 2)})
    before = site.routed_by(1)
    kernel.fail_next(lambda op: isinstance(op, PutGroup), ENOMEM)
    site.want({1: target(1, 2, 3), 2: target(1, 2, 4)})
    assert site.routed_by(1) == before or site.owners(1) is not None
    assert site.owners(1) == site.owners(2) == wanted(1, 2), "its old route stands"
    assert site.routes.is_busy
    site.pass_time(1)
    site.work()
    assert {site.row(n).in_kernel for n in (1, 2)} == {True}
    assert not site.routes.is_busy
    assert site.groups() == 2


def test_no_group_goes_before_the_routes_that_use_it(site: Site) -> None:
    """The kernel would take them with it."""
    kernel = refusing(site)
    site.want({1: target(1, 2), 2: target(1, 2, 3)})
    site.routes.idle_timer_s = 0.0
    kernel.fail_next(lambda op: isinstance(op, PutRoutes), ENOMEM)
    site.want({1: target(1, 2, 3)})  # its moves are done at once: the two would share a group
    site.work()
    assert site.routed_by(1) is not None
    assert site.routed_by(2) is not None
    assert len(site.routes.rows.by_id) == 2
    site.pass_time(5)
    site.work()
    assert site.routed_by(1) == site.routed_by(2)
    assert site.groups() == 1


def test_old_table_serves_while_one_of_other_size_is_refused(site: Site) -> None:
    kernel = refusing(site)
    site.want({1: target(1, 2)})
    kernel.fail_next(lambda op: isinstance(op, PutGroup), ENOMEM)
    site.routes.configure(buckets=17, idle_timer_s=30, move_deadline_s=None)
    site.work()
    assert site.owners(1) == wanted(1, 2)
    site.pass_time(5)
    site.work()
    assert site.owners(1) == build([Member(node(1)), Member(node(2))], 17)
    assert site.groups() == 1


def test_no_slot_left_is_the_worlds_fault(site: Site) -> None:
    site.want({1: target(1, 2)})
    site.slots._next = 4095
    site.want({1: target(1, 3)})
    assert site.owners(1) == wanted(1)
    assert "slots" in site.row(1).error


def test_next_hop_that_the_kernel_refuses_holds_nobody_up(site: Site) -> None:
    """10.9.255.255 is the network's broadcast address: no kernel takes it as a gateway."""
    bad = 0xFFFF
    if isinstance(site.kernel, FakeKernel):
        for _ in range(100):
            site.kernel.fail_next(
                lambda op: isinstance(op, PutNextHop) and op.nexthop.gateway == node(bad), 101
            )
    site.want({1: target(1, 2, bad)})
    assert site.owners(1) == wanted(1, 2)
    row = site.row(1)
    assert row.error
    assert site.routes.is_busy
    assert site.now < row.look_at <= site.now + 1, "it is tried again"
    site.want({1: target(1, bad)})
    assert site.owners(1) == wanted(1), "departed next hops leave, whoever is refused"
    site.want({1: target(1)})
    assert not site.row(1).error


def test_one_more_replica_refused_moves_no_flow(site: Site) -> None:
    kernel = refusing(site)
    site.want({1: target(1, 2, 3)})
    kernel.fail_next(
        lambda op: isinstance(op, PutNextHop) and op.nexthop.gateway == node(1), ENOMEM
    )
    before = site.owners(1)
    site.want({1: target(1, 2)})
    assert before is not None
    now = site.owners(1)
    assert now is not None
    assert now.count(node(1)) >= before.count(node(1))
    assert site.row(1).error
    site.pass_time(1)
    site.work()
    after = site.owners(1)
    assert after is not None
    assert after.count(node(3)) == 0
    assert not site.row(1).error


def test_refused_routes_are_tried_again_ever_more_slowly(site: Site) -> None:
    kernel = refusing(site)

    def refuse() -> None:
        for _ in range(2):
            kernel.fail_next(lambda op: isinstance(op, PutRoutes), ENOMEM)

    refuse()
    site.want({1: target(1, 2)})
    waits = []
    for _ in range(5):
        waits.append(site.routes.next_look - site.now)
        site.pass_time(waits[-1])
        refuse()
        site.work()
    assert waits == [0.5, 1, 2, 4, 8]
    kernel._failures.clear()
    site.pass_time(16)
    site.work()
    assert site.owners(1) == wanted(1, 2)
    assert not site.routes.is_busy


def test_refused_deletions_are_tried_again(site: Site) -> None:
    kernel = refusing(site)
    site.want({1: target(1, 2), 2: target(3)})
    for kind in (DeleteRoutes, DeleteNextHop, DeleteNextHop):
        kernel.fail_next(lambda op, kind=kind: isinstance(op, kind), ENOMEM)  # type: ignore[misc]
        site.want({2: None})
    for _ in range(4):
        site.pass_time(2)
        site.work()
    assert site.groups() == 1
    assert {n.gateway for n in kernel.nexthops()[0]} == {node(1), node(2)}
    assert not site.routes.is_busy


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

"""Services in the kernel when others interfere, writes are refused and plans change midway.

The same scenarios run on the fake kernel and, marked netns, on the running one.
"""

from __future__ import annotations

from errno import ENOMEM

import pytest
from service_site import V4, B, Site, node, service, target

from samepath.hashing.table import Member, Table, build
from samepath.model.ours import replica_id
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

"""Services in the kernel: every bucket where it should be, and no bucket moved that need not be.

The same scenarios run on the fake kernel and, marked netns, on the running one.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from service_site import V4, B, Site, fake_site, node, service, target

from samepath.apply.row import LOOK_AT_LEAST_S
from samepath.hashing.table import Member, Table, build
from samepath.model.net import parse_address
from samepath.model.ours import slot_of
from samepath.netlink.fake import FakeKernel
from samepath.netlink.objects import BucketState
from samepath.netlink.ops import DeleteNextHop, PutGroup, PutRoutes
from samepath.plan.gateway import Target


def wanted(*numbers: int) -> Table:
    return build([Member(node(n)) for n in numbers], B)


def differing(a: Table | None, b: Table | None) -> int:
    assert a is not None
    assert b is not None
    return sum(x != y for x, y in zip(a.addresses(), b.addresses(), strict=True))


def test_new_service_has_its_table(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    assert site.owners(1) == wanted(1, 2, 3)


def test_services_of_one_target_share_a_group(site: Site) -> None:
    site.want({n: target(1, 2) for n in range(1, 20)})
    assert site.groups() == 1
    site.want({20: target(1, 2)})
    assert site.groups() == 1


def test_departed_next_hop_moves_at_once_and_nothing_else(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before = site.owners(1)
    site.want({1: target(1, 3)})
    after = site.owners(1)
    assert before is not None
    assert after is not None
    for old, new in zip(before.addresses(), after.addresses(), strict=True):
        assert new == old or old == node(2) or new != node(2)
    assert after.count(node(2)) == 0
    assert differing(before, after) == before.count(node(2)) or after != wanted(1, 3)


def test_a_departed_next_hop_does_not_wait_for_idle_times() -> None:
    """They take as long to read as a group to write. Those that wait are looked at soon after."""

    class Counting(FakeKernel):
        reads = 0

        def bucket_state(self, group_id: int) -> BucketState:
            self.reads += 1
            return super().bucket_state(group_id)

    kernel = Counting()
    site = Site(kernel, kernel.add_link("eth0", (parse_address("10.9.0.254"), 16)))
    site.routes.idle_timer_s = 0.0
    site.want({1: target(1, 2)})
    kernel.reads = 0
    site.want({1: target(2, 3)})  # 1 is gone, and some of 2's go to 3 when they are idle
    assert kernel.reads == 0
    row = site.routes.rows.of[V4][service(1)]
    assert row.present is not None
    assert row.present.count(node(1)) == 0
    assert row.waiting
    assert row.look_at - site.now <= LOOK_AT_LEAST_S
    site.now += LOOK_AT_LEAST_S
    site.work()
    assert kernel.reads == 1
    assert site.owners(1) == wanted(2, 3)


def test_added_next_hop_waits_for_idle_buckets(site: Site) -> None:
    site.want({1: target(1, 2)})
    before = site.owners(1)
    site.want({1: target(1, 2, 3)})
    assert site.owners(1) == before, "buckets just used may not move"
    row = site.routes.rows.of[V4][service(1)]
    assert len(row.waiting) == differing(before, wanted(1, 2, 3))
    site.routes.idle_timer_s = 0.0
    site.now += 60
    site.work()
    assert site.owners(1) == wanted(1, 2, 3)
    assert site.routes.moved.idle == differing(before, wanted(1, 2, 3))


def test_deadline_moves_busy_buckets(site: Site) -> None:
    site.routes.move_deadline_s = 100.0
    site.want({1: target(1, 2)})
    site.want({1: target(1, 2, 3)})
    site.now += 99
    site.work()
    assert site.owners(1) == wanted(1, 2)
    site.now += 2
    site.work()
    assert site.owners(1) == wanted(1, 2, 3)
    assert site.routes.moved.deadline > 0


def test_draining_keeps_its_buckets_and_gets_no_share(site: Site) -> None:
    site.want({1: target(1, 2, 3)})
    before = site.owners(1)
    site.want({1: target(1, 3, draining=(2,))})
    assert site.owners(1) == before
    row = site.routes.rows.of[V4][service(1)]
    assert row.want == wanted(1, 3)


def test_all_draining_count_as_active(site: Site) -> None:
    site.want({1: target(draining=(1, 2))})
    assert site.owners(1) == wanted(1, 2)


def test_service_that_changes_alone_takes_its_owners_along(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(1, 2)})
    before = site.owners(1)
    site.want({2: target(1, 2, 3)})
    assert site.owners(1) == before
    assert site.owners(2) == before
    assert site.groups() == 2
    site.routes.idle_timer_s = 0.0
    site.now += 60
    site.work()
    assert site.owners(1) == before
    assert site.owners(2) == wanted(1, 2, 3)
    site.want({1: target(1, 2, 3)})
    site.work()
    assert site.groups() == 1, "done with their moves, they share again"


def test_restart_moves_nothing(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(2, 3)})
    site.want({1: target(1, 2, 3)})  # with moves in progress
    before = site.owners(1), site.owners(2)
    site.restart()
    assert (site.owners(1), site.owners(2)) == before
    site.want({1: target(1, 2, 3), 2: target(2, 3)})
    assert (site.owners(1), site.owners(2)) == before
    row = site.routes.rows.of[V4][service(1)]
    assert row.waiting


def test_nothing_is_deleted_before_in_sync(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(2, 3)})
    site.restart()
    for _ in site.routes.work():
        pass
    assert site.owners(1) is not None
    site.want({1: target(1, 2)})  # now in sync, and nobody wants service 2
    assert site.owners(1) == wanted(1, 2)
    assert site.owners(2) is None
    assert site.groups() == 1


def test_withdrawn_service_leaves_nothing_behind(site: Site) -> None:
    site.want({1: target(1, 2)})
    site.want({1: None})
    assert site.owners(1) is None
    assert site.kernel.nexthops() == ([], [])


def test_link_down_and_up_restores_the_owners(site: Site) -> None:
    site.want({1: target(1, 2)})
    site.want({1: target(1, 2, 3)})
    before = site.owners(1)
    interface, site.interface = site.interface, None
    site.routes.links_changed()
    site.work()
    assert site.owners(1) is None
    assert service(1) not in site.routes.routed[V4]
    site.interface = interface
    site.routes.links_changed()
    site.work()
    assert site.owners(1) == before


def test_what_the_kernel_forgot_is_made_again(site: Site) -> None:
    site.want({1: target(1, 2), 2: target(1, 2)})
    site.want({1: target(1, 2, 3)})
    before = site.owners(1), site.owners(2)
    for group in site.kernel.nexthops()[1]:
        site.kernel.apply([DeleteNextHop(group.id)])
    for hop in site.kernel.nexthops()[0][:10]:
        site.kernel.apply([DeleteNextHop(hop.id)])
    assert site.read_back()
    site.work()
    assert not site.read_back()
    assert (site.owners(1), site.owners(2)) == before


Targets = st.one_of(
    st.none(),
    st.builds(
        lambda active, draining: target(*active, draining=tuple(draining - active)),
        st.sets(st.integers(1, 6), min_size=1, max_size=4),
        st.sets(st.integers(1, 9), max_size=2),
    ),
)
Worlds = st.lists(st.dictionaries(st.integers(1, 4), Targets, max_size=4), max_size=6)


@given(st.data(), Worlds, st.dictionaries(st.integers(1, 4), Targets, min_size=1))
def test_history_does_not_matter(
    data: st.DataObject, worlds: list[dict[int, Target | None]], last: dict[int, Target | None]
) -> None:
    """Whatever came before, restarts and refused writes included: once the moves are done, the
    kernel holds what the last world wants, in as few groups as there are targets."""
    site = fake_site()
    kernel = site.kernel
    assert isinstance(kernel, FakeKernel)
    current: dict[int, Target | None] = {}
    for world in worlds:
        current |= world
        if data.draw(st.booleans(), label="write refused"):
            kernel.fail_next(lambda op: isinstance(op, (PutGroup, PutRoutes)), 12)
        site.want(current)
        idle = data.draw(st.floats(0, 60), label="idle")
        kernel.advance(idle)
        site.now += idle
        site.work()
        if data.draw(st.booleans(), label="restart"):
            site.restart()
    current |= last
    for _ in range(len(worlds) + 2):  # whatever was refused, is tried again
        site.want(current)
        kernel.advance(60)
        site.now += 60
    site.work()
    wanted_now = {n: t for n, t in current.items() if t is not None}
    for number in range(1, 5):
        goal = wanted_now.get(number)
        members = goal.members(lambda _: True) if goal is not None else ()
        assert site.owners(number) == (build(members, B) if members else None)
    assert site.groups() == len(set(wanted_now.values()))
    assert {slot_of(n.id) for n in kernel.nexthops()[0]} == {
        slot_of(e) for row in site.routes.rows for e in row.entries
    }


@given(st.data(), Worlds)
def test_no_bucket_moves_without_cause(
    data: st.DataObject, worlds: list[dict[int, Target | None]]
) -> None:
    """A bucket in use whose owner lives stays where it is, in every world, over every restart."""
    site = fake_site()
    current: dict[int, Target | None] = {}
    before: dict[int, Table | None] = {}
    for world in worlds:
        current |= world
        if data.draw(st.booleans(), label="restart"):
            site.restart()
        site.want(current)
        for number, goal in current.items():
            owners, old = site.owners(number), before.get(number)
            if owners is not None and old is not None and goal is not None:
                living = {hop.address for hop in goal.hops}
                for was, now in zip(old.addresses(), owners.addresses(), strict=True):
                    assert now == was or was not in living
            before[number] = owners

"""What Samepath leans on, on both kernels: refusals, forgetting, replacing in place."""

from __future__ import annotations

import json
import random
from errno import EEXIST, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, ENODEV

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepath.hashing.flow import Flow, lookup_hash
from samepath.model.net import (
    Family,
    Nlri,
    make_nlri,
    parse_address,
    parse_prefix,
)
from samepath.model.ours import GROUP_BASE, PLAIN_GROUP_BASE, PROTOCOL, replica_id
from samepath.netlink import uapi
from samepath.netlink.kernel import Kernel, RealKernel
from samepath.netlink.objects import Group, Hop, Neighbor, NextHop, Route
from samepath.netlink.ops import (
    DeleteAddress,
    DeleteNextHop,
    DeleteRoute,
    DeleteRoutes,
    Op,
    PutAddress,
    PutGroup,
    PutNeighbor,
    PutNextHop,
    PutRoute,
    PutRoutes,
)

G = GROUP_BASE


def do(kernel: Kernel, *ops: Op) -> None:
    """Apply, and every op must succeed."""
    failed = [error for error in kernel.apply(ops) if error is not None]
    assert not failed, failed[0].text


def hop(id_: int, gateway: str | None, oif: int, **more: object) -> NextHop:
    packed = None if gateway is None else parse_address(gateway)
    family = Family.IPV6 if packed is not None and len(packed) == 16 else Family.IPV4
    return NextHop(id_, family, packed, oif, **more)  # type: ignore[arg-type]


def nlri(text: str) -> Nlri:
    return parse_prefix(text)[1]


def resilient(id_: int, members: list[int] | tuple[int, ...], buckets: int = 0) -> Group:
    return Group(id_, tuple(members), True, buckets or len(members), idle_timer_s=120.0)


def put_replicas(world, count: int, slots: int = 2, first_octet: int = 2) -> None:  # type: ignore[no-untyped-def]
    do(
        world.kernel,
        *(
            PutNextHop(hop(replica_id(slot, i), f"10.9.0.{first_octet + slot}", world.a))
            for slot in range(slots)
            for i in range(count)
        ),
    )


# -- next hops


def test_next_hops_are_read_as_they_were_put(world) -> None:
    wanted = [
        hop(1, "10.9.0.2", world.a),
        hop(2, "fd09::2", world.a),
        hop(3, "fe80::1", world.b),
        hop(4, None, world.b),
        hop(5, "192.0.2.1", world.b, flags=uapi.RTNH_F_ONLINK),
        hop(6, "10.8.0.7", world.b, protocol=84),
    ]
    do(world.kernel, *map(PutNextHop, wanted))
    assert world.kernel.nexthops()[0] == wanted
    assert world.kernel.nexthops(protocol=84)[0] == wanted[5:]
    assert world.kernel.nexthop(2) == wanted[1]
    assert world.kernel.nexthop(99) is None
    if world.namespace is not None:
        shown = json.loads(world.namespace.ip("-j", "nexthop"))
        assert [(n["id"], n.get("gateway"), n["dev"]) for n in shown[:3]] == [
            (1, "10.9.0.2", "a0"),
            (2, "fd09::2", "a0"),
            (3, "fe80::1", "b0"),
        ]


def test_a_next_hop_is_replaced_in_place(world) -> None:
    do(world.kernel, PutNextHop(hop(1, "10.9.0.2", world.a)))
    do(world.kernel, PutGroup(Group(G, (1,))))
    do(world.kernel, PutRoutes(Family.IPV4, [nlri("10.1.0.0/24")], G, 10))
    do(world.kernel, PutNextHop(hop(1, "10.8.0.9", world.b)))
    assert world.kernel.nexthop(1) == hop(1, "10.8.0.9", world.b)
    assert world.kernel.route_nexthops(Family.IPV4, PROTOCOL) == {(nlri("10.1.0.0/24"), 10): G}


def test_blackhole_next_hop(world) -> None:
    do(world.kernel, PutNextHop(hop(1, None, 0, blackhole=True)))
    found = world.kernel.nexthop(1)
    assert isinstance(found, NextHop)
    assert found.blackhole


def test_next_hops_that_the_kernel_refuses(world) -> None:
    world.set_link(world.b, carrier=False)
    refused = {
        hop(1, "10.9.0.5", 999): (EINVAL, "Invalid device index"),
        hop(2, "10.7.0.5", world.a): (ENETUNREACH, "Nexthop has invalid gateway"),
        hop(3, "fd77::5", world.a): (EHOSTUNREACH, "No route to host"),
        hop(4, "fd09::1", world.a): (EINVAL, "Gateway can not be a local address"),
        hop(5, "10.8.0.5", world.b): (ENETDOWN, "Carrier for nexthop device is down"),
    }
    errors = world.kernel.apply([PutNextHop(n) for n in refused])
    assert [(e.errno, e.said) for e in errors] == list(refused.values())
    world.set_link(world.b, up=False)
    (error,) = world.kernel.apply([PutNextHop(hop(5, "10.8.0.5", world.b))])
    assert (error.errno, error.said) == (ENETDOWN, "Nexthop device is not up")
    assert "via 10.8.0.5" in error.text
    assert world.kernel.nexthops() == ([], [])


# -- groups


def test_groups_are_read_as_they_were_put(world) -> None:
    put_replicas(world, 3)
    wanted = [
        resilient(G, [replica_id(0, 0), replica_id(1, 0)], buckets=8),
        resilient(G + 1, [replica_id(0, i) for i in range(3)]),
        Group(PLAIN_GROUP_BASE, (replica_id(0, 0), replica_id(1, 0))),
        Group(PLAIN_GROUP_BASE + 1, (replica_id(0, 0), replica_id(1, 0)), weights=(3, 256)),
    ]
    do(world.kernel, *map(PutGroup, wanted[:3]))
    # 256 is the most that all kernels take.
    do(world.kernel, PutGroup(wanted[3]))
    assert world.kernel.nexthops()[1] == wanted
    assert world.kernel.nexthop(G + 1) == wanted[1]


def test_groups_that_the_kernel_refuses(world) -> None:
    do(world.kernel, *(PutNextHop(hop(i, f"10.9.0.{i}", world.a)) for i in (1 + 1, 3)))
    do(world.kernel, PutNextHop(hop(9, None, 0, blackhole=True)))
    do(world.kernel, PutGroup(Group(20, (2, 3))), PutGroup(resilient(21, [2, 3], 7)))
    refused = [
        (Group(22, (2, 2)), "Nexthop id can not be used twice in a group"),
        (Group(22, (2, 99)), "Invalid nexthop id"),
        (Group(22, ()), "Invalid length for nexthop group attribute"),
        (
            Group(22, (2, 9)),
            "Blackhole nexthop can not be used in a group with more than 1 path",
        ),
        (Group(22, (2, 20)), "Hash-threshold group can not be a nexthop within a group"),
        (
            resilient(21, [2, 3], 8),
            "Can not change number of buckets of a resilient nexthop group.",
        ),
        (Group(21, (2, 3)), "Can not replace a nexthop group with one of a different type."),
        (
            resilient(20, [2, 3], 7),
            "Can not replace a nexthop group with one of a different type.",
        ),
        (Group(2, (3,)), "Can not replace a nexthop with a nexthop group."),
    ]
    errors = world.kernel.apply([PutGroup(group) for group, _ in refused])
    assert [(e.errno, e.said) for e in errors] == [(EINVAL, said) for _, said in refused]
    (error,) = world.kernel.apply([PutNextHop(hop(20, "10.9.0.7", world.a))])
    assert (error.errno, error.said) == (
        EINVAL,
        "Can not replace a nexthop group with a nexthop.",
    )


# -- replicas: we own every bucket


@pytest.mark.parametrize("buckets", [1, 7, 251, 1021, 4093])
def test_bucket_i_of_a_fresh_group_is_entry_b_1_i(world, buckets: int) -> None:
    put_replicas(world, buckets, slots=1)
    members = [replica_id(0, i) for i in range(buckets)]
    random.Random(buckets).shuffle(members)
    do(world.kernel, PutGroup(resilient(G, members)))
    assert world.kernel.bucket_state(G).ids == members[::-1]
    assert [b.nexthop_id for b in world.kernel.buckets(G)] == members[::-1]
    assert [b.index for b in world.kernel.buckets(G)] == list(range(buckets))
    if world.namespace is not None and buckets <= 251:
        shown = json.loads(world.namespace.ip("-j", "nexthop", "bucket", "list", "id", str(G)))
        seen = {entry["bucket"]["index"]: entry["bucket"]["nhid"] for entry in shown}
        assert [seen[i] for i in range(buckets)] == members[::-1]


@pytest.mark.parametrize("buckets", [7, 251, 1021, 4093])
def test_a_replace_moves_the_buckets_that_it_names_and_no_other(world, buckets: int) -> None:
    """A third of the buckets go to another member, whatever their idle timer; twice."""
    put_replicas(world, buckets, slots=2)
    chance = random.Random(buckets)
    entries = [replica_id(0, i) for i in range(buckets)]
    do(world.kernel, PutGroup(resilient(G, entries)))
    for _ in range(2):
        for at in chance.sample(range(buckets), buckets // 3 + 1):
            entries[at] = replica_id(1 if entries[at] < replica_id(1, 0) else 0, at)
        do(world.kernel, PutGroup(resilient(G, entries)))
        assert world.kernel.bucket_state(G).ids == entries[::-1]


def test_unmoved_buckets_keep_their_idle_time(world) -> None:
    put_replicas(world, 16, slots=2)
    entries = [replica_id(0, i) for i in range(16)]
    do(world.kernel, PutGroup(resilient(G, entries)))
    world.pass_time(0.15)
    before = world.kernel.bucket_state(G).idle_s
    assert min(before) >= 0.1
    entries[3] = replica_id(1, 3)
    do(world.kernel, PutGroup(resilient(G, entries)))
    after = world.kernel.bucket_state(G).idle_s
    moved = 16 - 1 - 3
    assert after[moved] < 0.1
    assert all(after[i] >= before[i] for i in range(16) if i != moved)


@st.composite
def _replaces(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Lists of one length, each from the one before by moving some entries to fresh replicas."""
    buckets = draw(st.sampled_from([1, 2, 7, 31]))
    lists = [[replica_id(0, i) for i in range(buckets)]]
    for _ in range(draw(st.integers(1, 5))):
        members = list(lists[-1])
        spare = [i for s in range(3) for i in (replica_id(s, r) for r in range(31))]
        free = [i for i in spare if i not in members]
        for at in draw(st.lists(st.integers(0, buckets - 1), unique=True)):
            members[at] = free.pop(draw(st.integers(0, len(free) - 1)))
        lists.append(members)
    return buckets, lists


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=_replaces())
def test_any_sequence_of_replaces_is_exact(world, case: tuple[int, list[list[int]]]) -> None:
    buckets, lists = case
    put_replicas(world, 31, slots=3)
    do(world.kernel, DeleteNextHop(G))
    for members in lists:
        do(world.kernel, PutGroup(resilient(G, members, buckets)))
        assert world.kernel.bucket_state(G).ids == members[::-1]


@pytest.mark.netns
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_fake_and_real_agree_on_every_bucket(both, data: st.DataObject) -> None:
    """Members in any order and number, weights, members that vanish: also what we never do."""
    buckets = data.draw(st.sampled_from([1, 5, 16, 31]))
    for one in both:
        put_replicas(one, 12, slots=1)
        do(one.kernel, DeleteNextHop(G))
    pool = [replica_id(0, i) for i in range(12)]
    for _ in range(data.draw(st.integers(1, 5))):
        members = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
        weights = data.draw(
            st.one_of(st.just(()), st.tuples(*(st.integers(1, 9) for _ in members)))
        )
        group = Group(G, tuple(members), True, buckets, 120.0, weights=weights)
        for one in both:
            do(one.kernel, PutGroup(group))
        assert both[0].kernel.bucket_state(G).ids == both[1].kernel.bucket_state(G).ids
        gone = data.draw(st.lists(st.sampled_from(pool), unique=True, max_size=3))
        for one in both:
            do(one.kernel, *map(DeleteNextHop, gone))
        assert both[0].kernel.bucket_state(G).ids == both[1].kernel.bucket_state(G).ids
        assert both[0].kernel.nexthops()[1] == both[1].kernel.nexthops()[1]
        for one in both:
            put_replicas(one, 12, slots=1)


@pytest.mark.netns
def test_fake_and_real_agree_on_what_a_lost_link_leaves(both) -> None:
    """Members go one by one, in the kernel's own order; buckets of those that stay are kept."""
    for one in both:
        do(
            one.kernel,
            *(PutNextHop(hop(i, "10.9.0.2", one.a)) for i in (1, 2, 3, 4, 5)),
            *(PutNextHop(hop(i, "10.8.0.2", one.b)) for i in (11, 12, 13)),
            PutNextHop(hop(6, "10.9.0.2", one.a)),
            PutGroup(resilient(G, [11, 3, 1, 12, 6, 2, 13, 5, 4], 50)),
            PutGroup(Group(G + 1, (1, 11, 2), weights=(1, 2, 3))),
            PutGroup(Group(G + 2, (1, 2))),
        )
        one.set_link(one.a, carrier=False)
    fake, real = (one.kernel for one in both)
    assert fake.nexthops()[1] == real.nexthops()[1]
    assert fake.bucket_state(G).ids == real.bucket_state(G).ids


@pytest.mark.parametrize("how", ["up", "carrier"])
def test_a_route_without_next_hop_object_outlives_the_carrier_only(world, how: str) -> None:
    route = Route(
        Family.IPV4, nlri("10.1.0.0/24"), metric=10, oif=world.a, gateway=parse_address("10.9.0.2")
    )
    do(world.kernel, PutRoute(route))
    world.set_link(world.a, **{how: False})
    assert world.kernel.routes(Family.IPV4, PROTOCOL) == ([route] if how == "carrier" else [])


# -- forgetting


@pytest.mark.parametrize("how", ["up", "carrier"])
def test_a_link_that_goes_down_takes_everything_on_it_silently(world, how: str) -> None:
    do(
        world.kernel,
        PutNextHop(hop(1, "10.9.0.2", world.a)),
        PutNextHop(hop(2, "10.8.0.2", world.b)),
        PutNextHop(hop(3, "fd09::2", world.a)),
        PutGroup(Group(20, (1,))),
        PutGroup(resilient(21, [1, 2], 8)),
        PutRoutes(Family.IPV4, [nlri("10.1.0.0/24")], 20, 10),
        PutRoutes(Family.IPV4, [nlri("10.2.0.0/24")], 21, 10),
        PutRoutes(Family.IPV6, [nlri("fd10::/64")], 3, 10),
    )
    monitor = world.kernel.monitor(routes=True)
    try:
        world.set_link(world.a, **{how: False})
        assert world.kernel.nexthops() == ([hop(2, "10.8.0.2", world.b)], [resilient(21, [2], 8)])
        assert world.kernel.bucket_state(21).ids == [2] * 8
        assert list(world.kernel.route_nexthops(Family.IPV4, PROTOCOL).values()) == [21]
        assert world.kernel.routes(Family.IPV6, PROTOCOL) == []
        kinds = monitor.drain()
        assert "link" in kinds
        assert "nexthop" not in kinds
        world.set_link(world.a, **{how: True})
        assert [n.id for n in world.kernel.nexthops()[0]] == [2]
    finally:
        monitor.close()


def test_the_last_member_takes_the_group_and_its_routes(world) -> None:
    do(
        world.kernel,
        PutNextHop(hop(1, "10.9.0.2", world.a)),
        PutNextHop(hop(2, "10.9.0.3", world.a)),
        PutGroup(Group(20, (1, 2))),
        PutRoutes(Family.IPV4, [nlri("10.1.0.0/24")], 20, 10),
    )
    do(world.kernel, DeleteNextHop(1))
    assert world.kernel.nexthop(20) == Group(20, (2,))
    assert world.kernel.routes(Family.IPV4, PROTOCOL)
    do(world.kernel, DeleteNextHop(2))
    assert world.kernel.nexthops() == ([], [])
    assert world.kernel.routes(Family.IPV4, PROTOCOL) == []


def test_deleting_what_is_not_there_is_a_success(world) -> None:
    do(
        world.kernel,
        DeleteNextHop(1),
        DeleteRoutes(Family.IPV4, [nlri("10.1.0.0/24")], 10),
        DeleteRoutes(Family.IPV6, [nlri("fd10::/64")], 10),
        DeleteRoutes(Family.IPV4, [nlri("10.1.0.0/24")], 10, table=1000),
        DeleteRoute(Route(Family.IPV4, nlri("10.1.0.0/24"), metric=10, type=uapi.RTN_BLACKHOLE)),
        DeleteAddress(1, parse_address("10.1.1.1"), 32),
        DeleteAddress(1, parse_address("fd10::1"), 128),
        DeleteAddress(999, parse_address("10.1.1.1"), 32),
    )


# -- routes


def _two_ways(world, family: Family) -> tuple[int, int]:
    far = "10.9.0." if family is Family.IPV4 else "fd09::"
    do(
        world.kernel,
        PutNextHop(hop(1, far + "2", world.a)),
        PutNextHop(hop(2, far + "3", world.a)),
        PutGroup(Group(20, (1, 2))),
    )
    return 1, 20


_PREFIXES = {Family.IPV4: ("10.1.0.0/24", "0.0.0.0/0"), Family.IPV6: ("fd10::/64", "::/0")}


@pytest.mark.parametrize("family", list(Family))
def test_routes_are_put_replaced_and_deleted(world, family: Family) -> None:
    one, two = _two_ways(world, family)
    nlris = [nlri(text) for text in _PREFIXES[family]]
    for nexthop_id in (one, two, one):
        do(world.kernel, PutRoutes(family, nlris, nexthop_id, 10))
        assert world.kernel.route_nexthops(family, PROTOCOL) == {(n, 10): nexthop_id for n in nlris}
    do(world.kernel, PutRoutes(family, nlris[:1], two, 20))
    do(world.kernel, DeleteRoutes(family, nlris, 10))
    assert world.kernel.route_nexthops(family, PROTOCOL) == {(nlris[0], 20): two}


@pytest.mark.parametrize("family", list(Family))
def test_another_makers_routes_stay(world, family: Family) -> None:
    one, two = _two_ways(world, family)
    mine = nlri(_PREFIXES[family][0])
    do(world.kernel, PutRoutes(family, [mine], one, 20, protocol=84))
    do(world.kernel, PutRoutes(family, [mine], two, 10, exclusive=True))
    # Deleting ours by metric never takes theirs, not even at the same metric.
    do(world.kernel, DeleteRoutes(family, [mine], 20), DeleteRoutes(family, [mine], 10))
    assert [(r.protocol, r.metric) for r in world.kernel.routes(family)
            if r.nexthop_id is not None] == [(84, 20)]  # fmt: skip
    assert world.kernel.routes(family, PROTOCOL) == []
    (error,) = world.kernel.apply([PutRoutes(family, [mine], two, 20, exclusive=True)])
    assert (error.errno, list(error.failed)) == (EEXIST, [mine])


def test_an_ipv4_gateway_cannot_serve_ipv6(world) -> None:
    do(
        world.kernel,
        PutNextHop(hop(1, "10.9.0.2", world.a)),
        PutNextHop(hop(2, "fd09::2", world.a)),
        PutGroup(Group(20, (1, 2))),
        PutGroup(Group(21, (2,))),
    )
    for id_ in (1, 20):
        (error,) = world.kernel.apply([PutRoutes(Family.IPV6, [nlri("fd10::/64")], id_, 10)])
        assert error.said == "IPv6 routes can not use an IPv4 nexthop"
    do(world.kernel, PutRoutes(Family.IPV6, [nlri("fd10::/64")], 21, 10))
    (error,) = world.kernel.apply([PutGroup(Group(21, (2, 1)))])
    assert error.said == "IPv6 routes can not use an IPv4 nexthop"
    # The other way round it can (RFC 8950).
    do(world.kernel, PutRoutes(Family.IPV4, [nlri("10.1.0.0/24")], 2, 10))


def test_routes_without_next_hop_objects(world) -> None:
    wanted = [
        Route(Family.IPV4, nlri("10.1.0.0/16"), metric=10, type=uapi.RTN_BLACKHOLE),
        Route(
            Family.IPV4,
            nlri("10.2.0.0/16"),
            metric=10,
            oif=world.a,
            gateway=parse_address("10.9.0.2"),
        ),
        Route(
            Family.IPV4,
            nlri("10.3.0.0/16"),
            metric=10,
            oif=world.a,
            gateway=parse_address("fd09::2"),
        ),
        Route(
            Family.IPV4,
            nlri("10.4.0.0/16"),
            metric=10,
            multipath=(
                Hop(parse_address("10.9.0.2"), world.a),
                Hop(parse_address("10.8.0.2"), world.b, 3),
            ),
        ),
    ]
    do(world.kernel, *map(PutRoute, wanted))
    assert world.kernel.routes(Family.IPV4, PROTOCOL) == wanted
    do(world.kernel, *map(DeleteRoute, wanted))
    assert world.kernel.routes(Family.IPV4, PROTOCOL) == []
    many = Route(Family.IPV4, nlri("10.1.0.0/16"), 1000, 10, type=uapi.RTN_BLACKHOLE)
    do(world.kernel, PutRoute(many))
    assert world.kernel.routes(Family.IPV4, PROTOCOL, table=1000) == [many]
    assert world.kernel.routes(Family.IPV4, PROTOCOL, table=2000) == []


def test_a_blackhole_of_ipv6_gives_way_to_a_next_hop(world) -> None:
    one, _ = _two_ways(world, Family.IPV6)
    where = nlri("fd10::/64")
    do(world.kernel, PutRoute(Route(Family.IPV6, where, metric=10, type=uapi.RTN_BLACKHOLE)))
    (route,) = world.kernel.routes(Family.IPV6, PROTOCOL)
    assert route.type == uapi.RTN_BLACKHOLE
    do(world.kernel, PutRoutes(Family.IPV6, [where], one, 10))
    (route,) = world.kernel.routes(Family.IPV6, PROTOCOL)
    assert (route.type, route.nexthop_id) == (uapi.RTN_UNICAST, one)


def test_a_batch_goes_on_past_bad_messages_and_names_each(world) -> None:
    do(world.kernel, PutNextHop(hop(1, "10.9.0.2", world.a)))
    ops: list[Op] = []
    bad = set()
    for i in range(1500):
        if i % 7 == 3:
            bad.add(i)
            ops.append(PutNextHop(hop(1000 + i, "10.7.0.1", world.a)))
        else:
            ops.append(PutNextHop(hop(1000 + i, "10.9.0.2", world.a)))
    results = world.kernel.apply(ops)
    assert {i for i, error in enumerate(results) if error is not None} == bad
    assert all(error.op is ops[i] for i, error in enumerate(results) if error is not None)
    assert len(world.kernel.nexthops()[0]) == 1501 - len(bad)


def test_a_bulk_op_names_its_failed_rows(world) -> None:
    do(world.kernel, PutNextHop(hop(1, "10.9.0.2", world.a)))
    nlris = [make_nlri(bytes((10, 1, i >> 8, i & 255)), 32) for i in range(2000)]
    taken = nlris[3::11]
    do(world.kernel, PutRoutes(Family.IPV4, taken, 1, 10, protocol=84))
    results = world.kernel.apply(
        [
            PutRoutes(Family.IPV4, [], 1, 10),
            PutRoutes(Family.IPV4, nlris, 1, 10, exclusive=True),
            DeleteNextHop(77),
        ]
    )
    assert results[0] is None
    assert results[2] is None
    assert results[1].errno == EEXIST
    assert sorted(results[1].failed) == sorted(taken)
    assert len(world.kernel.routes(Family.IPV4, PROTOCOL)) == len(nlris) - len(taken)


def test_steps_pause_between_batches(world) -> None:
    do(world.kernel, PutNextHop(hop(1, "10.9.0.2", world.a)))
    nlris = [make_nlri(bytes((10, 1, i >> 8, i & 255)), 32) for i in range(1300)]
    steps = world.kernel.apply_steps([PutRoutes(Family.IPV4, nlris, 1, 10)])
    pauses = 0
    while True:
        try:
            assert next(steps) <= 512
        except StopIteration as done:
            results = done.value
            break
        pauses += 1
        world.kernel.links()  # other use between two steps does no harm
    assert pauses >= 3
    assert results == [None]


# -- addresses, neighbours, lookups


def test_addresses_are_marked_as_ours(world) -> None:
    ips = [("10.200.0.1", 32), ("fd99::1", 128)]
    puts = [PutAddress(1, parse_address(text), length) for text, length in ips]
    do(world.kernel, *puts)
    do(world.kernel, *puts)
    found = [a for a in world.kernel.addresses() if a.protocol == PROTOCOL]
    assert [(a.index, a.address, a.prefix_length) for a in found] == [
        (1, parse_address(text), length) for text, length in ips
    ]
    on_a_cable = parse_address("fd09::99")
    do(world.kernel, PutAddress(world.a, on_a_cable, 128))
    (usable,) = (a for a in world.kernel.addresses() if a.address == on_a_cable)
    assert not usable.flags & uapi.IFA_F_TENTATIVE
    do(world.kernel, DeleteAddress(world.a, on_a_cable, 128))
    do(world.kernel, *(DeleteAddress(1, a.address, a.prefix_length) for a in found))
    assert not [a for a in world.kernel.addresses() if a.protocol == PROTOCOL]
    errors = world.kernel.apply([PutAddress(999, parse_address(t), n) for t, n in ips])
    assert [(e.errno, e.said) for e in errors] == [
        (ENODEV, "ipv4: Device not found"),
        (ENODEV, "ipv6: Unable to find the interface"),
    ]


def test_addresses_that_are_no_source(world) -> None:
    four, six = parse_address("10.200.0.1"), parse_address("fd99::1")
    puts = [PutAddress(1, four, 32, is_source=False), PutAddress(1, six, 128, is_source=False)]
    do(world.kernel, *puts)
    do(world.kernel, *puts)
    found = {a.address: a for a in world.kernel.addresses() if a.protocol == PROTOCOL}
    assert found[four].scope == uapi.RT_SCOPE_HOST
    assert found[six].scope == uapi.RT_SCOPE_UNIVERSE
    assert found[six].flags & uapi.IFA_F_DEPRECATED
    do(world.kernel, DeleteAddress(1, four, 32), DeleteAddress(1, six, 128))


def test_neighbours(world) -> None:
    wanted = [
        Neighbor(world.a, parse_address(text), uapi.NUD_PERMANENT, b"\2\0\0\0\0\7")
        for text in ("10.9.0.7", "fd09::7")
    ]
    do(world.kernel, *map(PutNeighbor, wanted))
    found = [n for n in world.kernel.neighbors() if n.state == uapi.NUD_PERMANENT]
    assert found == wanted


def test_a_lookup_takes_the_bucket_that_the_hash_names(world) -> None:
    seed = 0x5EED
    if isinstance(world.kernel, RealKernel):
        assert world.namespace is not None
        world.namespace.sysctl(
            net__ipv4__fib_multipath_hash_seed=seed,
            net__ipv4__fib_multipath_hash_policy=3,
            net__ipv4__fib_multipath_hash_fields=0x37,
        )
    else:
        world.kernel.hash_seed = seed
    put_replicas(world, 16, slots=2)
    entries = [replica_id(i % 2, i // 2) for i in range(31)]
    do(
        world.kernel,
        PutGroup(resilient(G, entries)),
        PutRoutes(Family.IPV4, [nlri("10.1.0.0/24")], G, 10),
    )
    gateways = {
        replica_id(s, i): parse_address(f"10.9.0.{2 + s}") for s in (0, 1) for i in range(16)
    }
    ids = world.kernel.bucket_state(G).ids
    source, destination = parse_address("10.9.0.1"), parse_address("10.1.0.5")
    for port in range(1000, 1060):
        flow = Flow(source, destination, 6, port, 80)
        found = world.kernel.route_get(destination, source, 6, port, 80)
        assert found.oif == world.a
        assert found.gateway == gateways[ids[lookup_hash(flow, seed) % 31]]


# -- wake-ups


def test_a_monitor_wakes_for_others_and_not_for_us(world) -> None:
    monitor = world.kernel.monitor()
    try:
        assert monitor.drain() == set()
        do(world.kernel, PutNextHop(hop(1, "10.9.0.2", world.a)))
        assert monitor.drain() == set()
        if world.namespace is not None:
            world.namespace.ip("nexthop", "add", "id", "7", "via", "10.9.0.3", "dev", "a0")
        else:
            world.kernel.foreign([PutNextHop(hop(7, "10.9.0.3", world.a))])
        seen: set[str] = set()
        world.wait(lambda: bool(seen.update(monitor.drain()) or seen))
        assert seen == {"nexthop"}
        world.set_link(world.b, up=False)
        assert "link" in monitor.drain()
    finally:
        monitor.close()

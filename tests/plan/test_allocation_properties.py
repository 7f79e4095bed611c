"""Addresses of services, whatever the history: no double, no move, no absence without a reason."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.model.cluster import Allocation, Protocol, Request, Service, ServicePort
from samepath.model.kinds import IPAddressPool, Range, ServiceAllocation
from samepath.model.net import Address, Family, family_of
from samepath.plan.allocation import Plan, Situation, Why, allocate
from samepath.plan.allocation_rules import OURS_NOT, families_of, may_share

SMALL = [bytes((192, 0, 2, n)) for n in range(8)] + [
    bytes.fromhex("20010db8") + bytes(11) + bytes((n,)) for n in range(8)
]


@st.composite
def pools(draw: st.DrawFn) -> IPAddressPool:
    ranges = []
    for _ in range(draw(st.integers(1, 2))):
        one, other = sorted(draw(st.tuples(st.sampled_from(SMALL), st.sampled_from(SMALL))))
        if len(one) == len(other):
            ranges.append(Range(one, other))
    rule = st.builds(
        ServiceAllocation,
        priority=st.integers(0, 3),
        namespaces=st.sampled_from([(), ("x",), ("x", "y")]),
    )
    return IPAddressPool(
        name=draw(st.sampled_from("abc")),
        addresses=tuple(ranges),
        auto_assign=draw(st.booleans()),
        avoid_buggy_ips=draw(st.booleans()),
        allocation=draw(st.none() | rule),
    )


REQUESTS = st.builds(
    Request,
    addresses=st.one_of(st.just(()), st.tuples(st.sampled_from(SMALL))),
    pools=st.sampled_from([(), (), ("a",), ("b", "a")]),
    sharing_key=st.sampled_from([None, None, "k", "l"]),
    families=st.sampled_from([(), (Family.IPV4,), (Family.IPV6,), (Family.IPV4, Family.IPV6)]),
    dual_stack=st.sampled_from(["PreferDualStack", "RequireDualStack"]),
    problem=st.sampled_from(["", "", "", "wrong"]),
)

SERVICES = st.builds(
    Service,
    namespace=st.sampled_from("xy"),
    name=st.sampled_from("abcdefg"),
    ports=st.sampled_from([80, 81]).map(lambda p: (ServicePort(p, Protocol.TCP),)),
    load_balancer=st.sampled_from([True, True, True, False]),
    load_balancer_class=st.sampled_from([None, None, "other"]),
    load_balancer_ips=st.lists(st.sampled_from(SMALL), max_size=2).map(tuple),
    external_local=st.booleans(),
    request=REQUESTS,
    allocation=st.sampled_from([Allocation(), Allocation(("a",))]),
    created=st.sampled_from(["1", "2", "3"]),
)

SITUATIONS = st.builds(
    Situation,
    st.lists(SERVICES, max_size=9).map(lambda found: {s.key: s for s in found}),
    st.lists(pools(), max_size=3).map(lambda found: {p.name: p for p in found}),
)


def written(situation: Situation, plan: Plan) -> Situation:
    """What is read again when everything is written."""
    services = {}
    for key, one in situation.services.items():
        outcome = plan.outcomes[key]
        if outcome.why is Why.NOT_FROM_US or (outcome.why in OURS_NOT and not one.allocation.pools):
            services[key] = one
            continue
        services[key] = replace(
            one, load_balancer_ips=outcome.addresses, allocation=Allocation(outcome.pools)
        )
    return replace(situation, services=services)


def settle(situation: Situation) -> tuple[Situation, Plan]:
    for _ in range(12):
        plan = allocate(situation)
        after = written(situation, plan)
        if after == situation:
            return situation, plan
        situation = after
    raise AssertionError("it does not come to rest")


@settings(max_examples=400, deadline=None)
@given(SITUATIONS)
def test_no_address_twice_and_every_absence_has_a_reason(situation: Situation) -> None:
    plan = allocate(situation)
    assert plan.outcomes.keys() == situation.services.keys()
    users: dict[Address, list[Service]] = {}
    for key, outcome in plan.outcomes.items():
        service = situation.services[key]
        if outcome.why in OURS_NOT or outcome.why is Why.NOT_FROM_US:
            continue
        families = [family_of(a) for a in outcome.addresses]
        assert len(set(families)) == len(families), "one a family"
        assert set(families) <= set(families_of(service) or families)
        if outcome.why is Why.ASSIGNED:
            assert families
            lacks = len(families) < len(families_of(service))
            assert not lacks or (outcome.notes and service.request.dual_stack[0] == "P")
        else:
            assert outcome.text != Why.ASSIGNED.value
        for address in outcome.addresses:
            users.setdefault(address, []).append(service)
    for found in users.values():
        for i, one in enumerate(found):
            assert all(may_share(one, other) for other in found[i + 1 :])


@settings(max_examples=400, deadline=None)
@given(SITUATIONS)
def test_an_address_in_anybodys_state_is_given_to_nobody_else(situation: Situation) -> None:
    plan = allocate(situation)
    for key, outcome in plan.outcomes.items():
        one = situation.services[key]
        if outcome.why in OURS_NOT or outcome.why is Why.NOT_FROM_US:
            continue
        for address in set(outcome.addresses) - set(one.load_balancer_ips):
            for other in situation.services.values():
                if other.key != key and address in other.load_balancer_ips:
                    assert may_share(one, other)


@settings(max_examples=400, deadline=None)
@given(SITUATIONS, SERVICES)
def test_it_comes_to_rest_and_a_newcomer_moves_nobody(situation: Situation, more: Service) -> None:
    situation, plan = settle(situation)
    assert allocate(situation) == plan
    fresh = replace(more, load_balancer_ips=(), name="newcomer", created="9")
    after = allocate(replace(situation, services={**situation.services, fresh.key: fresh}))
    assert {k: o.addresses for k, o in after.outcomes.items() if k != fresh.key} == {
        k: o.addresses for k, o in plan.outcomes.items()
    }


@settings(max_examples=200, deadline=None)
@given(SITUATIONS, st.lists(pools(), max_size=3))
def test_no_change_of_pools_takes_an_address_away(
    situation: Situation, others: list[IPAddressPool]
) -> None:
    situation, plan = settle(situation)
    after = allocate(replace(situation, pools={p.name: p for p in others}))
    for key, outcome in plan.outcomes.items():
        one = situation.services[key]
        if outcome.why in OURS_NOT or outcome.why is Why.NOT_FROM_US:
            continue
        for address in outcome.addresses:
            asked = [a for a in one.request.addresses if len(a) == len(address)]
            wishes = one.request.pools or (asked and asked[0] != address)
            assert wishes or address in after.outcomes[key].addresses


@settings(max_examples=200, deadline=None)
@given(SITUATIONS)
def test_what_is_freed_comes_back(situation: Situation) -> None:
    full, plan = settle(situation)
    gone = replace(full, services={})
    before = allocate(replace(situation, services={})).pools
    assert allocate(gone).pools == before
    assert all(not u.assigned or sum(u.assigned.values()) == 0 for u in before.values())
    for name, use in plan.pools.items():
        for family in Family:
            if not use.refused_for:
                assert 0 <= use.available[family] <= before[name].available[family]


def test_five_thousand_services() -> None:
    pool = IPAddressPool(
        name="a", addresses=(Range(bytes((10, 0, 0, 0)), bytes((10, 0, 255, 255))),)
    )
    services = {
        s.key: s
        for n in range(5000)
        if (s := Service("default", f"s{n}", load_balancer=True, created=str(n % 97)))
    }
    services = {
        k: replace(s, request=Request(families=(Family.IPV4,))) for k, s in services.items()
    }
    situation = Situation(services, {"a": pool})
    began = time.perf_counter()
    plan = allocate(situation)
    first_s = time.perf_counter() - began
    assert len({o.addresses for o in plan.outcomes.values()}) == 5000
    situation = written(situation, plan)
    began = time.perf_counter()
    assert allocate(situation).outcomes == plan.outcomes
    second_s = time.perf_counter() - began
    print(f"first {first_s:.3f} s, again {second_s:.3f} s")
    assert first_s < 2
    assert second_s < 2

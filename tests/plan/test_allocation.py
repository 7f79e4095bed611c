"""Who gets which address, and why not: the rules, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from samepath.model.cluster import Allocation, Protocol, Request, Service, ServicePort
from samepath.model.kinds import (
    IPAddressPool,
    Namespace,
    Operator,
    Range,
    Requirement,
    Selector,
    ServiceAllocation,
)
from samepath.model.net import Family, address_text, parse_address
from samepath.plan.allocation import Plan, Situation, Why, allocate
from samepath.plan.allocation_rules import may_share


def pool(name: str, *ranges: str, **more: Any) -> IPAddressPool:
    made = []
    for text in ranges:
        first, _, last = text.partition("-")
        made.append(Range(parse_address(first), parse_address(last or first)))
    return IPAddressPool(name=name, addresses=tuple(made), **more)


def service(name: str, *held: str, **more: Any) -> Service:
    request: dict[str, Any] = {"families": (Family.IPV4,)}
    for field in ("pools", "sharing_key", "families", "dual_stack", "problem", "selector"):
        if field in more:
            request[field] = more.pop(field)
    request["addresses"] = tuple(map(parse_address, more.pop("asks", ())))
    port = more.pop("port", 80)
    more.setdefault("created", "2024-01-01T00:00:00Z")
    if held:
        more.setdefault("allocation", Allocation(pools=(more.pop("of", "a"),)))
    return Service(
        namespace=more.pop("namespace", "default"),
        name=name,
        ports=(ServicePort(port, more.pop("protocol", Protocol.TCP)),),
        load_balancer=more.pop("load_balancer", True),
        load_balancer_ips=tuple(map(parse_address, held)),
        request=Request(**request),
        **more,
    )


def run(pools: Iterable[IPAddressPool], *services: Service, **more: Any) -> Plan:
    return allocate(Situation({s.key: s for s in services}, {p.name: p for p in pools}, **more))


def got(plan: Plan, name: str, namespace: str = "default") -> tuple[Why, list[str]]:
    outcome = plan.outcomes[f"{namespace}/{name}"]
    return outcome.why, list(map(address_text, outcome.addresses))


A = pool("a", "192.0.2.1-192.0.2.3")
DUAL = {"families": (Family.IPV4, Family.IPV6)}
BOTH = pool("both", "192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::2")


def written(plan: Plan, one: Service) -> Service:
    """The service after what was decided has been written."""
    outcome = plan.outcomes[one.key]
    if not outcome.pools and outcome.addresses:
        return one
    return replace(
        one,
        load_balancer_ips=outcome.addresses,
        allocation=Allocation(outcome.pools, outcome.why.reason, outcome.text),
    )


def test_the_older_chooses_first() -> None:
    old = service("z", created="2020-01-01T00:00:00Z")
    plan = run([A], service("b"), service("a"), old)
    assert got(plan, "z") == (Why.ASSIGNED, ["192.0.2.1"])
    assert got(plan, "a") == (Why.ASSIGNED, ["192.0.2.2"])
    assert got(plan, "b") == (Why.ASSIGNED, ["192.0.2.3"])
    assert plan.outcomes["default/z"].text == "192.0.2.1 from a"


def test_an_older_one_takes_nothing_from_a_later_that_holds() -> None:
    old = service("old", created="2020-01-01T00:00:00Z")
    plan = run([A], old, service("new", "192.0.2.1"))
    assert got(plan, "new")[1] == ["192.0.2.1"]
    assert got(plan, "old")[1] == ["192.0.2.2"]


def test_exhausted_names_the_pools() -> None:
    small = pool("a", "192.0.2.1")
    plan = run([small], service("one"), service("two"))
    assert got(plan, "two") == (Why.EXHAUSTED, [])
    assert plan.outcomes["default/two"].detail == "ipv4: a"
    use = plan.pools["a"]
    assert use.assigned == {Family.IPV4: 1, Family.IPV6: 0}
    assert use.available == {Family.IPV4: 0, Family.IPV6: 0}


@pytest.mark.parametrize(
    ("more", "kwargs", "why"),
    [
        ({"load_balancer": False}, {}, Why.NOT_LOAD_BALANCER),
        ({"load_balancer_class": "example.com/x"}, {}, Why.OTHER_CLASS),
        ({"load_balancer_class": "samepath.dev/bgp"}, {}, Why.ASSIGNED),
        ({}, {"default_class": False}, Why.OTHER_CLASS),
        ({"load_balancer_class": "samepath.dev/bgp"}, {"default_class": False}, Why.ASSIGNED),
        ({"problem": "annotation x: not an address"}, {}, Why.BAD_REQUEST),
        ({"families": ()}, {}, Why.NO_FAMILY),
        ({"families": (Family.IPV6,)}, {}, Why.NO_POOL_OF_FAMILY),
        ({"asks": ["2001:db8::1"]}, {}, Why.WRONG_FAMILY),
        ({"asks": ["198.51.100.1"]}, {}, Why.NOT_IN_POOL),
        ({"asks": ["192.0.2.3"]}, {}, Why.ASSIGNED),
        ({"pools": ("b",)}, {}, Why.NO_SUCH_POOL),
        ({"pools": ("b", "a")}, {}, Why.ASSIGNED),
        ({"asks": ["192.0.2.3"], "pools": ("b",)}, {}, Why.NOT_IN_POOL),
    ],
)
def test_whether_and_why(more: dict[str, Any], kwargs: dict[str, Any], why: Why) -> None:
    plan = run([A], service("web", **more), **kwargs)
    assert got(plan, "web")[0] is why
    assert bool(got(plan, "web")[1]) == (why is Why.ASSIGNED)


def test_no_pool_at_all() -> None:
    assert got(run([], service("web")), "web")[0] is Why.NO_POOL


def test_requested_and_taken() -> None:
    plan = run([A], service("web", "192.0.2.2"), service("other", asks=["192.0.2.2"]))
    assert got(plan, "other") == (Why.TAKEN, [])
    assert plan.outcomes["default/other"].detail == "192.0.2.2 is default/web's"


def test_families_of_cluster_ips_if_none_are_said() -> None:
    one = service("web", families=(), cluster_ips=(parse_address("fd00::1"),))
    assert got(run([BOTH], one), "web")[1] == ["2001:db8::1"]


# -- What is held


@pytest.mark.parametrize(
    "pools",
    [
        [],
        [pool("b", "198.51.100.1-198.51.100.9")],
        [pool("a", "192.0.2.2")],
        [pool("a", "192.0.2.1-192.0.2.9", allocation=ServiceAllocation(namespaces=("x",)))],
        [pool("A", "192.0.2.1"), A],
    ],
    ids=["gone", "other", "shrunk", "closed", "overlapped"],
)
def test_what_is_held_stays_whatever_becomes_of_the_pool(pools: list[IPAddressPool]) -> None:
    plan = run(pools, service("web", "192.0.2.1"))
    why, addresses = got(plan, "web")
    assert (why, addresses) == (Why.ASSIGNED, ["192.0.2.1"])
    is_of_the_other = [p.name for p in pools] == ["A", "a"]
    assert bool(plan.outcomes["default/web"].notes) != is_of_the_other


def test_a_refused_pool_is_named() -> None:
    plan = run([pool("A", "192.0.2.3"), A], service("web", "192.0.2.1"))
    text = "192.0.2.1 is kept, but its pool a is refused: it overlaps A"
    assert plan.outcomes["default/web"].notes == (text,)
    assert plan.pools["a"].refused_for == "A"


def test_a_new_pool_that_overlaps_takes_nothing_from_an_older_one() -> None:
    newer = pool("A", "192.0.2.1-192.0.2.3", created="2026-02-02T00:00:00Z")
    plan = run([newer, A], service("web", "192.0.2.1"))
    assert plan.outcomes["default/web"].notes == ()
    assert (plan.pools["A"].refused_for, plan.pools["a"].refused_for) == ("a", "")


def test_two_with_one_address_the_older_keeps_it() -> None:
    old = service("z", "192.0.2.1", created="2020-01-01T00:00:00Z")
    plan = run([A], old, service("a", "192.0.2.1"))
    assert got(plan, "z")[1] == ["192.0.2.1"]
    assert got(plan, "a")[1] == ["192.0.2.2"]
    plan = run([A], old, service("a", "192.0.2.1", asks=["192.0.2.1"]))
    assert got(plan, "a") == (Why.TAKEN, [])


def test_what_is_freed_is_given_when_the_state_says_so() -> None:
    former = service("former", "192.0.2.1", load_balancer=False)
    plan = run([A], former, service("web"))
    assert got(plan, "web")[1] == ["192.0.2.2"], "it still stands in another's state"
    assert got(run([A], written(plan, former), service("web")), "web")[1] == ["192.0.2.1"]


def test_another_address_asked_for_comes_before_the_held_goes() -> None:
    plan = run([A], service("web", "192.0.2.1", asks=["192.0.2.3"]))
    assert got(plan, "web") == (Why.ASSIGNED, ["192.0.2.3"])
    taken = service("other", "192.0.2.3")
    plan = run([A], service("web", "192.0.2.1", asks=["192.0.2.3"]), taken)
    assert got(plan, "web") == (Why.TAKEN, ["192.0.2.1"])
    assert plan.outcomes["default/web"].text.endswith("; it keeps 192.0.2.1")


def test_another_pool_asked_for() -> None:
    other = pool("b", "198.51.100.1")
    plan = run([A, other], service("web", "192.0.2.1", pools=("b",)))
    assert got(plan, "web") == (Why.ASSIGNED, ["198.51.100.1"])
    plan = run([A, other], service("x", "198.51.100.1"), service("web", "192.0.2.1", pools=("b",)))
    assert got(plan, "web") == (Why.EXHAUSTED, ["192.0.2.1"])


def test_a_bad_request_takes_nothing_away() -> None:
    plan = run([A], service("web", "192.0.2.1", problem="nonsense"))
    assert got(plan, "web") == (Why.BAD_REQUEST, ["192.0.2.1"])


def test_addresses_of_somebody_else_are_left_alone() -> None:
    none = Allocation()
    foreign = service("web", "203.0.113.1", allocation=none)
    plan = run([A], foreign)
    assert got(plan, "web") == (Why.NOT_FROM_US, ["203.0.113.1"])
    assert plan.outcomes["default/web"].pools == ()
    wishes = service("web", "203.0.113.1", allocation=none, pools=("a",))
    assert got(run([A], wishes), "web") == (Why.ASSIGNED, ["192.0.2.1"])
    ours = service("web", "203.0.113.1", allocation=none, load_balancer_class="samepath.dev/bgp")
    assert got(run([A], ours), "web")[0] is Why.ASSIGNED
    from_metallb = service("web", "192.0.2.3", allocation=none)
    plan = run([A], from_metallb)
    assert got(plan, "web") == (Why.ASSIGNED, ["192.0.2.3"])
    assert plan.outcomes["default/web"].pools == ("a",)


# -- Pools


def test_pools_by_what_they_are_for() -> None:
    labels = {"tier": "front"}
    front = Selector((Requirement("tier", Operator.IN, ("front",)),))
    pools = [
        pool("a", "192.0.2.1"),
        pool("late", "192.0.2.2", allocation=ServiceAllocation(namespaces=("shop",))),
        pool(
            "soon",
            "192.0.2.3",
            allocation=ServiceAllocation(priority=7, namespace_selectors=(front,)),
        ),
        pool(
            "first",
            "192.0.2.4",
            allocation=ServiceAllocation(
                priority=3, namespaces=("shop",), service_selectors=(front,)
            ),
        ),
        pool("asked", "192.0.2.5", auto_assign=False),
    ]
    made = [service(str(n), namespace="shop", labels=labels) for n in range(5)]
    namespaces = {"shop": Namespace(name="shop", labels=labels)}
    plan = run(pools, *made, namespaces=namespaces)
    chosen = [got(plan, str(n), "shop")[1] for n in range(5)]
    assert chosen == [["192.0.2.4"], ["192.0.2.3"], ["192.0.2.2"], ["192.0.2.1"], []]
    elsewhere = [service(str(n)) for n in range(2)]
    plan = run(pools, *elsewhere, namespaces=namespaces)
    assert [got(plan, str(n))[1] for n in range(2)] == [["192.0.2.1"], []]
    assert got(run(pools, service("x", pools=("asked",))), "x")[1] == ["192.0.2.5"]
    assert got(run(pools, service("x", asks=["192.0.2.5"])), "x")[1] == ["192.0.2.5"]
    assert got(run(pools, service("x", asks=["192.0.2.4"])), "x")[0] is Why.NOT_IN_POOL
    assert got(run(pools, service("x", pools=("first",))), "x")[0] is Why.NO_POOL_FOR_IT


def test_buggy_addresses() -> None:
    one = pool("a", "192.0.2.255-192.0.3.2", avoid_buggy_ips=True)
    plan = run([one], *(service(str(n)) for n in range(3)))
    assert [got(plan, str(n))[1] for n in range(3)] == [["192.0.3.1"], ["192.0.3.2"], []]
    assert plan.pools["a"].available[Family.IPV4] == 0
    assert got(run([one], service("x", asks=["192.0.3.0"])), "x")[0] is Why.BUGGY
    assert got(run([one], service("x", "192.0.3.0")), "x")[1] == ["192.0.3.0"], "held"


def test_others_addresses_are_avoided() -> None:
    outside = service("n", load_balancer=False, external_ips=(parse_address("192.0.2.1"),))
    plan = run([A], outside, service("web"), avoid=frozenset({parse_address("192.0.2.2")}))
    assert got(plan, "web")[1] == ["192.0.2.3"]
    plan = run([A], outside, service("web", asks=["192.0.2.1"]))
    assert got(plan, "web")[1] == ["192.0.2.1"], "the operator's own matter"


def test_a_huge_pool_is_not_walked() -> None:
    huge = pool("a", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff", "10.0.0.0-10.255.255.255")
    plan = run([huge], service("web", families=(Family.IPV6,)))
    assert got(plan, "web")[1] == ["2001:db8::"]
    assert plan.pools["a"].available == {Family.IPV4: 1 << 24, Family.IPV6: (1 << 64) - 1}


def test_ranges_of_one_pool_may_overlap() -> None:
    plan = run([pool("a", "192.0.2.1-192.0.2.5", "192.0.2.4-192.0.2.9")], service("web"))
    assert plan.pools["a"].available[Family.IPV4] == 8


# -- Two families


@pytest.mark.parametrize(
    ("policy", "pools", "why", "addresses"),
    [
        ("RequireDualStack", [BOTH], Why.ASSIGNED, ["192.0.2.1", "2001:db8::1"]),
        ("PreferDualStack", [BOTH], Why.ASSIGNED, ["192.0.2.1", "2001:db8::1"]),
        ("RequireDualStack", [A], Why.NO_POOL_OF_FAMILY, []),
        ("PreferDualStack", [A], Why.ASSIGNED, ["192.0.2.1"]),
        (
            "RequireDualStack",
            [A, pool("b", "2001:db8::9")],
            Why.ASSIGNED,
            ["192.0.2.1", "2001:db8::9"],
        ),
        (
            "PreferDualStack",
            [pool("0", "198.51.100.1"), BOTH],
            Why.ASSIGNED,
            ["192.0.2.1", "2001:db8::1"],
        ),
    ],
)
def test_dual_stack(
    policy: str, pools: list[IPAddressPool], why: Why, addresses: list[str]
) -> None:
    plan = run(pools, service("web", dual_stack=policy, **DUAL))
    assert got(plan, "web") == (why, addresses)
    fell_back = why is Why.ASSIGNED and len(addresses) == 1
    assert bool(plan.outcomes["default/web"].notes) == fell_back


def test_the_order_is_the_services() -> None:
    one = service("web", dual_stack="RequireDualStack", families=(Family.IPV6, Family.IPV4))
    assert got(run([BOTH], one), "web")[1] == ["2001:db8::1", "192.0.2.1"]


def test_the_second_family_comes_later_and_moves_nothing() -> None:
    one = service("web", "192.0.2.3", dual_stack="PreferDualStack", **DUAL)
    assert got(run([A], one), "web")[1] == ["192.0.2.3"]
    assert got(run([BOTH], one), "web")[1] == ["192.0.2.3", "2001:db8::1"]
    two = replace(one, request=replace(one.request, families=(Family.IPV6,)))
    assert got(run([BOTH], two), "web")[1] == ["2001:db8::1"], "it does not want the other"


def test_require_takes_nothing_away() -> None:
    one = service("web", "192.0.2.3", dual_stack="RequireDualStack", **DUAL)
    assert got(run([A], one), "web") == (Why.NO_POOL_OF_FAMILY, ["192.0.2.3"])


def test_one_family_asked_for_by_address_the_other_beside_it() -> None:
    pools = [pool("0", "2001:db8:0::1"), pool("b", "192.0.2.1-192.0.2.9", "2001:db8:b::1")]
    one = service("web", asks=["192.0.2.7"], dual_stack="RequireDualStack", **DUAL)
    assert got(run(pools, one), "web")[1] == ["192.0.2.7", "2001:db8:b::1"]


# -- Sharing


def test_sharing_takes_no_second_address() -> None:
    plan = run(
        [A],
        service("web", "192.0.2.2", sharing_key="k", port=80),
        service("tls", sharing_key="k", port=443),
        service("dns", sharing_key="k", port=80, protocol=Protocol.UDP),
        service("also-web", sharing_key="k", port=80),
        service("other", sharing_key="o", port=81),
    )
    assert got(plan, "tls")[1] == got(plan, "dns")[1] == ["192.0.2.2"]
    assert got(plan, "also-web")[1] == ["192.0.2.1"]
    assert got(plan, "other")[1] == ["192.0.2.3"]


def test_sharing_on_request_alone_needs_a_key_on_both() -> None:
    web = service("web", "192.0.2.2", sharing_key="k")
    plan = run([A], web, service("tls", asks=["192.0.2.2"], port=443))
    assert got(plan, "tls") == (Why.TAKEN, [])
    plan = run([A], web, service("web2", asks=["192.0.2.2"], sharing_key="k"))
    assert "forbid to share" in plan.outcomes["default/web2"].text


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ({}, {}, True),
        ({"port": 443}, {}, False),
        ({"protocol": Protocol.UDP, "port": 443}, {}, True),
        ({"sharing_key": None}, {"sharing_key": None}, False),
        ({"sharing_key": "x"}, {}, False),
        ({"external_local": True}, {}, False),
        ({"external_local": True}, {"external_local": True}, True),
        (
            {"external_local": True, "selector": {"a": "b"}},
            {"external_local": True, "selector": {"a": "b"}},
            True,
        ),
        ({"external_local": True, "selector": {"a": "b"}}, {"external_local": True}, False),
        ({"external_local": True, "namespace": "x"}, {"external_local": True}, False),
        ({"selector": {"a": "b"}, "namespace": "x"}, {}, True),
    ],
)
def test_who_may_share(one: dict[str, Any], other: dict[str, Any], may: bool) -> None:
    left = service("l", **{"sharing_key": "k", "port": 80, **one})
    right = service("r", **{"sharing_key": "k", "port": 443, **other})
    assert may_share(left, right) is may_share(right, left) is may


def test_sharing_that_ends_the_younger_moves() -> None:
    web = service("web", "192.0.2.2", sharing_key="k", created="2020-01-01T00:00:00Z")
    tls = service("tls", "192.0.2.2", sharing_key="other", port=443)
    plan = run([A], web, tls)
    assert (got(plan, "web")[1], got(plan, "tls")[1]) == (["192.0.2.2"], ["192.0.2.1"])


def test_what_we_gave_counts_before_what_somebody_else_did() -> None:
    """An older Service has the same address from elsewhere, while no pool of ours has it."""
    theirs = service("old", "192.0.2.1", created="1", allocation=Allocation())
    ours = service("web", "192.0.2.1", created="2", allocation=Allocation(("a",)))
    for pools in ([], [A]):
        plan = run(pools, theirs, ours)
        assert plan.outcomes["default/web"].addresses == (parse_address("192.0.2.1"),)
    assert plan.outcomes["default/old"].addresses != (parse_address("192.0.2.1"),)

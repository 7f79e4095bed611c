"""Another daemon's routes as a source: which count, and when the daemon has told enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from samepath.bgp.decision import PathSet
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.plan import kernel_routes
from samepath.plan.gateway import Hop as TargetHop
from samepath.plan.gateway import wanted
from samepath.plan.kernel_routes import Hop, Prefix, Seen, Taken, Why, choose
from samepath.plan.sync import Sync
from samepath.plan.sync import Why as SyncWhy

A, B, C = (parse_address(f"10.0.0.{n}") for n in (1, 2, 3))
SERVICE: Prefix = parse_prefix("203.0.113.10/32")
OTHER: Prefix = parse_prefix("203.0.113.11/32")
SIX: Prefix = parse_prefix("2001:db8::1/128")


def seen(prefix: Prefix, *hops: Hop, metric: int = 20, unnamed: int = 0) -> Seen:
    return Seen(*prefix, metric, hops, unnamed)


def test_the_lowest_metric_counts_as_for_the_kernel() -> None:
    low, high = seen(SERVICE, Hop(A), metric=20), seen(SERVICE, Hop(B), metric=32)
    for order in ((low, high), (high, low)):
        choice = choose(order)
        assert choice.taken == {SERVICE: (Hop(A),)}
        assert choice.refused == ((high, Why.WORSE),)


def test_what_has_no_gateway_is_named() -> None:
    blackhole, partly = seen(SERVICE, unnamed=1), seen(OTHER, Hop(B), unnamed=1)
    choice = choose([blackhole, partly])
    assert choice.taken == {OTHER: (Hop(B),)}
    assert choice.refused == ((blackhole, Why.NO_GATEWAY), (partly, Why.IN_PART))


hops = st.lists(st.builds(Hop, st.sampled_from([A, B, C]), st.integers(1, 255)), min_size=1)


@given(hops)
def test_weights_come_through_the_same_plan(hops: list[Hop]) -> None:
    """The target has each gateway once, in the proportions that the kernel's route has."""
    taken = choose([seen(SERVICE, *hops)]).taken[SERVICE]
    found = wanted(PathSet(kernel_routes.paths(taken)).best)
    assert found is not None
    assert found.kind == "services"
    sums = {a: sum(h.weight for h in hops if h.address == a) for a in {h.address for h in hops}}
    assert [h.address for h in found.target.hops] == sorted(sums)
    first = found.target.hops[0]
    for hop in found.target.hops:
        assert hop.weight * sums[first.address] == first.weight * sums[hop.address]
        assert not hop.draining


def test_without_weights_all_are_one() -> None:
    found = wanted(PathSet(kernel_routes.paths((Hop(A), Hop(B)))).best)
    assert found is not None
    assert found.target.hops == (TargetHop(A, 1, False), TargetHop(B, 1, False))


def decide(taken: Taken, since_s: float = 1.0, **more: object) -> Sync:
    given = {"wanted": {}, "is_hold": False, "has_lost": False, "expected_hops": 2} | more
    return kernel_routes.decide(taken=taken, since_s=since_s, deferral_s=60, **given)  # type: ignore[arg-type]


BOTH: Taken = {SERVICE: (Hop(A), Hop(B)), OTHER: (Hop(A),)}


def test_adopted_tables_wait_for_all_that_they_name() -> None:
    wanted = {SERVICE: frozenset({A, B}), OTHER: frozenset({A})}
    assert decide(BOTH, wanted=wanted) == Sync(True, SyncWhy.ROUTES_BACK)
    assert decide({SERVICE: (Hop(A),), OTHER: (Hop(A),)}, wanted=wanted) == Sync(
        False, SyncWhy.WAITING_FOR_ROUTES, (B,)
    )
    without: Taken = {SERVICE: (Hop(A), Hop(B))}
    assert decide(without, wanted=wanted).missing == (A,), "a service that has no route as yet"
    assert decide({}, wanted=wanted, since_s=60).why is SyncWhy.DEFERRAL_OVER


def test_an_empty_kernel_waits_for_expected_peers_of_each_family() -> None:
    assert decide(BOTH).why is SyncWhy.ENOUGH_HOPS
    assert not decide(BOTH | {SIX: (Hop(parse_address("fd00::1")),)}).in_sync
    assert not decide({}).in_sync
    assert decide(BOTH, expected_hops=3, since_s=59).why is SyncWhy.WAITING_FOR_DAEMON
    assert decide(BOTH, expected_hops=3, since_s=60).in_sync


def test_a_daemon_started_anew_may_still_take_its_routes_away() -> None:
    wanted = {SERVICE: frozenset({A, B})}
    assert not decide(BOTH, wanted=wanted, is_hold=True).in_sync, "it has not yet"
    assert not decide({}, wanted=wanted, is_hold=True, has_lost=True).in_sync
    assert decide(BOTH, wanted=wanted, is_hold=True, has_lost=True).in_sync, "all is back"
    assert decide(BOTH, wanted=wanted, is_hold=True, since_s=60).in_sync, "it never did"


def test_families_are_counted_apart() -> None:
    assert kernel_routes.fewest({}) == 0
    assert kernel_routes.fewest(BOTH) == 2
    assert kernel_routes.fewest(BOTH | {(Family.IPV6, SIX[1]): (Hop(b"x" * 16),)}) == 1

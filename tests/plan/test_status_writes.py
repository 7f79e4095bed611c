"""States reach the API server, and never as a storm."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from status_world import SINCE, World, wants

from samepath.plan.node_status import Desired, Key, Kind
from samepath.plan.status_writes import (
    BURST,
    FIRST,
    PAUSE_MOST_S,
    REFUSED_S,
    SPREAD_S,
    Actual,
    Failure,
    StatusWrites,
    What,
)

UP = [("gw1", True, SINCE), ("gw2", True, SINCE)]
DOWN_1 = [("gw1", False, SINCE), ("gw2", True, SINCE)]


def one(rate: float = 2.0, what: Desired | None = None) -> World:
    world = World(rate=rate)
    world.start("n")
    world.want("n", what or wants("n", UP))
    return world


def total(world: World) -> int:
    return sum(world.server.writes.values())


def test_everything_is_written_once_and_then_nothing_for_ten_minutes() -> None:
    world = one()
    world.run(30)
    assert world.matches("n", wants("n", UP))
    # Two objects, each created and then given its status; and the Node's condition.
    assert total(world) == 5
    for _ in range(600):
        world.want("n", wants("n", UP))
        world.run(world.now + 1)
    assert total(world) == 5
    assert world.server.reads == 1


def test_what_changes_back_in_time_is_not_written_and_five_changes_are_one() -> None:
    world = one()
    world.run(30)
    before = total(world)
    world.want("n", wants("n", DOWN_1))
    world.want("n", wants("n", UP))
    world.run(60)
    assert total(world) == before
    for number in range(5):
        world.want("n", wants("n", [("gw1", True, f"t{number}"), UP[1]]))
    world.run(90)
    assert total(world) == before + 1
    assert world.matches("n", wants("n", [("gw1", True, "t4"), UP[1]]))


def test_restart_adopts_what_is_equal_and_deletes_what_is_stale() -> None:
    world = one(what=wants("n", UP, [("web", "active"), ("old", "active")]))
    world.run(60)
    before = total(world)
    world.start("n")
    now = wants("n", UP, [("web", "active")])
    world.want("n", now)
    world.run(120)
    assert world.matches("n", now)
    assert total(world) == before + 1, "the stale one is deleted, nothing else is touched"


def test_nothing_is_written_or_deleted_before_it_has_been_read() -> None:
    world = World()
    writes = StatusWrites("n", rate=2, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
    assert writes.next(0.0) is None, "nothing is known of what is desired"
    writes.want(wants("n", UP), 0.0)
    op = writes.next(0.0)
    assert op is not None
    assert op.what is What.READ
    writes.failed(op, Failure.AWAY, "away", 0.0)
    assert writes.next(0.4) is None
    assert world.server.of == {}


def test_sessions_come_first_then_drains_then_the_rest() -> None:
    names = [f"s{n}" for n in range(10)]
    services = [(n, "active") for n in names] + [("d", "draining")]
    writes = StatusWrites("n", rate=5, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
    writes.want(wants("n", UP, services), 0.0)
    order = []
    writes.was_read({}, {}, 0.0)
    for _ in range(6):
        op = writes.next(2.0)
        assert op is not None
        assert op.key is not None
        order.append(op.key)
        told = op.wanted.status if op.wanted else None
        writes.done(op, 2.0, told)
    assert [k.kind for k in order] == [
        Kind.NODE, Kind.SESSION, Kind.SESSION, Kind.SERVICE, Kind.SERVICE, Kind.SERVICE
    ]  # fmt: skip
    assert order[3].name == "d@n"


def test_condition_is_true_only_before_the_first_readiness() -> None:
    def conditions(*steps: bool, had: Actual | None = None) -> list[str]:
        writes = StatusWrites("n", rate=100, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
        told = []
        key = Key(Kind.NODE, "", "n")
        writes.want(Desired({}, steps[0]), 0.0)
        writes.was_read({key: had} if had else {}, {}, 0.0)
        for step in steps:
            writes.want(Desired({}, step), 1.0)
            while (op := writes.next(2.0)) is not None:
                assert op.wanted is not None
                told.append(op.wanted.status["status"])
                writes.done(op, 2.0)
        return told

    assert conditions(False, True) == ["True", "False"]
    assert conditions(True, False, True) == ["False"]
    ready = Actual({"status": "False", "reason": "SamepathIsReady"})
    assert conditions(False, True, had=ready) == [], "a restart touches nothing"
    tainted = Actual({"status": "True", "reason": "NoRouteCreated"})
    assert conditions(False, True, had=tainted) == ["False"]


def test_right_that_is_missing_is_tried_now_and_then_and_keeps_nothing_else() -> None:
    services = [(f"s{n}", "active") for n in range(100)]
    writes = StatusWrites("n", rate=2, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
    writes.want(wants("n", UP, services), 0.0)
    tries, sessions, now = 0, 0, 0.0
    while now < 600:
        op = writes.next(now)
        if op is None:
            now = max(writes.next_at(now), now + 0.001)
        elif op.what is What.READ:
            writes.was_read({}, {}, now)
        elif op.key is not None and op.key.kind is Kind.SERVICE:
            tries += 1
            writes.failed(op, Failure.REFUSED, "no right to create servicebgpstatuses", now)
        else:
            sessions += 1
            writes.done(op, now, op.wanted.status if op.wanted else None)
    assert sessions == 3
    assert tries <= 61
    assert writes.trouble == {Kind.SERVICE: "no right to create servicebgpstatuses"}


def test_kind_that_cannot_be_read_is_not_written() -> None:
    writes = StatusWrites("n", rate=2, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
    writes.want(wants("n", UP, [("web", "active")]), 0.0)
    writes.was_read({}, {Kind.SERVICE: "no such kind", Kind.NODE: "no right"}, 0.0)
    kinds = set()
    while (op := writes.next(1.0)) is not None:
        assert op.key is not None
        kinds.add(op.key.kind)
        writes.done(op, 1.0, op.wanted.status if op.wanted else None)
    assert kinds == {Kind.SESSION}
    op = writes.next(REFUSED_S)
    assert op is not None
    assert op.what is What.READ


def test_drain_does_not_wait_with_what_it_was_before() -> None:
    for seed in range(20):
        world = World(seed=seed)
        world.start("n")
        world.want("n", wants("n", []))
        world.run(60)
        world.want("n", wants("n", [], [("web", "active")]))
        world.run(60.1)
        world.want("n", wants("n", [], [("web", "draining")]))
        world.run(60.2 + SPREAD_S)
        assert world.matches("n", wants("n", [], [("web", "draining")]))


def test_node_that_has_not_registered_is_waited_for() -> None:
    writes = StatusWrites("n", rate=2, chance=lambda: 0.0, now=0.0, time_text=lambda: "t")
    writes.want(Desired({}, True), 0.0)
    writes.was_read({}, {}, 0.0)
    tries, now = 0, 0.0
    while now < 100:
        op = writes.next(now)
        if op is None:
            now = max(writes.next_at(now), now + 0.001)
            continue
        tries += 1
        writes.failed(op, Failure.GONE, "no Node n", now)
    assert 5 <= tries <= 11


def test_server_away_costs_nothing_but_time() -> None:
    writes = StatusWrites("n", rate=2, chance=lambda: 1.0, now=0.0, time_text=lambda: "t")
    writes.want(wants("n", UP), 0.0)
    tries, now = 0, 0.0
    while now < 3600:
        op = writes.next(now)
        if op is None:
            now = max(writes.next_at(now), now + 0.001)
            continue
        tries += 1
        writes.failed(op, Failure.AWAY, "away", now)
    assert tries <= 3600 / PAUSE_MOST_S + 10


names = st.sampled_from("abcd")
sessions = st.lists(
    st.tuples(names, st.booleans(), st.sampled_from(("t1", "t2"))), max_size=4,
    unique_by=lambda s: s[0],
)  # fmt: skip
services = st.lists(
    st.tuples(names, st.sampled_from(("active", "draining"))), max_size=4, unique_by=lambda s: s[0]
)
worlds = st.builds(lambda a, b: wants("n", a, b), sessions, services)
steps = st.one_of(
    st.tuples(st.just("want"), worlds),
    st.tuples(st.just("pass"), st.floats(0.1, 30)),
    st.tuples(st.just("fail"), st.sampled_from(list(Failure))),
    st.tuples(st.just("vanish"), st.integers(0, 7)),
    st.tuples(st.just("restart"), worlds),
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=30), worlds, st.booleans())
def test_in_the_end_the_server_has_what_is_desired(
    history: list[tuple[str, object]], last: Desired, has_subresource: bool
) -> None:
    """Whatever failed, vanished or was restarted; and faults cost no more writes than the rate."""
    world = one(what=last)
    world.server.has_status_subresource = has_subresource
    for what, value in history:
        agent = world.agents["n"]
        match what, value:
            case "want", Desired() as desired:
                world.want("n", desired)
            case "pass", float() as seconds:
                world.run(world.now + seconds)
            case "fail", Failure() as failure:
                op = agent.next(world.now)
                if op is not None and (op.key is not None or failure is Failure.AWAY):
                    agent.failed(op, failure, "fault", world.now)
                elif op is not None:
                    world.server.answer("n", agent, op, world.now)
            case "vanish", int() as number if objects := world.server.of.get("n"):
                keys = sorted(objects, key=lambda k: (k.kind.value, k.name))
                del objects[keys[number % len(keys)]]
            case "restart", Desired() as desired:
                world.start("n")
                world.want("n", desired)
    world.want("n", last)
    # What vanished unseen is missed when everything is read again.
    world.run(world.now + 2000)
    assert world.matches("n", last)
    assert world.agents["n"].is_settled
    settled = total(world)
    world.run(world.now + 600)
    assert total(world) == settled


NODES = 1000


def test_thousand_nodes_restarted_one_after_the_other() -> None:
    """Ten at a time, 60 s each. Of 5,000 services with policy Local and three endpoints each, every
    node has fifteen, which drain before it ends and are back when it is."""
    world = World()
    clock = count()

    def state(node: int, drains: bool = False) -> Desired:
        since = f"t{next(clock)}"
        told = "draining" if drains else "active"
        return wants(
            f"n{node}",
            [("gw1", True, since), ("gw2", True, since)],
            [(f"s{node}-{k}", told) for k in range(15)],
        )

    for node in range(NODES):
        world.start(f"n{node}")
        world.want(f"n{node}", state(node))
    world.run(120)
    peak, first = max(world.server.writes.values()), total(world)
    print(f"all nodes at once, nothing there as yet: {first} writes, peak {peak}/s")
    assert first == NODES * (2 * 17 + 1)
    assert peak <= NODES * (2 + FIRST / SPREAD_S), "their rate, and what each may write at first"
    world.server.writes.clear()
    for begin in range(0, NODES, 10):
        batch = range(begin, begin + 10)
        for node in batch:
            world.want(f"n{node}", state(node, drains=True))
        world.run(world.now + 30)
        for node in batch:
            world.stop(f"n{node}")
        world.run(world.now + 30)
        for node in batch:
            world.start(f"n{node}")
            world.want(f"n{node}", state(node))
    world.run(world.now + 60)
    peak, seconds = max(world.server.writes.values()), 60 * NODES / 10
    print(f"rolling restart: {total(world)} writes, {total(world) / seconds:.1f}/s, peak {peak}/s")
    assert peak <= 10 * BURST * 2, "no more than those that are restarted just now"
    assert total(world) <= NODES * (15 + 2) * 2 + NODES * 2


@pytest.mark.parametrize("away_s", [2.0, 60.0])
def test_gateway_that_restarts_has_a_thousand_nodes_write_but_not_at_once(away_s: float) -> None:
    world = World()
    for node in range(NODES):
        world.start(f"n{node}")
        world.want(f"n{node}", wants(f"n{node}", UP))
    world.run(60)
    world.server.writes.clear()
    for node in range(NODES):
        world.want(f"n{node}", wants(f"n{node}", DOWN_1))
    world.run(world.now + away_s)
    for node in range(NODES):
        world.want(f"n{node}", wants(f"n{node}", [("gw1", True, "later"), UP[1]]))
    world.run(world.now + 60)
    peak = max(world.server.writes.values())
    print(f"gateway away {away_s:.0f} s: {total(world)} writes, peak {peak}/s")
    assert peak <= 1.5 * NODES / SPREAD_S
    assert total(world) <= 2 * NODES
    if away_s < SPREAD_S:
        assert total(world) < 1.6 * NODES, "many had nothing written in between"

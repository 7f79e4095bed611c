"""The writing of Services' states: never an address twice, whatever is late, lost or killed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepath.kube.api import ApiError
from samepath.model.kinds import IPAddressPool, Range
from samepath.model.net import address_text, parse_address
from samepath.plan.allocation import Situation, allocate
from samepath.plan.allocation_rules import Outcome, Why
from samepath.programs.controller_services import (
    CONDITION,
    NotLeading,
    ServiceStates,
    state_of,
)
from tests.programs.controller_world import Server, Watch

POOL = IPAddressPool(
    name="a", addresses=(Range(parse_address("192.0.2.1"), parse_address("192.0.2.4")),)
)


class Controller:
    """As `programs.controller` does it, one pass at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.watch = Watch(server)
        self.leads = False
        api: Any = server
        self.states = ServiceStates(api, lambda: self.leads)
        self.prepared = False

    async def step(self, *, now: float = 0.0) -> int:
        """How many were to be written."""
        if not self.leads:
            if self.prepared:
                self.states.forget()
            self.prepared = False
            return 0
        try:
            if self.prepared and self.states.is_ahead and self.server.random.random() < 0.1:
                await self.states.read_all()
            if not self.prepared:
                self.states.forget()
                await self.states.read_all()
                self.prepared = True
        except ApiError:
            return 1
        known = self.states.known(self.watch.services())
        plan = allocate(Situation(known, {"a": POOL}))
        dirty = self.states.dirty(known, plan.outcomes, now)
        await self.states.write_all(dirty, 1, now)
        return len(dirty)


def addresses(server: Server) -> list[str]:
    return [
        ingress["ip"]
        for body in server.services.values()
        for ingress in body.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    ]


@settings(max_examples=100, deadline=None)
@given(st.integers(), st.integers(1, 3))
def test_never_an_address_twice(seed: int, controllers: int) -> None:
    chance = random.Random(seed)
    server = Server(chance, trouble=0.3)

    def check() -> None:
        found = addresses(server)
        assert len(set(found)) == len(found), found

    server.changed = check
    asyncio.run(_history(server, [Controller(server) for _ in range(controllers)], chance))


async def _history(server: Server, controllers: list[Controller], chance: random.Random) -> None:
    leader = controllers[0]
    leader.leads = True
    now = 0.0
    for _ in range(120):
        now += 100.0
        _people(server, chance)
        if chance.random() < 0.15:
            server.arrive()
        for one in controllers:
            if chance.random() < 0.5:
                one.watch.advance()
        if chance.random() < 0.05:
            leader.leads = False
            await leader.step()
            # A request of the former leader arrives within the time that the Lease leaves for it.
            while server.late:
                server.arrive()
            leader = chance.choice(controllers)
            leader.leads, leader.prepared = True, False
        await leader.step(now=now)
    server.trouble = 0.0
    while server.late:
        server.arrive()
    for _ in range(12):
        now += 100.0
        leader.watch.advance(to_the_end=True)
        await leader.states.read_all()
        if not await leader.step(now=now) and leader.prepared:
            break
    else:
        raise AssertionError("it does not come to rest")
    for outcome in allocate(Situation(server.parsed(), {"a": POOL})).outcomes.values():
        assert outcome.why in (Why.ASSIGNED, Why.TAKEN, Why.EXHAUSTED, Why.NOT_LOAD_BALANCER)
        assert outcome.why is not Why.EXHAUSTED or len(addresses(server)) == 4


def _people(server: Server, chance: random.Random) -> None:
    name = chance.choice("abcdef")
    match chance.randrange(12):
        case 0 | 1:
            server.put(name)
        case 2:
            server.put(name, annotations={"samepath.dev/load-balancer-ips": "192.0.2.2"})
        case 3:
            server.put(name, annotations={"samepath.dev/load-balancer-ips": ""})
        case 4:
            server.put(name, type="ClusterIP")
        case 5:
            server.delete(name)


def one_service(**spec: Any) -> tuple[Server, Controller]:
    server = Server(random.Random(0))
    server.put("web", **spec)
    controller = Controller(server)
    controller.leads = True
    controller.watch.advance(to_the_end=True)
    return server, controller


def test_what_is_written() -> None:
    server, controller = one_service()
    body = server.services["default/web"]
    body["status"] = {"conditions": [{"type": "theirs", "status": "True"}], "other": 1}
    asyncio.run(controller.step())
    body = server.services["default/web"]
    assert body["metadata"]["annotations"] == {"samepath.dev/ip-allocated-from-pool": "a"}
    assert body["status"]["loadBalancer"] == {"ingress": [{"ip": "192.0.2.1"}]}
    assert body["status"]["other"] == 1
    theirs, ours = body["status"]["conditions"]
    assert theirs["type"] == "theirs"
    since = ours.pop("lastTransitionTime")
    assert ours == {
        "type": CONDITION,
        "status": "True",
        "reason": "Assigned",
        "message": "192.0.2.1 from a",
    }
    assert since.endswith("Z")


def test_written_once() -> None:
    server, controller = one_service()
    asyncio.run(controller.step())
    writes = server.writes
    asyncio.run(controller.step())
    assert server.writes == writes, "the watch is late"
    controller.watch.advance(to_the_end=True)
    asyncio.run(controller.step())
    assert server.writes == writes, "the watch has it"
    again = Controller(server)
    again.leads = True
    again.watch.advance(to_the_end=True)
    asyncio.run(again.step())
    assert server.writes == writes, "another controller has nothing to do"


def test_taken_back_with_everything_that_is_ours() -> None:
    server, controller = one_service()
    asyncio.run(controller.step())
    server.put("web", type="ClusterIP")
    controller.watch.advance(to_the_end=True)
    asyncio.run(controller.step())
    body = server.services["default/web"]
    assert body["metadata"]["annotations"] == {}
    assert body["status"] == {"loadBalancer": {}}


def test_only_what_is_ours_is_taken_back() -> None:
    server, controller = one_service(type="ClusterIP")
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.3"}]}}
    server.services["default/web"]["status"] = status
    controller.watch.advance(to_the_end=True)
    assert asyncio.run(controller.step()) == 0
    assert server.services["default/web"]["status"] == status


def test_a_conflict_writes_nothing_over_what_others_wrote() -> None:
    server, controller = one_service()
    server.put("web", ports=[{"port": 81}])
    asyncio.run(controller.step())
    # Prepared by reading all: so it is known although the watch is late.
    assert addresses(server) == ["192.0.2.1"]
    server.put("other")
    controller.watch.advance(to_the_end=True)
    server.put("other", ports=[{"port": 82}])
    asyncio.run(controller.step())
    assert "status" not in server.services["default/other"] or len(addresses(server)) == 1
    [failure] = controller.states.failures.values()
    assert "modified" in failure.text or "changed" in failure.text
    controller.watch.advance(to_the_end=True)
    assert asyncio.run(controller.step(now=0.1)) == 0, "it waits"
    asyncio.run(controller.step(now=failure.again_at))
    assert addresses(server) == ["192.0.2.1", "192.0.2.2"]
    assert not controller.states.failures


def test_a_write_on_its_way_is_overtaken() -> None:
    """Everything stands as it should, but not for long, unless the version goes."""
    server, controller = one_service(annotations={"samepath.dev/load-balancer-ips": "192.0.2.2"})
    asyncio.run(controller.step())
    server.put("web", annotations={"samepath.dev/load-balancer-ips": "192.0.2.3"})
    controller.watch.advance(to_the_end=True)
    [service] = controller.states.known(controller.watch.services()).values()
    states = [
        state_of(service, Outcome(Why.ASSIGNED, (parse_address(f"192.0.2.{n}"),), ("a",)))
        for n in (3, 2)
    ]
    server.trouble, server.way = 1.0, 4
    assert asyncio.run(controller.states.write(service, states[0])) is not None
    assert len(server.late) == 1
    server.trouble = 0.0
    [service] = controller.states.known(controller.watch.services()).values()
    assert asyncio.run(controller.states.write(service, states[1])) is None
    server.arrive()
    assert addresses(server) == ["192.0.2.2"]
    assert "samepath.dev/fence" not in server.services["default/web"]["metadata"]["annotations"]


def test_nothing_is_written_by_who_does_not_lead() -> None:
    server, controller = one_service()
    controller.leads = False
    service = server.parsed()["default/web"]
    outcome = Outcome(Why.ASSIGNED, (parse_address("192.0.2.1"),), ("a",))
    with pytest.raises(NotLeading):
        asyncio.run(controller.states.write_all([(service, state_of(service, outcome))], 8, 0.0))
    assert server.writes == 0


def test_a_new_leader_reads_past_its_watch() -> None:
    """What its predecessor has given a moment ago it does not give once more."""
    server, second = one_service()
    server.put("newer")
    first = Controller(server)
    first.leads = True
    only_newer = server.parsed()
    del only_newer["default/web"]
    plan = allocate(Situation(only_newer, {"a": POOL}))
    dirty = first.states.dirty(only_newer, plan.outcomes, 0.0)
    asyncio.run(first.states.write_all(dirty, 1, 0.0))
    assert addresses(server) == ["192.0.2.1"]
    assert second.watch.services().keys() == {"default/web"}
    asyncio.run(second.step())
    assert sorted(addresses(server)) == ["192.0.2.1", "192.0.2.2"]


def test_an_error_of_the_server_may_hide_a_success() -> None:
    server, controller = one_service()
    server.put("older")
    older = server.services["default/older"]["metadata"]
    older["creationTimestamp"] = "2020-01-01T00:00:00Z"
    seen = controller.watch.services()
    assert seen.keys() == {"default/web"}
    server.trouble, server.way = 1.0, 2
    plan = allocate(Situation(seen, {"a": POOL}))
    for now in (0.0, 100.0):  # the annotation, and status
        known = controller.states.known(seen)
        dirty = controller.states.dirty(known, plan.outcomes, now)
        asyncio.run(controller.states.write_all(dirty, 1, now))
    server.trouble = 0.0
    controller.watch.at += 1
    known = controller.states.known(controller.watch.services())
    assert known.keys() == {"default/web", "default/older"}
    plan = allocate(Situation(known, {"a": POOL}))
    texts = [address_text(a) for a in plan.outcomes["default/older"].addresses]
    assert texts == ["192.0.2.2"]

"""What the controller tells of itself, and what `samepath status` makes of it; its Events and the
pools' states."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from samepath.cli import status_controller
from samepath.kube.api import ApiError
from samepath.kube.resources import IP_ADDRESS_POOLS, SERVICES
from samepath.model.cluster import Allocation, Object, Request, Service
from samepath.model.config import ControllerConfig
from samepath.model.kinds import BlockClaim, IPAddressPool, Range
from samepath.model.net import Family, make_nlri, parse_address
from samepath.plan.allocation_rules import PoolUse
from samepath.plan.dead_nodes import Missing
from samepath.programs.config import load
from samepath.programs.controller import Controller
from samepath.programs.controller_events import BURST, WAITING, About, Events
from samepath.programs.controller_pools import CONDITION, PAUSE_S, PoolStates
from samepath.programs.controller_view import readiness, status


def pool(name: str, first: str, last: str) -> IPAddressPool:
    return IPAddressPool(name=name, addresses=(Range(parse_address(first), parse_address(last)),))


def service(name: str, *held: str, **more: Any) -> Service:
    return Service(
        "default",
        name,
        load_balancer=True,
        load_balancer_ips=tuple(map(parse_address, held)),
        allocation=Allocation(("a",), "Assigned", f"{held[0]} from a") if held else Allocation(),
        request=Request(families=(Family.IPV4,)),
        **more,
    )


def a_controller(*things: Object) -> Controller:
    objects = {str(n): thing for n, thing in enumerate(things)}
    source: Any = SimpleNamespace(
        where="https://api", in_sync=True, objects=objects, refusals=(), trouble=None
    )
    api: Any = SimpleNamespace()
    return Controller(ControllerConfig(), api, source)


def shown(answer: dict[str, Any], everything: bool = False) -> str:
    out = Console(file=io.StringIO(), width=150, highlight=False)
    status_controller.show(out, answer, everything)
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


CLAIM = BlockClaim(
    name="10-0-0-0-26", family=Family.IPV4, cidr=make_nlri(bytes((10, 0, 0, 0)), 26),
    node="gone", pending=True,
)  # fmt: skip


def test_what_people_see() -> None:
    made = a_controller(
        pool("a", "192.0.2.1", "192.0.2.2"),
        pool("b", "192.0.2.2", "192.0.2.9"),
        service("one", "192.0.2.1"),
        service("two", "192.0.2.2", created="2"),
        service("three", created="3"),
        service("old", "203.0.113.9"),
        CLAIM,
    )
    made.dead_nodes.missing = Missing(since={"gone": 0.0})
    text = shown(status(made, {}))
    assert "waits: nobody leads" in text
    assert "services of type LoadBalancer: 4, 3 have their addresses, 2 not yet written" in text
    assert "no IPv4 address is free" in text
    assert "refused: overlaps a" in text
    (row,) = (line for line in text.splitlines() if "default/three" in line)
    assert "none" in row
    assert "203.0.113.9 is kept, but no IPAddressPool has it any more" in text
    assert "default/one" not in text
    assert "1 claims are not confirmed as yet: 10-0-0-0-26" in text
    everything = shown(status(made, {"all": True}), everything=True)
    assert "default/one" in everything
    assert readiness(made) == {"ready": True, "live": True, "why": ""}


def test_not_in_sync() -> None:
    made = a_controller()
    made.source.in_sync = False  # type: ignore[misc]
    made.source.trouble = "services: list refused"  # type: ignore[misc]
    text = shown(status(made, {}))
    assert "not in sync: API server" in text
    assert "services: list refused" in text
    assert readiness(made)["why"] == "not in sync: services: list refused"


@pytest.mark.parametrize("text", ["", "election: {retry_s: 20}", "dead_node_grace_s: 0", "x: 1"])
def test_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "controller.yaml"
    path.write_text("default_class: false\n" + text)
    if text:
        with pytest.raises(ValueError, match=text.partition(":")[0]):
            load(str(path), ControllerConfig)
    else:
        config = load(str(path), ControllerConfig)
        assert (config.default_class, config.election.duration_s) == (False, 15)


class Said:
    """The API server, as far as Events and pools need it."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.patched: list[tuple[str, dict[str, Any]]] = []
        self.stands: list[dict[str, Any]] = []
        self.fails: ApiError | None = None

    async def create(self, _resource: Any, body: dict[str, Any], _namespace: str) -> Any:
        if self.fails:
            raise self.fails
        self.created.append(body)

    async def patch(self, _resource: Any, name: str, patch: Any, *_: Any, **__: Any) -> Any:
        if self.fails:
            raise self.fails
        self.patched.append((name, patch))

    async def list(self, _resource: Any) -> Any:
        return self.stands, "1"


def events(said: Said, per_s: float = 1000.0) -> Events:
    api: Any = said
    return Events(api, "c1", per_s)


WEB = About(SERVICES, "web", "shop", "u1")


def test_the_same_event_counts_up() -> None:
    said = Said()

    async def run() -> None:
        made = events(said)
        for message in ("one", "one", "two"):
            made.say(WEB, "Warning", "Exhausted", message)
        made.say(About(IP_ADDRESS_POOLS, "a"), "Warning", "PoolRefused", "x" * 5000)
        await made.flush(5.0)

    asyncio.run(run())
    assert [b["message"] for b in said.created[:2]] == ["one", "two"]
    assert said.created[0]["involvedObject"] == {
        "apiVersion": "v1", "kind": "Service", "name": "web", "namespace": "shop", "uid": "u1",
    }  # fmt: skip
    assert said.created[0]["metadata"]["namespace"] == "shop"
    assert said.created[2]["metadata"]["namespace"] == "default"
    assert len(said.created[2]["message"]) == 1024
    [(name, patch)] = said.patched
    assert name == said.created[0]["metadata"]["name"]
    assert patch["count"] == 2


def test_a_storm_of_events_is_cut() -> None:
    said = Said()

    async def run() -> Events:
        made = events(said, per_s=0.001)
        for n in range(WAITING + 7):
            made.say(WEB, "Normal", "AddressAssigned", str(n))
        task = asyncio.create_task(made.run())
        for _ in range(500):
            await asyncio.sleep(0)
        task.cancel()
        return made

    made = asyncio.run(run())
    assert len(said.created) == BURST
    assert made.left_out == 7


def test_events_that_cannot_be_written_are_counted() -> None:
    said = Said()
    said.fails = ApiError(403, "Forbidden", "events: create refused")

    async def run() -> Events:
        made = events(said)
        made.say(WEB, "Normal", "x", "y")
        task = asyncio.create_task(made.run())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        return made

    made = asyncio.run(run())
    assert (made.failed, made.trouble) == (1, "events: create refused")


USE = PoolUse("", {Family.IPV4: 1, Family.IPV6: 0}, {Family.IPV4: 2, Family.IPV6: 1 << 70})


def test_states_of_pools() -> None:
    said = Said()
    api: Any = said
    leads = [True]
    made = PoolStates(api, lambda: leads[0])

    async def run() -> None:
        said.stands = [{"metadata": {"name": "a", "uid": "ua"}}]
        await made.read_all(0.0)
        assert await made.write({"a": USE}, 0.0) == ([], float("inf"))
        [(_, patch)] = said.patched
        status = patch["status"]
        assert (status["assignedIPv4"], status["availableIPv6"]) == (1, (1 << 63) - 1)
        assert status["conditions"][0]["type"] == CONDITION
        await made.write({"a": USE}, 5.0)
        assert len(said.patched) == 1, "it stands"
        # Another controller finds it as it is.
        said.stands = [{"metadata": {"name": "a"}, "status": status}]
        other = PoolStates(api, lambda: True)
        await other.read_all(0.0)
        await other.write({"a": USE}, 0.0)
        assert len(said.patched) == 1
        # Refused: news, once; and not more often than it may.
        refused = PoolUse("b")
        assert await made.write({"a": refused}, 5.0) == (["a"], float("inf"))
        _, again_at = await made.write({"a": USE}, 5.5)
        assert again_at == 5.0 + PAUSE_S
        said.fails = ApiError(403, "Forbidden", "no")
        await made.write({"a": USE}, 7.0)
        assert made.errors == {"a": "no"}
        said.fails = None
        _, again_at = await made.write({"a": USE}, 7.0 + PAUSE_S)
        assert again_at > 7.0 + PAUSE_S, "what failed waits"
        await made.write({"a": USE}, 30.0)
        assert not made.errors
        # Another leads by now.
        before, leads[0] = len(said.patched), False
        await made.write({"a": refused}, 60.0)
        assert len(said.patched) == before

    asyncio.run(run())

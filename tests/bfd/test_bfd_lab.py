"""BFD in the lab: agents, gateways, held connections; a node that falls silent on a live link."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from samepath.lab import observe, render
from samepath.lab.removal import down
from samepath.lab.running import Lab
from samepath.lab.steps import list_node
from samepath.lab.topology import SERVICE_ADDRESSES, SERVICE_PORT, Spec
from samepath.lab.traffic import Traffic

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.timeout(360)]

SPEC = Spec(clients=1, gateways=2, nodes=3, spares=0, pods_per_node=1, hold_time_s=90)
GATEWAYS = ("gw1", "gw2")
NODES = ("n1", "n2", "n3")
DETECTION_S = 0.9
SLACK_S = 1.1
"""The gateway writes its tables, and the test reads them, on a machine that does much else."""


def with_bfd(render: Callable[..., str]) -> Callable[..., str]:
    """The lab's configurations, in which the sessions between gateways and nodes have BFD."""

    def rendered(*arguments: Any) -> str:
        config = yaml.safe_load(render(*arguments))
        config["bfd_profiles"] = {"usual": {}}
        for neighbor in config["neighbors"]:
            if neighbor["remote_as"] == config["as"]:
                neighbor["bfd"] = "usual"
        return yaml.safe_dump(config)

    return rendered


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    name = f"spt-{os.getpid()}-b"
    monkeypatch.setattr(render, "gateway_config", with_bfd(render.gateway_config))
    monkeypatch.setattr(render, "agent_config", with_bfd(render.agent_config))
    try:
        made = Lab.up(name, SPEC)
        wait(lambda: all(owners(made, g) == set(NODES) for g in GATEWAYS), "tables", 60)
        wait(lambda: all(bfd_up(made, g, "gateway", 3) for g in GATEWAYS), "BFD", 20)
        wait(lambda: all(bfd_up(made, n, "agent", 2) for n in NODES), "BFD", 20)
        yield made
    finally:
        down(name)


def wait(condition: Callable[[], object], what: str, limit_s: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


def owners(lab: Lab, gateway: str) -> set[str]:
    """Nodes that own buckets, in any family."""
    (table,) = observe.tables(lab, [gateway]).values()
    return {node for one in table.values() for node in one.nodes}


def peers(lab: Lab, host: str, program: str) -> list[dict[str, Any]]:
    status = observe.status(lab, host, program)
    return (
        [p for p in status["peers"] if p["bfd"] and p["bfd"]["state"] != "Idle"] if status else []
    )


def bfd_up(lab: Lab, host: str, program: str, count: int) -> bool:
    known = peers(lab, host, program)
    return len(known) == count and all(p["bfd"]["state"] == "Up" for p in known)


def held(lab: Lab, traffic: Traffic) -> None:
    targets = [(address, SERVICE_PORT) for address in SERVICE_ADDRESSES]
    wait(lambda: not traffic.probe(20, targets).failed, "the service", 30)
    traffic.take()
    opened = traffic.open(300, targets)
    assert not opened.failed
    traffic.busy(0.5)


def test_a_node_that_falls_silent_loses_its_flows_and_nobody_else_does(lab: Lab) -> None:
    traffic = lab.traffic(200)
    try:
        held(lab, traffic)
        fabric = lab.host("fabric")
        fabric.run("bridge", "link", "set", "dev", "n2", "state", "0")
        began = time.monotonic()
        for gateway in GATEWAYS:
            wait(lambda g=gateway: owners(lab, g) == {"n1", "n3"}, "its buckets moved", 10)  # type: ignore[misc]
        took = time.monotonic() - began
        print(f"all buckets of the silent node had moved after {took:.2f} s")
        assert took <= DETECTION_S + SLACK_S
        assert "LOWER_UP" in fabric.ip("link", "show", "dev", "n2")
        list_node(lab, "n2", None)
        targets = [(address, SERVICE_PORT) for address in SERVICE_ADDRESSES]
        assert not traffic.probe(60, targets).failed, "new connections go to the others"
        time.sleep(3)  # several periods of every held connection
        taken = traffic.take()
        assert {broken.pod.split("-")[1] for broken in taken.broken} <= {"n2"}
        assert taken.live > 100
        for gateway in GATEWAYS:
            (lost,) = (
                p for p in observe.status(lab, gateway, "gateway")["peers"]  # type: ignore[index]
                if p["bfd"] and p["bfd"]["state"] != "Up"
            )  # fmt: skip
            assert lost["last_error"] == ("BFD is down: nothing was heard for the detection time")
            assert lost["stale_for_s"] is None
    finally:
        traffic.end()


def test_a_gateway_killed_and_back_and_its_neighbours_bfd_stays_up(lab: Lab) -> None:
    traffic = lab.traffic(200)
    try:
        held(lab, traffic)
        pid = observe.status(lab, "gw1", "gateway")["bfd"]["pid"]  # type: ignore[index]
        lab.stop("gw1", "gateway", signal.SIGKILL)
        time.sleep(2.5)  # more than twice the detection time
        for node in NODES:
            assert bfd_up(lab, node, "agent", 2)
        lab.start_gateway("gw1")
        wait(lambda: bfd_up(lab, "gw1", "gateway", 3), "taken over", 20)
        log = lab.log("gw1", "gateway").read_text()
        assert observe.status(lab, "gw1", "gateway")["bfd"]["pid"] == pid, log  # type: ignore[index]
        wait(
            lambda: all(p["state"] == "Established" for p in peers(lab, "gw1", "gateway")),
            "its sessions", 20,
        )  # fmt: skip
        time.sleep(1)
        assert traffic.take().broken == ()
        for node in NODES:
            assert bfd_up(lab, node, "agent", 2)
            assert all(p["bfd"]["losses"] == 0 for p in peers(lab, node, "agent"))
        assert owners(lab, "gw1") == set(NODES)
    finally:
        traffic.end()


def test_an_agent_that_says_goodbye_and_one_that_will_be_back(lab: Lab) -> None:
    """SIGTERM: it will be back, and its BFD goes on. SIGINT: both end, and that is no loss."""
    lab.stop("n1", "agent", signal.SIGTERM)
    time.sleep(1.5)  # longer than the detection time
    for gateway in GATEWAYS:
        assert bfd_up(lab, gateway, "gateway", 3)
        assert owners(lab, gateway) == set(NODES)
    lab.start_agent("n1")
    wait(lambda: bfd_up(lab, "n1", "agent", 2), "taken over", 20)
    lab.stop("n3", "agent", signal.SIGINT)
    for gateway in GATEWAYS:
        wait(lambda g=gateway: owners(lab, g) == {"n1", "n2"}, "its buckets moved", 10)  # type: ignore[misc]
        wait(lambda g=gateway: bfd_up(lab, g, "gateway", 2), "its session gone", 10)  # type: ignore[misc]

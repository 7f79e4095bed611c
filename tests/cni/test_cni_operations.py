"""ADD, DEL, CHECK, GC and STATUS, on a node of its own with real namespaces."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cni_stage import Stage, within

from samepath.cni.attachment import State, alias_of, host_link_name
from samepath.cni.wiring import HOST_MAC

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made, within(made.node):
        made.open()
        yield made


def addresses_of(answer: dict[str, Any]) -> list[str]:
    return [ip["address"] for ip in answer["ips"]]


# -- ADD


def test_add_tells_all_that_it_made(stage: Stage) -> None:
    answer = stage.ask("ADD", "one", dns={"nameservers": ["10.96.0.10"]})
    host, pod = answer["interfaces"]
    assert host["name"] == host_link_name(("one", "eth0"))
    assert (host["mac"], host["mtu"], "sandbox" in host) == (HOST_MAC.hex(":"), 1500, False)
    assert (pod["name"], pod["sandbox"]) == ("eth0", str(stage.pod("one").path))
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in answer["ips"]] == [
        ("10.244.1.1/32", "169.254.1.1", 1),
        ("fd10:1::1/128", "fe80::ecee:eeff:feee:eeee", 1),
    ]
    assert answer["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
    ]
    assert answer["dns"] == {"nameservers": ["10.96.0.10"]}
    (link,) = json.loads(stage.node.ip("-j", "link", "show", "dev", host["name"]))
    assert link["ifalias"] == alias_of(("one", "eth0"), "pods")
    assert stage.store.get(("one", "eth0")).state is State.WIRED


def test_pods_reach_each_other_at_once(stage: Stage) -> None:
    stage.ask("ADD", "server")
    listeners = []
    with within(stage.pod("server")):
        for family in (socket.AF_INET, socket.AF_INET6):
            listeners.append(socket.create_server(("", 8080), family=family, backlog=512))
    try:
        for number in range(30):
            name = f"c{number}"
            stage.ask("ADD", name)
            with within(stage.pod(name)):
                for address in ("10.244.1.1", "fd10:1::1"):
                    socket.create_connection((address, 8080), timeout=0.5).close()
    finally:
        for listener in listeners:
            listener.close()

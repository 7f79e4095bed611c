"""What an agent tells the API server of its node: sessions, services, readiness; and how often."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_site import KubeStage
from agent_stage import HOST, VIP, VIP6, Router, bgp_peer, node, ours, pool, service, slices, until

from samepath.lab.api_server import ApiServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

SESSION = "n1-10-83-0-1"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[KubeStage]:
    with ApiServer().in_thread() as server:
        made = KubeStage(tmp_path, server)
        try:
            made.up()
            yield made
        finally:
            print(made.log()[-4000:])
            made.down()


@pytest.fixture
def router(stage: KubeStage) -> Router:
    return stage.router()


def start(stage: KubeStage, router: Router) -> None:
    stage.put(node(), service(), *slices(), bgp_peer(), pool(),
              ours("BGPAdvertisement", "all"))  # fmt: skip
    stage.configure()
    stage.start()
    until(lambda: HOST in router.told())


def found(stage: KubeStage, plural: str, name: str, namespace: str = "") -> dict[str, Any]:
    """Its status; empty: there is none."""
    for item in stage.server.list(plural, namespace):
        if item["metadata"]["name"] == name:
            status: dict[str, Any] = item.get("status") or {}
            return status
    return {}


def session(stage: KubeStage) -> str:
    return str(found(stage, "bgpsessionstates", SESSION).get("bgpStatus", ""))


def served(stage: KubeStage) -> dict[str, Any]:
    return found(stage, "servicebgpstatuses", "web-n1", "default")


def condition(stage: KubeStage) -> tuple[str, str]:
    for one in stage.server.get("nodes", "n1").get("status", {}).get("conditions", ()):
        if one["type"] == "NetworkUnavailable":
            return one["status"], one["reason"]
    return "", ""


def versions(stage: KubeStage) -> list[str]:
    """Of all that the agent writes."""
    items = [
        *stage.server.list("bgpsessionstates"),
        *stage.server.list("servicebgpstatuses", "default"),
        stage.server.get("nodes", "n1"),
    ]
    return [item["metadata"]["resourceVersion"] for item in items]


def everything_told(stage: KubeStage) -> bool:
    return (
        session(stage) == "Established"
        and served(stage).get("state") == "active"
        and condition(stage) == ("False", "SamepathIsReady")
    )


def test_node_sessions_and_services_are_told_and_follow(stage: KubeStage, router: Router) -> None:
    start(stage, router)
    until(lambda: everything_told(stage), 60)
    assert served(stage) == {
        "node": "n1", "serviceName": "web", "serviceNamespace": "default", "state": "active",
        "reason": "ready endpoints", "addresses": [VIP, VIP6], "peers": ["gw1"],
    }  # fmt: skip
    told = found(stage, "bgpsessionstates", SESSION)
    assert (told["node"], told["peer"], told["localASN"], told["peerASN"]) == (
        "n1", "10.83.0.1", 64512, 64513
    )  # fmt: skip
    (item,) = stage.server.list("bgpsessionstates")
    (owner,) = item["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Node", "n1")
    assert owner["uid"] == stage.server.get("nodes", "n1")["metadata"]["uid"]
    stage.put(*slices("S"))
    # A drain without flows is soon over, and then nothing is told any more.
    until(lambda: served(stage).get("state") != "active", 60)
    stage.put(*slices(""))
    until(lambda: served(stage) == {}, 60)
    router.stop()
    until(lambda: session(stage) == "Down", 60)


def test_nothing_is_written_while_nothing_changes_nor_by_a_restart(
    stage: KubeStage, router: Router
) -> None:
    start(stage, router)
    until(lambda: everything_told(stage), 60)
    until(lambda: stage.status()["told_states"]["waiting"] == 0)
    before = versions(stage)
    time.sleep(8)  # the rest itself is what is looked at
    assert versions(stage) == before
    since = found(stage, "bgpsessionstates", SESSION)["since"]
    stage.kill()
    stage.start()
    until(lambda: found(stage, "bgpsessionstates", SESSION)["since"] != since, 60)
    until(lambda: stage.status()["told_states"]["waiting"] == 0)
    assert stage.status()["told_states"]["written"] == 1, "its session is another one"
    assert condition(stage) == ("False", "SamepathIsReady")


def test_rights_that_are_missing_and_a_server_away_cost_only_the_states(
    stage: KubeStage, router: Router
) -> None:
    for plural in ("servicebgpstatuses", "bgpsessionstates"):
        stage.server.delete("customresourcedefinitions", f"{plural}.samepath.dev")
    start(stage, router)
    trouble = until(lambda: stage.status()["told_states"]["trouble"])
    assert set(trouble) <= {"BGPSessionState", "ServiceBGPStatus"}
    until(lambda: condition(stage) == ("False", "SamepathIsReady"), 30)
    stage.server.refuse()
    assert HOST in router.told()
    assert stage.status()["errors"] == {}
    stage.server.accept()

"""What somebody deletes by mistake, while an agent runs, ends no session and withdraws nothing."""

from __future__ import annotations

import time

import pytest
from agent_site import KubeStage
from agent_stage import (
    HOST,
    HOST6,
    Router,
    bgp_peer,
    node,
    ours,
    pool,
    service,
    slices,
    until,
)

from samepath.kube.crds import KINDS, definition

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]

BLOCK = "10.244.1.0/24"
TOLD = (bgp_peer(), pool(), ours("BGPAdvertisement", "all"))


@pytest.fixture
def router(stage: KubeStage) -> Router:
    router = stage.router()
    stage.put(node(), service(), *slices(), *TOLD)
    stage.configure()
    stage.start()
    until(lambda: router.told().keys() >= {HOST, HOST6, BLOCK})
    until(lambda: stage.ask("ready")["ready"])
    return router


def stood(router: Router, seen: int) -> bool:
    return all(rib.keys() >= {HOST, HOST6, BLOCK} for _, rib in router.ask("history")[seen:])


def test_our_node_is_deleted(stage: KubeStage, router: Router) -> None:
    seen = len(router.ask("history"))
    stage.delete("nodes", "n1")
    until(lambda: stage.status()["manifests"]["gone_nodes"] == ["n1"])
    stage.put(*slices("RR"))
    until(lambda: router.told()[HOST]["weight"] == 2)
    assert stage.whys() == {"default/web": "ACTIVE"}
    stage.put(node("n1"))
    until(lambda: stage.status()["manifests"]["gone_nodes"] == [])
    assert stood(router, seen)
    assert router.peer()["flaps"] == 0


def test_our_kinds_are_deleted_and_made_again(stage: KubeStage, router: Router) -> None:
    """As a server does it: the objects first, like any others, and then the kind."""
    seen = len(router.ask("history"))
    for plural, name in (("bgppeers", "gw1"), ("bgpadvertisements", "all"),
                         ("ipaddresspools", "main")):  # fmt: skip
        stage.delete(plural, name)
    stage.server.break_watches()
    for plural in ("bgppeers", "bgpadvertisements", "ipaddresspools"):
        stage.delete("customresourcedefinitions", f"{plural}.samepath.dev")
    refused = until(
        lambda: [
            r["text"]
            for r in stage.status()["manifests"]["refused"]
            if "not installed any more" in r["text"]
        ],
        30,
    )
    assert all("gw1" in text or "all" in text or "main" in text for text in refused)
    time.sleep(20)  # longer than a mere deletion is doubted
    stage.put(*slices("RR"))
    until(lambda: router.told()[HOST]["weight"] == 2)
    stage.server.apply([definition(kind) for kind in KINDS])
    stage.put(*TOLD)
    until(lambda: not stage.status()["manifests"]["refused"], 60)
    assert stood(router, seen)
    assert router.peer()["flaps"] == 0


def test_another_host_has_our_nodes_name(stage: KubeStage, router: Router) -> None:
    def said() -> list[str]:
        return [s["text"] for s in stage.status()["settings"] if "same node name" in s["text"]]

    assert said() == []
    other = node("n1")
    other["status"]["addresses"] = [{"type": "InternalIP", "address": "10.83.0.99"}]
    stage.put(other)
    (text,) = until(said)
    assert "10.83.0.99" in text


def test_somebody_elses_addresses_are_no_external_ips(stage: KubeStage, router: Router) -> None:
    thief = service("aaa", ())
    thief["spec"] = {**thief["spec"], "type": "ClusterIP", "externalIPs": ["10.83.0.11", HOST[:-3]]}
    thief.pop("status", None)
    stage.put(thief)
    refused = until(lambda: [r["text"] for r in stage.status()["manifests"]["refused"]])
    assert sorted(text.split("externalIPs: ")[1].split()[0] for text in refused) == [
        "10.83.0.11",
        HOST[:-3],
    ]
    assert stage.whys() == {"default/web": "ACTIVE"}

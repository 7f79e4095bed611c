"""Pods' blocks by BlockClaims: claimed, told, and what becomes of claims that somebody deletes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_site import KubeStage
from agent_stage import Router, bgp_peer, node, ours, until
from test_agent_pods import World, addresses_of, reaches

from samepath.kube.kinds import claim_name
from samepath.lab.api_server import ApiServer
from samepath.model.net import parse_address, parse_prefix
from samepath.plan.addresses import Block

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]


class Pods(World):
    """Pods of n1, through the plugin."""

    def __init__(self, stage: KubeStage) -> None:
        super().__init__(stage.folder)
        self.node = stage.nodes["n1"]
        self.run_dir = stage.run_dir()

    def down(self) -> None:
        for host in self.pods.values():
            host.delete()


@pytest.fixture
def stage(tmp_path: Path, api_server: ApiServer) -> Iterator[KubeStage]:
    made = KubeStage(tmp_path, api_server)
    try:
        made.up(nodes=2)
        yield made
    finally:
        for name in made.nodes:
            print(made.log(name)[-4000:])
        made.down()


@pytest.fixture
def pods(stage: KubeStage) -> Iterator[Pods]:
    made = Pods(stage)
    try:
        yield made
    finally:
        made.down()


def claims(stage: KubeStage) -> dict[str, str]:
    return {c["spec"]["cidr"]: c["spec"]["node"] for c in stage.server.list("blockclaims")}


def bare(name: str) -> dict[str, Any]:
    """A Node without podCIDRs."""
    return {**node(name), "spec": {}}


def serve(stage: KubeStage, router: Router) -> str:
    """Two nodes that claim; the block of n1."""
    stage.put(
        bare("n1"), bare("n2"), bgp_peer(),
        ours("IPPool", "four", cidr="10.244.0.0/24", blockSize=28),
    )  # fmt: skip
    for name in ("n1", "n2"):
        stage.configure(name, cni={"store": str(stage.folder / f"store-{name}")})
        stage.start(name)
    until(lambda: sorted(claims(stage).values()) == ["n1", "n2"])
    (block,) = (cidr for cidr, owner in claims(stage).items() if owner == "n1")
    until(lambda: block in router.told())
    return block


def test_blocks_are_claimed_and_told(stage: KubeStage, pods: Pods) -> None:
    router = stage.router()
    block = serve(stage, router)
    (other,) = (cidr for cidr, owner in claims(stage).items() if owner == "n2")
    until(lambda: other in router.told("10.83.0.12"))
    assert other not in router.told()
    (address,) = addresses_of(pods.add("one"))
    assert Block(*parse_prefix(block)).contains(parse_address(address))
    # As many as there are in a block, and one more.
    for number in range(15):
        pods.add(f"p{number}")
    until(lambda: sorted(claims(stage).values()) == ["n1", "n1", "n2"])
    until(lambda: len(router.told()) == 2)


def test_a_claim_that_is_deleted_under_living_pods_is_made_again(
    stage: KubeStage, pods: Pods
) -> None:
    router = stage.router()
    block = serve(stage, router)
    (address,) = addresses_of(pods.add("one"))
    seen = len(router.ask("history"))
    stage.delete("blockclaims", claim_name(*parse_prefix(block)))
    # A claim that the watch had not shown yet is asked for again after a minute.
    until(lambda: claims(stage).get(block) == "n1", 90)
    until(lambda: "claimed again" in stage.log())
    assert all(block in rib for _, rib in router.ask("history")[seen:]), "never withdrawn"
    assert reaches(pods, address)


def test_a_block_that_another_node_has_by_now_is_withdrawn(stage: KubeStage, pods: Pods) -> None:
    """As after a node was away for longer than the controller's grace."""
    router = stage.router()
    block = serve(stage, router)
    (address,) = addresses_of(pods.add("one"))
    stage.server.refuse()
    until(lambda: stage.status()["manifests"]["trouble"])
    name = claim_name(*parse_prefix(block))
    stage.delete("blockclaims", name)
    stage.put(ours("BlockClaim", name, cidr=block, node="n3"))
    assert block in router.told()
    stage.server.accept()
    until(lambda: block not in router.told(), 90)
    until(lambda: "lost blocks" in stage.status()["pods"]["errors"])
    said = stage.status()["pods"]["errors"]["lost blocks"]
    assert address in said
    assert "n3's by now" in said
    assert reaches(pods, address), "the pod lives, on its node"
    (fresh,) = addresses_of(pods.add("two"))
    assert not Block(*parse_prefix(block)).contains(parse_address(fresh))
    assert claims(stage)[block] == "n3"


def test_the_server_away_takes_no_block(stage: KubeStage, pods: Pods) -> None:
    router = stage.router()
    block = serve(stage, router)
    (address,) = addresses_of(pods.add("one"))
    stage.server.refuse()
    until(lambda: stage.status()["manifests"]["trouble"])
    (another,) = addresses_of(pods.add("two"))
    assert another != address
    pods.delete("two")
    assert block in router.told()
    stage.server.accept()
    until(lambda: not stage.status()["manifests"]["trouble"], 90)
    assert claims(stage)[block] == "n1"

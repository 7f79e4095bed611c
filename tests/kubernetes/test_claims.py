"""BlockClaims against an API server: claimed in threads, confirmed, released; dead nodes' freed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from controller_site import Site, until

from samepath.cni.claims import ClaimsError, claim_next
from samepath.kube.api import Api
from samepath.kube.api_source import ApiSource
from samepath.kube.kinds import claim_name
from samepath.kube.resources import BLOCK_CLAIMS
from samepath.kube.watch import Wanted
from samepath.model.cluster import Cluster, IPPool
from samepath.model.config import Kubernetes
from samepath.model.net import Family, parse_prefix
from samepath.plan.addresses import Block
from samepath.plan.blocks import Next, Situation
from samepath.programs.claims import KubeClaims

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(360)]


class Node:
    """An agent's loop, with its watch of BlockClaims, in a thread."""

    def __init__(self, kubeconfig: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._kubeconfig = str(kubeconfig)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        self.claims = KubeClaims(
            self.api,
            self.loop,
            lambda: self.source.objects,
            in_sync=lambda: self.source.in_sync,
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._live())

    async def _live(self) -> None:
        self.api = Api.connect(Kubernetes(kubeconfig=self._kubeconfig))
        self.source = ApiSource(self.api, [Wanted(BLOCK_CLAIMS)], lambda: None)
        self._end = asyncio.Event()
        following = asyncio.create_task(self.source.run())
        self._ready.set()
        await self._end.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await self.api.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)


@pytest.fixture
def site(cluster: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(cluster, tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def node(site: Site) -> Iterator[Callable[[], Node]]:
    made: list[Node] = []

    def start() -> Node:
        one = Node(site.cluster.kubeconfig)
        made.append(one)
        until(lambda: one.source.in_sync)
        return one

    yield start
    for one in made:
        one.stop()
    found = site.cluster.get("blockclaims")["items"]
    for item in found:
        if site.cluster.namespace in item["spec"]["node"]:
            site.cluster.kubectl("delete", "blockclaim", item["metadata"]["name"])


def block(text: str) -> Block:
    return Block(*parse_prefix(text))


def claims(site: Site) -> dict[str, str]:
    return {
        i["spec"]["cidr"]: i["spec"]["node"]
        for i in site.cluster.get("blockclaims")["items"]
        if "samepath.dev/pending" not in i["metadata"].get("annotations", {})
    }


def test_claimed_kept_and_released(site: Site, node: Callable[[], Node]) -> None:
    us, them = site.cluster.unique("us"), site.cluster.unique("them")
    one, two = node(), node()
    small, large = block("10.201.0.0/26"), block("10.201.0.0/24")
    assert one.claims.claim(small, us) is None
    assert one.claims.owners()[small] == us, "at once"
    assert one.claims.claim(small, us) is None, "again"
    assert two.claims.claim(small, them) == us
    assert two.claims.owners()[small] == us, "it has learned that, before any watch"
    assert two.claims.claim(large, them) == us, "it overlaps"
    assert claims(site) == {"10.201.0.0/26": us}
    assert not two.claims.release(small, them)
    again = node()
    assert again.claims.owners()[small] == us
    assert again.claims.claim(small, us) is None
    assert again.claims.release(small, us)
    assert small not in again.claims.owners()
    until(lambda: small not in two.claims.owners())
    assert two.claims.claim(large, them) is None
    assert claims(site) == {"10.201.0.0/24": them}


def test_kubectl_says_whose_it_is(site: Site, node: Callable[[], Node]) -> None:
    us = site.cluster.unique("us")
    assert node().claims.claim(block("10.202.0.64/26"), us) is None
    row = site.cluster.kubectl("get", "blockclaim", "10-202-0-64-26").stdout
    assert us in row
    assert "10.202.0.64/26" in row


def test_nodes_at_once_share_a_pool(site: Site, node: Callable[[], Node]) -> None:
    pool = IPPool("p", *parse_prefix("10.203.0.0/27"), block_size=29)
    nodes = {site.cluster.unique(f"n{i}"): node() for i in range(3)}
    got: dict[str, list[Block]] = {name: [] for name in nodes}

    def fill(name: str) -> None:
        cluster = Cluster(pools={"p": pool})
        while True:
            choice = claim_next(
                nodes[name].claims, lambda owners: Situation(cluster, name, (), owners), Family.IPV4
            )
            if choice.why is not Next.CLAIM or choice.block is None:
                return
            got[name].append(choice.block)

    threads = [threading.Thread(target=fill, args=(name,)) for name in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    taken = [b for found in got.values() for b in found]
    assert len(taken) == len(set(taken)) == 4
    mine = {str(b): name for name, found in got.items() for b in found}
    assert {c: n for c, n in claims(site).items() if n in nodes} == mine


def test_server_away(site: Site, node: Callable[[], Node], api_server: Any) -> None:
    us = site.cluster.unique("us")
    one = node()
    small = block("10.204.0.0/26")
    assert one.claims.claim(small, us) is None
    api_server.refuse()
    with pytest.raises(ClaimsError, match="BlockClaims: "):
        one.claims.claim(block("10.204.0.64/26"), us)
    assert one.claims.owners()[small] == us, "what is known stands"
    fresh = Node(site.cluster.kubeconfig)
    with pytest.raises(ClaimsError, match="has not been read"):
        fresh.claims.owners()
    fresh.stop()
    api_server.accept()
    until(lambda: _claims(one, block("10.204.0.64/26"), us))


def _claims(node: Node, wanted: Block, name: str) -> bool:
    try:
        return node.claims.claim(wanted, name) is None
    except ClaimsError:
        return False


def test_blocks_of_a_dead_node_are_free_again(site: Site, node: Callable[[], Node]) -> None:
    cluster = site.cluster
    living = cluster.forget("nodes", cluster.unique("living"))
    dead = cluster.unique("dead")
    for name in (living, dead):
        cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    one = node()
    kept, freed = block("10.205.0.0/26"), block("10.205.0.64/26")
    assert one.claims.claim(kept, living) is None
    assert one.claims.claim(freed, dead) is None
    pool = {
        "apiVersion": "samepath.dev/v1",
        "kind": "IPPool",
        "metadata": {"name": cluster.forget("ippools.samepath.dev", cluster.unique("pods"))},
        "spec": {"cidr": "10.205.0.0/24"},
    }
    cluster.apply(pool)
    site.start(dead_node_grace_s=3.0)
    until(lambda: site.status().get("leads"))
    cluster.kubectl("delete", "node", dead)
    began = time.monotonic()
    until(lambda: claim_name(freed.family, freed.nlri) not in _names(site), 40.0)
    assert time.monotonic() - began > 2.5, "after the grace"
    assert claim_name(kept.family, kept.nlri) in _names(site)
    until(lambda: freed not in one.claims.owners())
    text = until(lambda: (t := cluster.kubectl("get", "events", "-n", "default").stdout).count(
        "BlockFreed") and t)  # fmt: skip
    assert dead in text
    assert site.status()["claims"]["freed"] == 1


def _names(site: Site) -> list[str]:
    return [i["metadata"]["name"] for i in site.cluster.get("blockclaims")["items"]]


def test_half_of_the_nodes_missing_frees_nothing(
    site: Site, node: Callable[[], Node], api_server: Any
) -> None:
    one = node()
    for n in range(3):
        assert (
            one.claims.claim(block(f"10.206.0.{n * 64}/26"), site.cluster.unique(f"n{n}")) is None
        )
    site.start(dead_node_grace_s=1.0)
    until(lambda: site.status().get("leads"))
    halted = until(lambda: site.status()["claims"]["halted"])
    assert "3 of 3" in halted
    time.sleep(3.0)
    assert len(claims(site)) == 3

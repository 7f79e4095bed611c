"""A gateway whose neighbours, import rules and tier come from the API server."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "programs"))

from agent_site import Relay
from gateway_nodes import NODES, POOL, cluster, moved, node, peers, tier
from gateway_stage import SERVICE, SERVICE6, Stage, eventually, table

from samepath.kube.crds import KINDS, definition
from samepath.lab.api_server import ApiServer
from samepath.model.config import Kubernetes

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

AWAY_S = 20.0


class Site(Stage):
    """The gateway reaches the server at its own 127.0.0.1."""

    def __init__(self, folder: Path, server: ApiServer) -> None:
        super().__init__(folder, "k")
        self.server = server
        server.apply([definition(kind) for kind in KINDS])

    def create(self) -> None:
        super().create()
        self.gateway.ip("link", "set", "lo", "up")
        self.relay = Relay(self.gateway, self.server.port)
        kubeconfig = self.folder / "kubeconfig"
        self.server.kubeconfig(kubeconfig)
        document = yaml.safe_load(kubeconfig.read_text())
        address = f"http://127.0.0.1:{self.relay.port}"
        document["clusters"][0]["cluster"]["server"] = address
        kubeconfig.write_text(yaml.safe_dump(document))
        self.config = msgspec.structs.replace(
            self.config,
            kubernetes=Kubernetes(kubeconfig=str(kubeconfig)),
            nodes=NODES,
            tier="edge",
            hash_seed=0,
            neighbors=[self.config.neighbors[1]],
            expected_peers=0,
            selection_deferral_s=60,
        )

    def delete(self) -> None:
        self.relay.close()
        super().delete()

    def put(self, *objects: dict[str, Any]) -> None:
        self.server.apply(list(objects))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ApiServer().in_thread() as server:
        made = Site(tmp_path, server)
        try:
            made.create()
            yield made
        finally:
            made.delete()
            log = tmp_path / "gateway.log"
            print(log.read_text()[-4000:] if log.exists() else "")


def begin(site: Site) -> None:
    site.put(POOL, tier(hashSeed=77, buckets=127), node(1), node(2))
    site.start()
    site.serve(1, 2)
    eventually(lambda: site.owners() == table(1, 2))
    eventually(site.settled)


def test_neighbours_follow_the_nodes_and_values_the_tier(site: Site) -> None:
    begin(site)
    found = cluster(site)
    assert found["source"].startswith("http://127.0.0.1:")
    assert (found["neighbors"], found["in_sync"], found["tier"]) == (2, True, "edge")
    assert site.status()["hash_seed"] == 77
    site.serve(3)
    site.put(tier(hashSeed=77, buckets=127, moveDeadline="1s"), node(3))
    eventually(lambda: site.owners() == table(1, 2, 3))
    site.put(tier(hashSeed=5, buckets=127, moveDeadline="1s"))
    assert "hash_seed 77 -> 5" in eventually(lambda: cluster(site)["pending"])
    before = moved(site)
    site.server.delete("nodes", "n3")
    eventually(lambda: cluster(site)["gone"])
    assert (site.owners(), moved(site)) == (table(1, 2, 3), before)
    site.peers["n3"].process.stdin.close()  # type: ignore[union-attr]
    eventually(lambda: site.owners() == table(1, 2))
    eventually(lambda: "10.9.0.3" not in peers(site))


def test_server_that_is_away_changes_nothing_even_over_a_restart(site: Site) -> None:
    begin(site)
    version = site.server.snapshot()
    eventually(lambda: (site.folder / "run" / "gateway-cluster.json").exists())
    site.server.refuse()
    until = time.monotonic() + AWAY_S
    eventually(lambda: cluster(site)["trouble"], 60)
    # BGP goes on by itself: a new route, a node that leaves and comes back.
    site.peers["n1"].offer({SERVICE: {}, SERVICE6: {}, "192.0.2.9/32": {}})
    eventually(lambda: site.owners("192.0.2.9/32"))
    while time.monotonic() < until:
        assert site.owners() == table(1, 2)
        assert site.settled()
        time.sleep(0.5)
    site.stop()
    site.start()

    def answers() -> bool:
        try:
            return site.settled()
        except ValueError:
            return False  # it waits for its tier

    eventually(answers, 60)
    assert (site.owners(), moved(site)) == (table(1, 2), 0)
    assert cluster(site)["remembered"]
    # The server comes back as of before, and with a Node less: somebody's mistake.
    site.server.restore(version)
    site.server.accept()
    eventually(lambda: cluster(site)["in_sync"], 60)
    site.server.delete("nodes", "n2")
    eventually(lambda: cluster(site)["gone"])
    assert (site.owners(), moved(site)) == (table(1, 2), 0)

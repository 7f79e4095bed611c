"""Nodes of the cluster as a gateway's neighbours: they come and go, and mistakes are survived."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_nodes import NODES, POOL, cluster, moved, node, peers, tier
from gateway_stage import SERVICE, SERVICE6, Stage, eventually, log_of, table

from samepath.programs.control import NotRunningError, ask

pytestmark = pytest.mark.netns


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def put(self, *objects: dict[str, Any]) -> None:
        for thing in objects:
            name = f"{thing['kind']}-{thing['metadata']['name']}.json"
            fresh = self.path.with_name("fresh")
            fresh.write_text(json.dumps(thing))
            fresh.rename(self.path / name)

    def delete(self, *names: str) -> None:
        for name in names:
            (self.path / f"{name}.json").unlink()


@pytest.fixture
def folder(stage: Stage) -> Folder:
    made = Folder(stage.folder / "manifests")
    upstream = stage.config.neighbors[1]
    stage.config = msgspec.structs.replace(
        stage.config, manifests=str(made.path), nodes=NODES, neighbors=[upstream], expected_peers=0,
        selection_deferral_s=60,
    )  # fmt: skip
    return made


def begin(stage: Stage, folder: Folder, *numbers: int) -> None:
    folder.put(POOL, *(node(n) for n in numbers))
    stage.start()
    stage.serve(*numbers)
    eventually(lambda: stage.owners() == table(*numbers) and stage.settled())


def test_nodes_that_come_are_neighbours_and_those_that_go_stay_while_they_live(
    stage: Stage, folder: Folder
) -> None:
    begin(stage, folder, 1, 2)
    status = stage.status()
    assert status["sync"] == "expected_peers have sent End-of-RIB"
    assert {a for a, s in peers(stage).items() if s == "Established"} == {"10.9.0.1", "10.9.0.2"}
    assert cluster(stage)["neighbors"] == 2
    stage.serve(3)
    stage.config = msgspec.structs.replace(stage.config, idle_timer_s=1)
    stage.write_config()
    folder.put(node(3))
    eventually(lambda: stage.owners() == table(1, 2, 3))
    before = moved(stage)
    folder.delete("Node-n3", "Node-n1")
    gone = eventually(lambda: cluster(stage)["gone"])
    assert {row["address"] for row in gone} == {"10.9.0.1", "10.9.0.3"}
    assert stage.owners() == table(1, 2, 3)
    assert moved(stage) == before
    folder.put(node(1))
    eventually(lambda: len(cluster(stage)["gone"]) == 1)
    three = stage.peers["n3"].process
    assert three.stdin is not None
    three.stdin.close()  # it says goodbye
    eventually(lambda: stage.owners() == table(1, 2))
    eventually(lambda: "10.9.0.3" not in peers(stage))
    assert [p["flaps"] for p in stage.status()["peers"] if p["address"] != "10.8.0.1"] == [0, 0]


def test_grace_ends_the_session_of_a_node_that_is_gone(stage: Stage, folder: Folder) -> None:
    stage.config = msgspec.structs.replace(
        stage.config, nodes=msgspec.structs.replace(NODES, gone_grace_s=1.0, selector="!has(out)")
    )
    begin(stage, folder, 1, 2)
    folder.put(node(2, labels={"out": ""}))
    eventually(lambda: stage.owners() == table(1))
    eventually(lambda: peers(stage).keys() == {"10.9.0.1", "10.8.0.1"})


def test_everything_deleted_by_mistake_moves_nothing(stage: Stage, folder: Folder) -> None:
    begin(stage, folder, 1, 2)
    for file in folder.path.iterdir():
        file.unlink()
    found = eventually(lambda: (c := cluster(stage))["kept_prefixes"] and c)
    assert found["kept_prefixes"] == ["192.0.2.0/24", "2001:db8:100::/64"]
    assert len(found["gone"]) == 2
    # A route that comes now lies in what is kept.
    stage.peers["n1"].offer({SERVICE: {}, SERVICE6: {}, "192.0.2.7/32": {}})
    eventually(lambda: stage.owners("192.0.2.7/32"))
    assert stage.owners() == table(1, 2)
    assert moved(stage) == 0
    # Restarted before anybody has noticed: what is adopted waits for those that it names.
    stage.stop(signal.SIGKILL)
    stage.start()
    eventually(stage.settled)
    assert stage.owners() == table(1, 2)
    assert moved(stage) == 0


def test_restart_without_the_source_goes_on_with_what_was_known(
    stage: Stage, folder: Folder
) -> None:
    begin(stage, folder, 1, 2)
    eventually(lambda: (stage.folder / "run" / "gateway-cluster.json").exists())
    stage.stop(signal.SIGTERM)
    away = folder.path.rename(folder.path.with_name("away"))
    stage.start()
    first = eventually(stage.status)
    assert not first["in_sync"], "the source has a moment first"
    eventually(lambda: list(peers(stage).values()).count("Established") == 2)
    found = cluster(stage)
    assert (found["remembered"], found["in_sync"]) == (True, False)
    assert found["trouble"]
    eventually(stage.settled, 30)
    assert stage.status()["sync"] == "every neighbour of the adopted next hops has sent End-of-RIB"
    assert stage.owners() == table(1, 2)
    away.rename(folder.path)
    eventually(lambda: cluster(stage)["in_sync"] and not cluster(stage)["remembered"])
    assert stage.owners() == table(1, 2)
    assert moved(stage) == 0


def test_restart_that_knows_nobody_deletes_nothing_however_long_it_takes(
    stage: Stage, folder: Folder
) -> None:
    stage.config = msgspec.structs.replace(stage.config, selection_deferral_s=5.0)
    begin(stage, folder, 1, 2)
    stage.stop(signal.SIGKILL)
    away = folder.path.rename(folder.path.with_name("away"))
    shutil.rmtree(stage.folder / "run")
    stage.start()
    eventually(lambda: stage.status().get("uptime_s", 0) > 7)
    status = stage.status()
    assert not status["in_sync"]
    assert status["sync"] == "waiting for the Nodes of the cluster to be known"
    assert stage.owners() == table(1, 2)
    away.rename(folder.path)
    eventually(stage.settled)
    assert stage.owners() == table(1, 2)
    assert moved(stage) == 0


def test_block_is_whose_the_cluster_says(stage: Stage, folder: Folder) -> None:
    folder.put(node(1, podCIDRs=["10.244.1.0/24"]), node(2, podCIDRs=["10.244.2.0/24"]))
    stage.start()
    stage.node(2).offer({"10.244.1.0/24": {}, "10.244.2.0/24": {}})
    refused = eventually(lambda: stage.status().get("refusals"))
    assert refused == [
        {
            "peer": "10.9.0.2",
            "prefix": "10.244.1.0/24",
            "reason": "this pod block, or a part of it, is another neighbour's",
        }
    ]
    stage.node(1).offer({"10.244.1.0/24": {}})
    eventually(
        lambda: (
            {r["prefix"]: r["next_hops"] for r in stage.status()["routes"]}
            == {"10.244.1.0/24": ["10.9.0.1"], "10.244.2.0/24": ["10.9.0.2"]}
        )
    )


def test_tier_says_what_gateways_share(stage: Stage, folder: Folder) -> None:
    stage.config = msgspec.structs.replace(stage.config, tier="edge", hash_seed=0)
    folder.put(POOL, node(1), node(2))
    stage.start()

    def said() -> str:
        try:
            ask(stage.config.run_dir, "gateway", "status")
        except ValueError as error:
            return str(error)
        except NotRunningError:
            return ""
        return ""

    assert "waiting for GatewayTier edge" in eventually(said)
    folder.put(tier(hashSeed=77, buckets=127, idleTimer="1h"))
    stage.serve(1, 2)
    eventually(lambda: not said() and stage.owners() == table(1, 2) and stage.settled())
    assert stage.status()["hash_seed"] == 77
    folder.put(tier(hashSeed=78, buckets=31, idleTimer="5s"))
    pending = eventually(lambda: cluster(stage)["pending"])
    assert pending == ("needs restart: would move all flows: buckets 127 -> 31, hash_seed 77 -> 78")
    status = stage.status()
    assert (status["idle_timer_s"], status["hash_seed"], status["buckets"]) == (5.0, 77, 127)
    assert stage.owners() == table(1, 2)
    folder.delete("GatewayTier-edge")
    eventually(lambda: "any more" in cluster(stage)["tier_trouble"])
    assert stage.status()["idle_timer_s"] == 5.0
    # Over a restart without the source, too, and what is pending is not taken then.
    eventually(lambda: '"idle_timer_s":5' in stage_file(stage))
    stage.stop(signal.SIGTERM)
    folder.path.rename(folder.path.with_name("away"))
    stage.start()
    eventually(said)
    eventually(lambda: not said())
    eventually(stage.settled, 40)
    assert stage.status()["hash_seed"] == 77
    assert (stage.owners(), moved(stage)) == (table(1, 2), 0)
    folder.path.with_name("away").rename(folder.path)
    folder.put(tier(hashSeed=77, buckets=127, idleTimer="9s"))
    eventually(lambda: stage.status()["idle_timer_s"] == 9.0)
    assert cluster(stage)["pending"] == ""
    assert "Traceback" not in log_of(stage)


def stage_file(stage: Stage) -> str:
    return (stage.folder / "run" / "gateway-cluster.json").read_text()

"""The agent whose neighbours, passwords, BFD profiles and advertisements come as objects; here by
a folder of manifests. By the API server: tests/kubernetes/test_agent_by_server.py."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_stage import (
    AS,
    HOST,
    HOST6,
    ROUTER_AS,
    Json,
    Stage,
    bgp_peer,
    node,
    ours,
    pool,
    service,
    slices,
    until,
)

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]


class FolderStage(Stage):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.manifests = folder / "manifests"
        self.manifests.mkdir()

    def put(self, *objects: Json) -> None:
        """Each into a file of its own."""
        for thing in objects:
            path = self.path(thing["kind"], thing["metadata"]["name"])
            other = path.with_name(f".{path.name}.new")
            other.write_text(yaml.safe_dump(thing))
            other.rename(path)

    def path(self, kind: str, name: str) -> Path:
        return self.manifests / f"{kind}-{name}.yaml"

    def serve(self, *objects: Json, **config: Any) -> None:
        """One node with one service, and these objects."""
        self.put(node(), service(), *slices(), *objects)
        self.configure(manifests=str(self.manifests), serviceProxy="none", **config)
        self.start()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[FolderStage]:
    made = FolderStage(tmp_path)
    try:
        made.up(nodes=2)
        yield made
    finally:
        print(made.log()[-6000:])
        made.down()


def peers(stage: Stage) -> dict[str, str]:
    return {p["name"]: p["why"] for p in stage.status()["bgp_peers"]}


def test_neighbours_and_advertisements_are_objects(stage: FolderStage) -> None:
    one, two = stage.router(1), stage.router(2)
    stage.serve()
    assert stage.status()["as"] == 0
    assert stage.status()["router_id"] == "10.83.0.11"
    stage.put(bgp_peer("gw1"))
    until(one.is_up)
    assert one.peer()["as"] == AS
    assert one.peer()["router_id"] == "10.83.0.11"
    until(lambda: one.told().keys() >= {HOST, HOST6, "10.244.1.0/24", "2001:db8:244:1::/64"})
    # In a pool, without an advertisement: withdrawn, and said.
    stage.put(pool())
    until(lambda: HOST not in one.told() and HOST6 not in one.told())
    assert stage.whys() == {"default/web": "NO_ADVERTISEMENT"}
    assert "10.244.1.0/24" in one.told()
    stage.put(
        ours("Community", "names", communities=[{"name": "vpn", "value": "65000:7"}]),
        ours("BGPAdvertisement", "all", communities=["vpn", "large:1:2:3"], peers=["gw1"]),
        bgp_peer("gw2", "10.83.0.2"),
    )
    until(lambda: HOST in one.told())
    assert one.told()[HOST]["communities"] == ["65000:7", "1:2:3"]
    until(two.is_up)
    until(lambda: "10.244.1.0/24" in two.told())
    assert HOST not in two.told()
    stage.put(
        ours("BGPAdvertisement", "net", aggregationLength=24, peers=["gw2"]),
    )
    until(lambda: "203.0.113.0/24" in two.told())
    assert one.peer()["flaps"] == two.peer()["flaps"] == 0


def test_what_is_refused_is_said_and_disturbs_nobody(stage: FolderStage) -> None:
    one = stage.router(1)
    stage.serve(
        bgp_peer("gw1"),
        bgp_peer("other-as", "10.83.0.3", myASN=1),
        bgp_peer("elsewhere", "10.83.0.4", nodeSelectors=[{"matchLabels": {"rack": "r9"}}]),
        bgp_peer("no-secret", "10.83.0.5", passwordSecret={"name": "bgp"}),
        bgp_peer("no-profile", "10.83.0.6", bfdProfile="fast"),
        bgp_peer("own", "10.83.0.11"),
        bgp_peer("twice", "10.83.0.1"),
        bgp_peer("file", "10.83.0.7"),
        pool(),
        ours("BGPAdvertisement", "all"),
        ours("BGPAdvertisement", "wrong", communities=["nobody"]),
        neighbors=[{"address": "10.83.0.7", "remote_as": ROUTER_AS}],
    )
    until(one.is_up)
    until(lambda: HOST in one.told())
    assert peers(stage) == {
        "gw1": "NEIGHBOR",
        "other-as": "OTHER_AS",
        "elsewhere": "NOT_SELECTED",
        "no-secret": "NO_SECRET",
        "no-profile": "NO_BFD_PROFILE",
        "own": "OWN_ADDRESS",
        "twice": "DUPLICATE",
        "file": "CONFIGURED",
    }
    (refused,) = stage.status()["advertisements"]["refused"]
    assert refused["text"] == "BGPAdvertisement wrong: no Community object defines: nobody"
    assert "BGPPeer other-as is no neighbour: its myASN" in stage.log()
    assert "elsewhere" not in stage.log()


def test_a_password_is_a_file_for_as_long_as_it_is_needed(stage: FolderStage) -> None:
    key = stage.folder / "router-key"
    key.write_text("first")
    one = stage.router(1, neighbor={"password_file": str(key)})

    def secret(password: str) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "bgp", "namespace": "samepath-system"},
            "type": "kubernetes.io/basic-auth",
            "stringData": {"password": password},
        }

    stage.serve(bgp_peer("gw1", passwordSecret={"name": "bgp"}))
    assert peers(stage) == {"gw1": "NO_SECRET"}
    stage.put(secret("first"))
    until(one.is_up)
    folder = stage.run_dir() / "passwords"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "gw1").stat().st_mode) == 0o600
    assert (folder / "gw1").read_text() == "first"
    # Rotated on both sides: a new session with the new one.
    key.write_text("second")
    stage.put(secret("second"))
    until(lambda: (folder / "gw1").read_text() == "second")
    until(lambda: stage.log().count("10.83.0.1: established") == 2)
    assert "another password: a new session" in stage.log()
    until(one.is_up)
    assert "first" not in stage.log()
    assert "second" not in stage.log()
    stage.path("BGPPeer", "gw1").unlink()
    until(lambda: not list(folder.iterdir()))
    assert stage.status()["as"] == 0


def test_sessions_stand_while_other_objects_change(stage: FolderStage) -> None:
    one = stage.router(1)
    stage.serve(bgp_peer("gw1"), pool(), ours("BGPAdvertisement", "all"))
    until(lambda: one.is_up() and HOST in one.told() and one.peer()["end_of_rib"])
    before = one.peer()
    history = len(one.ask("history"))
    for turn in range(25):
        stage.put(
            service(f"more{turn}", (f"203.0.113.{100 + turn}",)),
            *slices("R", f"more{turn}")[:1],
            bgp_peer(f"gw{turn + 50}", f"10.83.0.{turn + 50}",
                     nodeSelectors=[{"matchLabels": {"rack": f"r{turn}"}}]),
            node("n1", {"turn": str(turn)}),
            ours("BFDProfile", f"p{turn}", detectMultiplier=5),
        )  # fmt: skip
        until(lambda t=turn: f"203.0.113.{100 + t}/32" in one.told())  # type: ignore[misc]
    assert one.peer() == before, "the very same session"
    assert before["flaps"] == 0
    seen = one.ask("history")[history:]
    assert all(HOST in rib for _, rib in seen), "what stood was never away"


def test_another_as_restarts_the_sessions_and_nothing_else(stage: FolderStage) -> None:
    one = stage.router(1, neighbor={"remote_as": "external"})
    stage.serve(bgp_peer("gw1"))
    until(lambda: one.is_up() and HOST in one.told())
    assert one.peer()["as"] == AS
    stage.put(bgp_peer("gw1", myASN=AS + 7))
    until(lambda: one.is_up() and one.peer()["as"] == AS + 7)
    until(lambda: HOST in one.told())
    assert stage.status()["as"] == AS + 7
    assert stage.agents["n1"].poll() is None


def test_bfd_of_a_profile_that_is_an_object(stage: FolderStage) -> None:
    one = stage.router(1)
    stage.serve(
        bgp_peer("gw1", bfdProfile="slow"),
        ours("BFDProfile", "slow", receiveInterval=500, transmitInterval=500),
    )
    until(one.is_up)

    def bfd() -> Any:
        (peer,) = stage.status()["peers"]
        return peer["bfd"]

    until(lambda: bfd() and bfd()["state"] == "Down")
    stage.put(bgp_peer("gw1"))
    until(lambda: bfd() is None)
    assert one.peer()["flaps"] == 0


def test_an_agent_that_nobody_told_its_as_waits_and_says_so(stage: FolderStage) -> None:
    stage.serve(neighbors=[{"address": "10.83.0.1", "remote_as": ROUTER_AS}])
    until(lambda: stage.ask("ready")["ready"])
    status = stage.status()
    assert status["as"] == 0
    assert status["peers"] == []
    assert stage.whys() == {"default/web": "ACTIVE"}


def test_one_file_for_two_nodes_with_made_router_ids(stage: FolderStage) -> None:
    """Without a node's address the id comes of its name; BGP sees two speakers."""
    one = stage.router(1)
    stage.put(node("n2"))
    stage.serve(bgp_peer("gw1"), bgp_peer("other", "10.83.0.2", routerID="1.2.3.4"))
    (stage.folder / "agent-n2.yaml").write_text((stage.folder / "agent-n1.yaml").read_text())
    stage.start("n2", with_ip=False)
    until(lambda: one.is_up("10.83.0.11") and one.is_up("10.83.0.12"))
    ids = {one.peer(f"10.83.0.{11 + i}")["router_id"] for i in range(2)}
    assert len(ids) == 2
    assert "10.83.0.11" in ids
    assert peers(stage)["other"] == "OTHER_ROUTER_ID"
    until(lambda: HOST in one.told("10.83.0.11"))
    assert HOST not in one.told("10.83.0.12")


def test_who_we_are_by_options_and_environment(tmp_path: Path) -> None:
    """A run_dir that is no folder ends it in any case, but later."""
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump({"manifests": "/nowhere", "run_dir": str(config)}))
    command = [sys.executable, "-m", "samepath.cli.main", "agent", "--config", str(config)]
    bare = {k: v for k, v in os.environ.items() if not k.startswith("SAMEPATH_NODE")}
    for more, given, status, said in (
        ([], {}, 2, "neither --node nor SAMEPATH_NODE"),
        ([], {"SAMEPATH_NODE": "n1", "SAMEPATH_NODE_IP": "nonsense"}, 2, "nonsense"),
        ([], {"SAMEPATH_NODE": "n1", "SAMEPATH_NODE_IP": "10.0.0.1"}, 1, "run_dir"),
        (["--node", "n1", "--node-ip", "fd00::1"], {}, 1, "run_dir"),
    ):
        done = subprocess.run(
            [*command, *more], env={**bare, **given}, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == status, done.stderr
        assert said in done.stderr

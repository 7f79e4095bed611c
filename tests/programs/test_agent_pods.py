"""The agent gives pods their network: through the real plugin, with kills, restarts and bad disks.

node (10.83.0.11) ── far (10.83.0.1), which is a neighbour that never answers
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "cni"))

from shims import C_PROGRAM, PYTHON, C, Said, call

from samepath.cni.attachment import host_link_name
from samepath.cni.errors import Code
from samepath.lab.netns import Namespace, veth
from samepath.programs import control

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

PLUGIN = C if C_PROGRAM.exists() else PYTHON
RUN = "from samepath.cli.main import main; main()"
POOL = {
    "apiVersion": "samepath.dev/v1",
    "kind": "IPPool",
    "metadata": {"name": "four"},
    "spec": {"cidr": "10.244.0.0/24", "blockSize": 30},
}


class World:
    def __init__(self, folder: Path) -> None:
        self.prefix = f"spt-{os.getpid()}"
        self.folder = folder
        self.node = Namespace(f"{self.prefix}-n")
        self.far = Namespace(f"{self.prefix}-far")
        self.pods: dict[str, Namespace] = {}
        self.run_dir = folder / "run"
        self.store = folder / "store" / "attachments.db"
        self.agent: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        (self.folder / "manifests").mkdir()
        self.node.create()
        self.far.create()
        veth(self.node, "seg0", self.far, "seg0")
        self.node.ip("link", "set", "seg0", "mtu", "1450")
        self.node.ip("address", "add", "10.83.0.11/24", "dev", "seg0")
        self.node.ip("address", "add", "2001:db8:83::11/64", "dev", "seg0", "nodad")
        self.far.ip("address", "add", "10.83.0.1/24", "dev", "seg0")

    def down(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        for host in (*self.pods.values(), self.node, self.far):
            host.delete()

    # the agent

    def start(self, *, pod_cidrs: tuple[str, ...] = ("10.244.0.0/24", "fd10::/120"),
              **cni: Any) -> None:  # fmt: skip
        config = {
            "router_id": "10.83.0.11",
            "as": 64512,
            "run_dir": str(self.run_dir),
            "node": "n1",
            "manifests": str(self.folder / "manifests"),
            "serviceProxy": "none",
            "pod_cidrs": list(pod_cidrs),
            "neighbors": [{"address": "10.83.0.1", "as": 64512}],
            "cni": {"store": str(self.store), **cni},
        }
        config["neighbors"] = [{"address": "10.83.0.1", "remote_as": 64512}]
        path = self.folder / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = self.node.popen(
                sys.executable, "-c", RUN, "agent", "--config", str(path),
                stdout=log, stderr=log,
            )  # fmt: skip
        wait(lambda: self.status_code() is not None, 20, self.log)

    def restart(self, **more: Any) -> None:
        self.kill()
        self.start(**more)

    def kill(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def stop(self) -> int:
        assert self.agent is not None
        self.agent.terminate()
        return self.agent.wait(30)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()[-3000:]

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = control.ask(str(self.run_dir), "agent", what, **more)
        return answer

    def view(self) -> dict[str, Any]:
        return dict(self.ask("status")["pods"])

    # the runtime

    def pod(self, name: str) -> Namespace:
        if name not in self.pods:
            self.pods[name] = Namespace(f"{self.prefix}-{name}").create()
        return self.pods[name]

    def config(self, **more: Any) -> bytes:
        document = {
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "samepath-cni",
            "socket": str(self.run_dir / "cni.sock"),
            **more,
        }
        return json.dumps(document).encode()

    def call(self, command: str, name: str = "", **more: Any) -> Said:
        pod = {"CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"} if name else {}
        if name in self.pods and self.pods[name].path.exists():
            pod["CNI_NETNS"] = str(self.pods[name].path)
        return call(PLUGIN, command, self.config(**more), pod=pod)

    def add(self, name: str) -> dict[str, Any]:
        self.pod(name)
        said = self.call("ADD", name)
        assert said.status == 0, said
        return dict(json.loads(said.body))

    def delete(self, name: str) -> None:
        said = self.call("DEL", name)
        assert said.status == 0, said

    def code(self, command: str, name: str = "", **more: Any) -> int:
        """Of the error; 0: there was none."""
        said = self.call(command, name, **more)
        return int(json.loads(said.body)["code"]) if said.status else 0

    def status_code(self) -> int | None:
        """None: the agent does not answer yet."""
        assert self.agent is not None
        assert self.agent.poll() is None, self.log()
        if not (self.run_dir / "cni.sock").exists():
            return None
        said = self.call("STATUS")
        message = json.loads(said.body)["msg"] if said.status else ""
        is_waiting = "not read all objects" in message or "cni.sock" in message
        return None if is_waiting else (json.loads(said.body)["code"] if said.status else 0)

    # what is there

    def links(self) -> list[str]:
        found = json.loads(self.node.ip("-j", "link"))
        return sorted(link["ifname"] for link in found if link["ifname"].startswith("smp"))

    def host_routes(self) -> set[str]:
        return {
            route["dst"]
            for family in ("-4", "-6")
            for route in json.loads(self.node.ip("-j", family, "route", "show", "proto", "83"))
            if route.get("dev", "").startswith("smp") and route["dst"] != "fe80::/64"
        }

    def is_clean(self) -> bool:
        return not (self.links() or self.host_routes() or self.view()["attachments"])


def wait(condition: Callable[[], Any], limit_s: float = 45, why: Callable[[], str] = str) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"it never came: {why()}"
        time.sleep(0.05)


def addresses_of(answer: dict[str, Any]) -> list[str]:
    return [ip["address"].partition("/")[0] for ip in answer["ips"]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def reaches(world: World, address: str) -> bool:
    done = subprocess.run(
        world.node.command(["ping", "-c1", "-W2", address]), capture_output=True, check=False
    )
    return done.returncode == 0


# -- What it does


def test_pods_are_served_and_seen(world: World) -> None:
    world.start()
    told = world.add("one")
    assert addresses_of(told) == ["10.244.0.1", "fd10::1"]
    assert {i["mtu"] for i in told["interfaces"]} == {1450}  # of the link to the neighbour
    assert all(reaches(world, address) for address in addresses_of(told))
    view = world.view()
    assert (view["attachments"], view["unfinished"], view["trouble"]) == (1, 0, "")
    assert view["answered"]["ADD"] == 1
    assert [p["addresses"] for p in view["pods"]] == [addresses_of(told)]
    shown = world.ask("ipam")
    assert {b["block"]: b["in_use"] for b in shown["blocks"]} == {
        "10.244.0.0/24": 1,
        "fd10::/120": 1,
    }
    assert world.ask("ipam_check") == {"attachments": 1, "findings": []}
    blocks = {b["block"] for b in world.ask("status")["blocks"]}
    assert blocks == {"10.244.0.0/24", "fd10::/120"}
    assert world.code("CHECK", "one", prevResult=told) == 0
    world.delete("one")
    world.delete("one")
    assert world.is_clean()
    assert world.stop() == 0
    assert not (world.run_dir / "cni.sock").exists()


def test_while_the_agent_is_away(world: World) -> None:
    world.start()
    told = world.add("one")
    world.kill()
    world.pod("two")
    assert world.code("ADD", "two") == Code.TRY_AGAIN_LATER
    assert world.code("DEL", "one") == Code.TRY_AGAIN_LATER
    assert world.code("STATUS") == Code.NOT_AVAILABLE
    assert reaches(world, addresses_of(told)[0])
    world.start()
    assert world.code("CHECK", "one", prevResult=told) == 0
    assert reaches(world, addresses_of(told)[1])
    assert addresses_of(world.add("two")) != addresses_of(told)


def test_what_somebody_took_away_comes_back(world: World) -> None:
    world.start()
    told = world.add("one")
    link = told["interfaces"][0]["name"]

    def is_whole() -> bool:
        return world.code("CHECK", "one", prevResult=told) == 0

    assert is_whole()
    for damage in (
        ("route", "flush", "proto", "83", "dev", link),
        ("-6", "route", "flush", "proto", "83", "dev", link),
        ("neigh", "del", "10.244.0.1", "dev", link),
        ("link", "set", link, "down"),
    ):
        world.node.ip(*damage)
        if damage[0] == "link":
            world.node.ip("link", "set", link, "up")
        wait(is_whole, why=world.log)
    assert all(reaches(world, address) for address in addresses_of(told))
    assert world.view()["errors"] == {}


# -- Blocks of pools


def test_blocks_are_claimed_as_they_fill(world: World) -> None:
    """Three addresses a block."""
    claims = world.folder / "shared" / "claims.json"
    claims.parent.mkdir()
    (world.folder / "manifests" / "pool.yaml").write_text(yaml.safe_dump(POOL))
    world.start(pod_cidrs=(), block_claims=str(claims))
    told = [world.add(f"p{number}") for number in range(7)]
    blocks = {b["block"] for b in world.ask("status")["blocks"] if b["ours"]}
    assert len(blocks) == 3
    wait(lambda: _blackholes(world) == blocks, why=world.log)
    # The claims cannot be read: what is ours stays ours, also over a restart.
    claims.write_text("nonsense")
    world.restart(pod_cidrs=(), block_claims=str(claims))
    wait(lambda: _blackholes(world) == blocks, why=world.log)
    assert all(reaches(world, addresses_of(t)[0]) for t in told)


def _blackholes(world: World) -> set[str]:
    """Our blocks, for the agent's routes: with the part that no pod has."""
    found = json.loads(world.node.ip("-j", "route", "show", "type", "blackhole"))
    return {route["dst"] for route in found}


# -- Bad days


def test_a_corrupt_store(world: World) -> None:
    """Nothing is given out until it is mended; what lives goes on living."""
    world.start()
    told = [world.add(name) for name in ("one", "two")]
    assert world.stop() == 0
    octets = bytearray(world.store.read_bytes())
    octets[octets.index(b'"two"') + 1] ^= 1
    world.store.write_bytes(octets)
    world.start()
    world.pod("three")
    said = json.loads(world.call("ADD", "three").body)
    assert said["code"] == Code.STORE_CORRUPT
    assert "ipam check --fix" in said["msg"]
    assert world.code("DEL", "one") == Code.TRY_AGAIN_LATER
    assert world.code("STATUS") == Code.NOT_AVAILABLE
    assert all(reaches(world, address) for t in told for address in addresses_of(t))
    assert len(world.host_routes()) == 4
    assert "damaged" in world.view()["trouble"]
    assert world.stop() == 0
    fixed = world.node.run(
        sys.executable, "-c", RUN, "ipam", "check", "--fix",
        "--config", str(world.folder / "agent.yaml"), check=False,
    )  # fmt: skip
    world.start()
    assert world.status_code() == 0, fixed
    new = world.add("three")
    assert not {a for t in told for a in addresses_of(t)} & set(addresses_of(new))
    for name in ("one", "two", "three"):
        world.delete(name)
    assert world.is_clean()


def test_a_store_that_cannot_be_opened_is_tried_again(world: World) -> None:
    world.store.parent.mkdir()
    world.store.mkdir()  # in the way
    world.start()
    world.pod("one")
    assert world.code("ADD", "one") == Code.TRY_AGAIN_LATER
    world.store.rmdir()
    wait(lambda: world.status_code() == 0, 20, world.log)
    world.add("one")


@pytest.mark.parametrize("round_", range(4))
def test_agent_killed_among_requests(world: World, round_: int) -> None:
    """What a runtime was told stands; the rest is gone after DEL or GC."""
    world.start()
    names = [f"c{number}" for number in range(12)]
    for name in names:
        world.pod(name)
    after_s = random.Random(round_).uniform(0.05, 0.6)
    ended = threading.Event()
    told: dict[str, dict[str, Any] | None] = dict.fromkeys(names)

    def churn(name: str) -> None:
        while not ended.is_set():
            added = world.call("ADD", name)
            if added.status:
                return
            told[name] = json.loads(added.body)
            if world.call("DEL", name).status:
                return
            told[name] = None

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(churn, name) for name in names]
        time.sleep(after_s)
        world.kill()
        ended.set()
        for one in running:
            one.result(60)
    world.start()
    for name, answer in told.items():
        code = world.code("CHECK", name, prevResult=answer) if answer else 0
        assert code in (0, Code.UNKNOWN_CONTAINER)  # or its DEL was just under way
    half = names[::2]
    for name in half:
        world.delete(name)
    assert world.code("GC", **{"cni.dev/valid-attachments": []}) == 0
    assert world.is_clean()
    assert world.ask("ipam_check")["findings"] == []


def test_plugins_killed_among_requests(world: World) -> None:
    world.start()
    names = [f"c{number}" for number in range(8)]
    for name in names:
        world.pod(name)
    descriptors, threads = _used(world)

    def torment(name: str) -> None:
        chance = random.Random(name)
        for command in ("ADD", "DEL") * 8:
            environment = {
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": name,
                "CNI_IFNAME": "eth0",
                "CNI_NETNS": str(world.pods[name].path),
            }
            process = subprocess.Popen(
                PLUGIN, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(world.config())
                process.stdin.close()
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            process.wait()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(torment, names))
    # Each of the server's threads has come to a netlink socket of its own.
    wait(lambda: _used(world)[0] <= descriptors + 16, why=world.log)
    assert _used(world)[1] <= threads + 2
    for name in names:
        world.delete(name)
    assert world.is_clean()
    told = [world.add(name) for name in names]
    assert len({a for t in told for a in addresses_of(t)}) == 16


def _used(world: World) -> tuple[int, int]:
    """Descriptors and threads of the agent."""
    assert world.agent is not None
    folder = Path(f"/proc/{world.agent.pid}")
    return len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))


def test_a_pod_that_went_without_del(world: World) -> None:
    world.start()
    world.add("one")
    world.add("two")
    world.pods["one"].delete()
    wait(lambda: len(world.links()) == 1)
    world.restart()
    view = world.view()
    assert [p["container"] for p in view["pods"]] == ["two"]
    assert world.links() == [host_link_name(("two", "eth0"))]
    world.delete("one")

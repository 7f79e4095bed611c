"""The full mesh: nodes that reach each other's pods with no gateway at all."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pod_nodes import AS, ROUTER, Site, address, block, by_gateway, ping, pod_address, until

from samepath.lab.netns import Namespace

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        for number in (1, 2, 3):
            site.node(number)
            site.pod(number, 1)
            site.configure(number)
        yield site
    finally:
        for path in sorted(tmp_path.glob("*.log")):
            print(path.name, path.read_text()[-2500:])
        site.down()


def up(site: Site, *numbers: int) -> None:
    for number in numbers:
        site.node_object(number)
    for number in numbers:
        site.start(number)


def sessions(site: Site, number: int) -> dict[str, Any]:
    return {p["address"]: p for p in site.status(number)["peers"]}


@contextlib.contextmanager
def changes(host: Namespace) -> Iterator[list[str]]:
    """What becomes of the host's routes and next hops meanwhile."""
    command = ("ip", "monitor", "route", "nexthop")
    monitor = host.popen(*command, stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    try:
        yield said
    finally:
        monitor.terminate()
        said += monitor.communicate()[0].splitlines()


def reaches(site: Site, here: int, there: int) -> bool:
    pod = site.hosts[f"p{here}-1"]
    return all(ping(pod, pod_address(there, 1, family)) for family in (0, 1))


def wait_for_routes(site: Site, here: int, there: int, limit_s: float = 60.0) -> None:
    for family in (0, 1):
        text = block(there, family)
        route = until(lambda t=text: site.routes(here).get(t), limit_s)  # type: ignore[misc]
        assert route["via"] == [address(there, family)]


def test_three_nodes_a_fourth_and_one_less(site: Site) -> None:
    up(site, 1, 2, 3)
    for here in (1, 2, 3):
        for there in {1, 2, 3} - {here}:
            wait_for_routes(site, here, there)
    for here in (1, 2, 3):
        until(lambda h=here: site.status(h)["in_sync"]["routes"])  # type: ignore[misc]
        assert site.status(here)["errors"] == {}
        for there in {1, 2, 3} - {here}:
            assert reaches(site, here, there)
        for family in (0, 1):
            assert site.routes(here)[block(here, family)]["blackhole"]
    # A node more: nobody's sessions notice but by one more.
    before = {n: sessions(site, n) for n in (1, 2, 3)}
    site.node(4)
    site.pod(4, 1)
    site.configure(4)
    up(site, 4)
    for other in (1, 2, 3):
        wait_for_routes(site, other, 4)
        wait_for_routes(site, 4, other)
        assert reaches(site, other, 4)
        now = sessions(site, other)
        for peer, was in before[other].items():
            assert now[peer]["flaps"] == 0
            assert now[peer]["since_s"] > was["since_s"], "the session was not the same one"
    # A node whose Node goes from the manifests, and which lives: by mistake, it seems.
    site.remove_object(4)
    until(lambda: site.status(1)["manifests"]["gone_nodes"] == ["n4"])
    assert sessions(site, 1)[address(4, 0)]["flaps"] == 0
    assert reaches(site, 1, 4)
    # It ends, too: no more neighbour, no more routes.
    site.kill(4, signal.SIGINT)
    until(lambda: address(4, 0) not in sessions(site, 1))
    until(lambda: block(4, 0) not in site.routes(1))
    # A node that dies without a word: only its own blocks go, when the hold time is over.
    site.hosts["n3"].ip("link", "set", "eth0", "down")
    began = time.monotonic()
    until(lambda: block(3, 0) not in site.routes(1) and block(3, 1) not in site.routes(1))
    assert time.monotonic() - began < 15
    assert reaches(site, 1, 2)
    assert sessions(site, 1)[address(2, 0)]["flaps"] == 0
    site.hosts["n3"].ip("link", "set", "eth0", "up")
    wait_for_routes(site, 1, 3)
    until(lambda: reaches(site, 3, 1))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_is_killed_keeps_its_pods_reachable(site: Site, how: signal.Signals) -> None:
    up(site, 1, 2)
    wait_for_routes(site, 1, 2)
    wait_for_routes(site, 2, 1)
    host = site.hosts["n1"]

    def kernel() -> str:
        return host.ip("route") + host.ip("-6", "route") + host.ip("nexthop")

    until(lambda: site.status(1)["in_sync"]["routes"])
    before = kernel()
    with changes(site.hosts["n1"]) as here, changes(site.hosts["n2"]) as there:
        site.kill(1, how)
        assert kernel() == before
        assert reaches(site, 1, 2)
        site.start(1)
        until(lambda: site.status(1)["in_sync"]["routes"])
        until(lambda: sessions(site, 2)[address(1, 0)]["state"] == "Established")
        until(lambda: all(f["end_of_rib"] for f in sessions(site, 2)[address(1, 0)]["families"]))
        assert kernel() == before, "adopted, not rebuilt"
        assert reaches(site, 2, 1)
    assert all(r["installed"] for r in site.status(1)["routes"])
    assert "10.244." not in "".join(here + there), "no route was touched, on either side"
    assert "2001:db8:244" not in "".join(here + there)


def test_a_dead_node_keeps_nobody_from_being_in_sync_for_ever(site: Site) -> None:
    """Node 3 does not answer: what node 1 adopted stands, and is deleted after the deferral."""
    up(site, 1, 2)
    wait_for_routes(site, 1, 2)
    site.node_object(3)
    site.kill(1)
    host = site.hosts["n1"]
    host.ip("route", "add", "blackhole", "10.244.77.0/26", "proto", "83", "metric", "1392508928")
    site.start(1, deferral_s=6)
    until(lambda: sessions(site, 1).get(address(2, 0), {}).get("state") == "Established")
    wait_for_routes(site, 1, 2)
    assert not site.status(1)["in_sync"]["routes"]
    assert "10.244.77.0/26" in host.ip("route")
    until(lambda: site.status(1)["in_sync"]["routes"])
    until(lambda: "10.244.77.0/26" not in host.ip("route"))
    assert f"without {address(3, 0)}" in site.log(1)


def test_mesh_and_gateway_at_once(site: Site) -> None:
    """Both tell of the same block by the same next hop: each may go, and no route changes."""
    both: dict[str, Any] = {"neighbors": [by_gateway()]}
    for number in (1, 2):
        site.configure(number, **both)
    site.gateway()
    up(site, 1, 2)
    wait_for_routes(site, 1, 2)
    wait_for_routes(site, 2, 1)
    until(lambda: {"0.0.0.0/0", "::/0"} <= site.routes(1).keys())
    until(lambda: site.status(1)["in_sync"]["routes"])
    until(lambda: all(f["accepted"] for f in sessions(site, 1)[ROUTER[0]]["families"]))
    assert all(f["accepted"] == 1 for f in sessions(site, 1)[address(2, 0)]["families"])
    with changes(site.hosts["n1"]) as said:
        for change in ({**both, "mesh": False}, both, {}, both):
            site.configure(1, **change)
            wanted = {ROUTER[0]} if "neighbors" in change else set()
            wanted |= set() if "mesh" in change else {address(2, 0)}
            until(lambda w=wanted: {  # type: ignore[misc]
                a for a, p in sessions(site, 1).items() if p["state"] == "Established"
            } == w)  # fmt: skip
            wait_for_routes(site, 1, 2)
            assert reaches(site, 1, 2)
    assert block(2, 0) not in "".join(said)
    assert block(2, 1) not in "".join(said)


def test_a_gateway_of_another_as_reflects_blocks_to_nodes_of_one_as(site: Site) -> None:
    for number in (1, 2):
        site.configure(number, mesh=False, neighbors=[by_gateway(AS + 1)])
    site.gateway(AS + 1)
    up(site, 1, 2)
    wait_for_routes(site, 1, 2)
    wait_for_routes(site, 2, 1)
    assert reaches(site, 1, 2)
    assert site.status(1)["refusals"] == []


def test_blocks_are_taken_up_and_given_back_one_by_one(site: Site) -> None:
    up(site, 1, 2)
    wait_for_routes(site, 2, 1)
    neighbor = "10.244.1.64/26"
    site.node_object(1, spec={"podCIDRs": [block(1, 0), neighbor, block(1, 1)]})
    until(lambda: neighbor in site.routes(2))
    assert block(1, 0) in site.routes(2), "told one by one, though they could be one /25"
    assert site.routes(1)[neighbor]["blackhole"]
    site.node_object(1)
    until(lambda: neighbor not in site.routes(2))
    assert site.routes(1)[neighbor]["blackhole"], "the blackhole stays a moment longer"
    until(lambda: neighbor not in site.routes(1))
    assert block(1, 0) in site.routes(2)
    assert sessions(site, 1)[address(2, 0)]["flaps"] == 0


def test_nobody_takes_our_pods(site: Site) -> None:
    """Node 2 claims a part of node 1's block, and something that is no pod's at all."""
    up(site, 1, 2, 3)
    wait_for_routes(site, 1, 2)
    wait_for_routes(site, 1, 3)
    site.configure(2, pod_cidrs=[block(2, 0), block(2, 1), "10.244.1.16/28", "172.16.0.0/24"])
    until(lambda: len(site.status(1)["refusals"]) == 2)
    found = {r["prefix"]: r["reason"] for r in site.status(1)["refusals"]}
    assert found == {
        "10.244.1.16/28": "within a pod block of our own",
        "172.16.0.0/24": "in none of the neighbour's import lists",
    }
    assert "10.244.1.16/28" not in site.hosts["n1"].ip("route")
    assert reaches(site, 1, 2)
    assert reaches(site, 1, 3)
    site.configure(2)
    until(lambda: not site.status(1)["refusals"])


def test_somebody_else_listens_on_our_port(site: Site) -> None:
    """It is said, and tried again; nothing else waits for it."""
    code = "import socket; s = socket.create_server(('0.0.0.0', 179)); print(flush=True); input()"
    other = site.hosts["n1"].popen(
        sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        other.stdout.readline()
        up(site, 1, 2)
        until(lambda: site.status(1)["errors"])
        assert site.status(1)["errors"] == {"neighbours": "cannot listen: Address already in use"}
        until(lambda: block(1, 0) in site.routes(1))
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    wait_for_routes(site, 1, 2)
    assert site.status(1)["errors"] == {}


def test_what_keeps_a_node_out_is_said(site: Site) -> None:
    own = site.folder / "own"
    shutil.copytree(site.manifests, own)
    site.configure(1, manifests=str(own))
    site.node_object(4, status={"addresses": []})
    site.node_object(5, status={"addresses": [{"type": "InternalIP", "address": address(2, 0)}]})
    up(site, 1, 2)
    for path in site.manifests.iterdir():
        shutil.copy(path, own)
    wait_for_routes(site, 1, 2)
    said = {n["node"]: n["text"] for n in site.status(1)["mesh"]["nodes"]}
    assert said == {
        "n2": "",
        "n4": "no InternalIP in its Node",
        "n5": "another Node has this InternalIP, too",
    }
    # Our own Node goes: what stands stays, and it is said.
    (own / "n1.yaml").unlink()
    until(lambda: site.status(1)["manifests"]["gone_nodes"] == ["n1"])
    assert sessions(site, 1)[address(2, 0)]["flaps"] == 0
    site.kill(1)
    site.start(1)
    until(lambda: site.status(1)["mesh"]["trouble"])
    assert site.status(1)["mesh"]["trouble"] == "our own Node is not known"

"""The agent's service rules by manifests: node ports, health checks, and beside kube-proxy.

client ── gw (10.83.0.1) ── node (10.83.0.11) ── pod1, pod2
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "apply"))

from flows import Client, Server
from test_agent import PODS4, VIPS, World, put, serving, until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

NODES = ("10.83.0.11", "2001:db8:83::11")
NODE_PORT, CHECK_PORT = 30080, 30100


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        made.up()
        made.configure()
        yield made
    finally:
        if (tmp_path / "agent.log").exists():
            print(made.log()[-4000:])
        made.down()


def node_object(world: World, **metadata: Any) -> None:
    put(
        world.manifests / "node.yaml",
        {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": "n1", **metadata},
            "spec": {"podCIDRs": ["10.244.1.0/24", "2001:db8:244:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in NODES]},
        },
    )


def service(world: World, **spec: Any) -> None:
    fields = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": CHECK_PORT,
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        **spec,
    }
    put(
        world.manifests / "web.yaml",
        {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"name": "web"},
            "spec": fields,
            "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in VIPS]}},
        },
    )


def checked(world: World, index: int = 0, port: int = CHECK_PORT) -> tuple[int, int] | None:
    """(status, local endpoints) as a load balancer hears it; None: nobody is there."""
    code = (
        "import http.client, sys; c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]),"
        " timeout=3); c.request('GET', '/'); r = c.getresponse();"
        " print(r.status, r.read().decode())"
    )
    said = world.gateway.run(sys.executable, "-c", code, NODES[index], str(port), check=False)
    if not said:
        return None
    status, _, body = said.partition(" ")
    return int(status), json.loads(body)["localEndpoints"]


def test_the_node_serves_its_ports(world: World) -> None:
    serving(world)
    node_object(world)
    service(world)
    for index, node in enumerate(NODES):
        until(lambda n=node: world.client.once(n, NODE_PORT).startswith("pod"))  # type: ignore[misc]
        assert world.client.many(node, NODE_PORT, 20).keys() == {"pod1", "pod2"}
        assert world.client.once(node, 22) == "host"
        assert checked(world, index) == (200, 2)
        assert world.client.open(f"held{index}", node, NODE_PORT).startswith("pod")
    assert world.status()["health_checks"] == {
        "ports": [
            {"port": CHECK_PORT, "service": "default/web", "endpoints": 2, "answer": 200,
             "error": ""}
        ],
        "conflicts": [],
    }  # fmt: skip
    # The service gives up its ports; what stands on them goes on.
    service(world, ports=[{"port": 80, "targetPort": 8080}], healthCheckNodePort=CHECK_PORT + 1)
    until(lambda: checked(world) is None)
    assert checked(world, port=CHECK_PORT + 1) == (200, 2)
    for index, node in enumerate(NODES):
        assert world.client.once(node, NODE_PORT) == "refused"
        assert world.client.echo(f"held{index}").startswith("pod")
    (world.manifests / "web.yaml").unlink()
    until(lambda: checked(world, port=CHECK_PORT + 1) is None)


def test_load_balancers_are_told_as_it_is(world: World) -> None:
    serving(world)
    node_object(world)
    service(world)
    until(lambda: checked(world) == (200, 2))
    world.endpoints("RS")
    until(lambda: checked(world) == (200, 1))
    world.endpoints("SS")
    until(lambda: checked(world) == (503, 0))
    world.endpoints("RR")
    until(lambda: checked(world) == (200, 2))
    node_object(world, annotations={"samepath.dev/drain": "yes"})
    until(lambda: checked(world) == (503, 2))
    node_object(world)
    until(lambda: checked(world) == (200, 2))
    service(world, externalTrafficPolicy="Cluster")
    until(lambda: checked(world) is None)
    assert world.status()["health_checks"]["ports"] == []


def test_a_check_port_that_somebody_has(world: World) -> None:
    other = Server(world.node, "other", CHECK_PORT)
    try:
        serving(world)
        service(world)
        error = f"port {CHECK_PORT}: Address already in use"
        until(lambda: world.status()["errors"].get("health checks") == error)
        assert world.peer.service() == (False, 2)
    finally:
        other.stop()
    until(lambda: checked(world) == (200, 2))
    assert world.status()["errors"] == {}


def test_load_balancers_are_sent_elsewhere_until_the_rules_stand(world: World) -> None:
    world.node_object()
    service(world)
    world.endpoints("RR")
    tools = world.folder / "bin"
    tools.mkdir()
    (tools / "nft").write_text("#!/bin/sh\nexit 7\n")
    (tools / "nft").chmod(0o755)
    (tools / "conntrack").symlink_to("/usr/sbin/conntrack")
    world.start(path=f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin")
    until(lambda: checked(world) == (503, 2))
    (tools / "nft").unlink()
    (tools / "nft").symlink_to("/usr/sbin/nft")
    until(lambda: checked(world) == (200, 2))


# -- beside kube-proxy ------------------------------------------------------------------------

KUBE_PROXY = f"""
table ip kube-proxy {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {VIPS[0]} tcp dport 80 dnat to {PODS4.format(1)}:8080
  }}
  chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
}}
"""


def test_beside_kube_proxy(world: World) -> None:
    (world.folder / "kube-proxy.nft").write_text(KUBE_PROXY)
    world.node.run("nft", "-f", str(world.folder / "kube-proxy.nft"))
    theirs = world.node.run("nft", "list", "table", "ip", "kube-proxy")
    world.configure(serviceProxy="none")
    serving(world)
    node_object(world)
    service(world)
    # Advertised by its endpoints; nothing of ours answers for it.
    assert VIPS[0] not in world.node.ip("address", "show", "dev", "lo")
    assert world.client.once(VIPS[0], 80) == "pod1"
    assert world.client.open("held", VIPS[0], 80) == "pod1"
    assert checked(world) is None
    # A port that kube-proxy does not serve: not for ever back and forth between gateway and node.
    forwarded = before_and_after(world, lambda: world.client.once(VIPS[0], 81))
    assert forwarded == ("refused", True)
    assert world.gateway.run("ping", "-c", "1", "-W", "1", VIPS[0], check=False).count("100%")
    world.endpoints("R-")
    until(lambda: world.peer.service() == (False, 1))
    # To ours, and back to theirs: the connection does not notice.
    world.configure()
    until(lambda: world.status()["rules"]["in_place"] and world.status()["rules"]["services"])
    until(lambda: checked(world) == (200, 1))
    assert world.client.once(NODES[0], NODE_PORT) == "pod1"
    assert world.client.echo("held") == "pod1"
    assert world.client.open("ours", NODES[0], NODE_PORT) == "pod1"
    world.configure(serviceProxy="none")
    until(lambda: checked(world) is None)
    until(lambda: "dnat to" not in ours(world))
    assert world.client.once(NODES[0], NODE_PORT) == "refused"
    assert world.client.echo("held") == "pod1"
    assert world.client.echo("ours") == "pod1"
    assert world.client.once(VIPS[0], 80) == "pod1"
    assert world.node.run("nft", "list", "table", "ip", "kube-proxy") == theirs


def ours(world: World) -> str:
    return world.node.run("nft", "list", "table", "inet", "samepath", check=False)


def before_and_after(world: World, ask: Any) -> tuple[str, bool]:
    """The answer, and whether few packets were forwarded for it."""

    def forwarded() -> int:
        for line in world.node.run("cat", "/proc/net/snmp").splitlines():
            if line.startswith("Ip: ") and line.split()[1].isdigit():
                return int(line.split()[6])
        raise AssertionError

    before = forwarded()
    answer = str(ask())
    return answer, forwarded() - before < 20


def test_flows_of_a_pod_that_is_gone(world: World) -> None:
    """UDP finds another endpoint, TCP learns of it; on service addresses and on node ports."""
    serving(world)
    node_object(world)
    service(
        world,
        ports=[
            {"name": "t", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
            {"name": "u", "port": 53, "targetPort": 8080, "protocol": "UDP", "nodePort": 30053},
        ],
    )
    named_endpoints(world, "RR")
    until(lambda: world.client.udp(NODES[1], 30053).startswith("pod"))
    targets = [(VIPS[0], 53, 80), (VIPS[1], 53, 80), (NODES[0], 30053, NODE_PORT)]
    said = [world.client.udp(host, udp, 40000 + i) for i, (host, udp, _) in enumerate(targets)]
    held = {
        f"{i}-{n}": world.client.open(f"{i}-{n}", host, tcp)
        for i, (host, _, tcp) in enumerate(targets)
        for n in range(6)
    }
    assert all(answer.startswith("pod") for answer in (*said, *held.values()))
    named_endpoints(world, "-R")
    for index, (host, udp, _) in enumerate(targets):
        until(lambda h=host, u=udp, i=index: world.client.udp(h, u, 40000 + i) == "pod2")  # type: ignore[misc]
    gone = [name for name, server in held.items() if server == "pod1"]
    assert gone
    for name, server in held.items():
        assert world.client.echo(name) == ("reset" if name in gone else server)


def named_endpoints(world: World, states: str) -> None:
    """As `World.endpoints`, for the two ports."""
    world.endpoints(states)
    path = world.manifests / "web-slices.yaml"
    documents = list(yaml.safe_load_all(path.read_text()))
    for document in documents:
        document["ports"] = [
            {"name": "t", "port": 8080},
            {"name": "u", "port": 8080, "protocol": "UDP"},
        ]
    put(path, *documents)


def test_a_client_in_a_pod(world: World) -> None:
    """Kept for its timeout, by its own service address."""
    serving(world)
    node_object(world)
    service(
        world,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 30}},
        loadBalancerSourceRanges=["10.83.0.0/24", "2001:db8:83::/64"],
    )
    pod = Client(world.pods[0])
    try:
        until(lambda: "timeout 30s" in ours(world) and "guarded4" in ours(world))
        until(lambda: pod.once(VIPS[0], 80) == "timeout")  # it is in none of the ranges
        first = pod.once(NODES[0], NODE_PORT)
        assert pod.many(NODES[0], NODE_PORT, 8) == {first: 8}
        first = world.client.once(VIPS[0], 80)
        assert world.client.many(VIPS[0], 80, 8) == {first: 8}
    finally:
        pod.stop()

"""Topology and the files that follow from it: pure, and what our own programs accept."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from samepath.kube.objects import parse_objects
from samepath.lab import build, render
from samepath.lab.render import Condition, Endpoint
from samepath.lab.running import node_of
from samepath.lab.scenario import Doing, classify, strip
from samepath.lab.steps import chosen
from samepath.lab.topology import Pod, Spec, Topology, read_spec, topology
from samepath.lab.traffic import Broken
from samepath.model.cluster import make_cluster
from samepath.model.config import AgentConfig, GatewayConfig
from samepath.model.documents import parse

DOCUMENTATION = [ipaddress.ip_network(p) for p in (
    "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "10.0.0.0/8",
)]  # fmt: skip


@pytest.fixture
def world() -> Topology:
    return topology(Spec())


def test_every_address_is_for_documentation_and_is_there_once(world: Topology) -> None:
    words = [c.split() for host in build.hosts(world).hosts.values() for c in host.commands]
    addresses = [w[2].split("/")[0] for w in words if w[:2] == ["addr", "add"]]
    assert len(addresses) == len(set(addresses)) > 50
    for address in map(ipaddress.ip_address, addresses):
        assert any(address in n for n in DOCUMENTATION if n.version == address.version)


def test_every_cable_ends_in_hosts(world: Topology) -> None:
    plan = build.hosts(world)
    assert set(plan.hosts) == set(world.hosts)
    ends = [(c.a, c.a_port) for c in plan.cables] + [(c.b, c.b_port) for c in plan.cables]
    assert len(ends) == len(set(ends))
    assert {host for host, _ in ends} <= set(plan.hosts)
    assert all(len(port) <= 15 for _, port in ends)


def test_a_topology_of_another_size(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text("clients: 12\ngateways: 8\nnodes: 64\nspares: 16\npods_per_node: 16\n")
    world = topology(read_spec(file))
    assert (len(world.working), len(world.spares), len(world.gateways)) == (64, 16, 8)
    addresses = [n.segment4 for n in world.nodes] + [g.segment4 for g in world.gateways]
    assert len(set(addresses)) == 88


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: 0", "nodes: 1 to 64, not 0"),
        ("nods: 4", "nods"),
        ("clients: many", "clients"),
        ("buckets: 5000", "buckets"),
        ("hash_seed: 7\nupstream_hash_seed: 7", "another one than hash_seed"),
        ("grace_s: 0", "grace_s"),
        (": :", "bad.yaml"),
    ],
)
def test_a_bad_topology_is_refused_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as error:
        read_spec(file)
    assert said in str(error.value)


def test_gateway_configurations_are_accepted_and_alike(world: Topology) -> None:
    texts = {
        (g.name, plane): render.gateway_config(world, g, plane, "/run/x", 4)
        for g in world.gateways
        for plane in ("kernel", "plain")
    }
    configs = {k: msgspec.convert(yaml.safe_load(t), GatewayConfig) for k, t in texts.items()}
    assert len({c.hash_seed for c in configs.values()}) == 1
    assert {c.neighbors[0].hold_time_s for c in configs.values()} == {9}
    kernel, plain = texts["gw1", "kernel"].splitlines(), texts["gw1", "plain"].splitlines()
    differing = [(a, b) for a, b in zip(kernel, plain, strict=True) if a != b]
    assert differing == [("dataplane: kernel", "dataplane: plain")]


def test_agent_configurations_are_accepted(world: Topology) -> None:
    places = render.Places("/run/x/manifests", "/run/x", "/run/x/store.db", "/run/claims")
    for node in world.nodes:
        text = render.agent_config(world, node, places)
        config = msgspec.convert(yaml.safe_load(text), AgentConfig)
        assert [n.address for n in config.neighbors] == ["10.83.0.1", "10.83.0.2"]
        assert config.node == node.name
        assert config.cni is not None
        assert config.cni.block_claims == "/run/claims"


def test_configurations_for_the_api_server_are_accepted() -> None:
    world = topology(Spec(source="api-server"))
    assert world.control is not None
    assert "cp" in world.hosts
    places = render.Places("", "/run/x", "/run/x/store.db", "/run/claims", "/run/kubeconfig")
    agent = msgspec.convert(
        yaml.safe_load(render.agent_config(world, world.nodes[0], places)), AgentConfig
    )
    assert agent.manifests is None
    assert agent.kubernetes is not None
    assert agent.kubernetes.kubeconfig == "/run/kubeconfig"
    assert agent.cni is not None
    assert agent.cni.block_claims is None
    text = render.gateway_config(world, world.gateways[0], "kernel", "/run/x", 4, "/run/kubeconfig")
    gateway = msgspec.convert(yaml.safe_load(text), GatewayConfig)
    assert gateway.nodes is not None
    assert gateway.nodes.import_.services == ["203.0.113.0/24", "2001:db8:113::/48"]
    assert gateway.expected_peers == 0
    assert [n.address for n in gateway.neighbors] == [world.gateways[0].upstream4]


def test_pools_and_nodes_are_accepted(world: Topology) -> None:
    """By the agents' own reader: every object, and no Node with a block of its own."""
    objects = [
        thing
        for name, text in render.manifests(world.nodes, [], []).items()
        for document in parse(text, name)
        for _, thing in parse_objects(document)
    ]
    cluster = make_cluster(objects)
    assert {p.block_size for p in cluster.pools.values()} == {26, 122}
    assert len(cluster.nodes) == 6
    assert not any(n.pod_cidrs for n in cluster.nodes.values())


def test_bird_accepts_its_configuration(world: Topology, tmp_path: Path) -> None:
    file = tmp_path / "bird.conf"
    file.write_text(render.bird_config(world, str(tmp_path / "log")))
    done = subprocess.run(
        ["/usr/sbin/bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "merge paths on" in file.read_text()


def test_manifests_say_what_is(world: Topology) -> None:
    pods = [Pod(f"web-n1-{i}", "n1", f"10.244.0.{i}", f"2001:db8:244::{i}") for i in (1, 2)]
    endpoints = [Endpoint(pods[1], Condition.TERMINATING), Endpoint(pods[0], Condition.READY)]
    files = render.manifests(world.working, ["n2"], endpoints)
    documents = {name: yaml.safe_load(text) for name, text in files.items()}
    assert render.DRAIN_LABEL in documents["node-n2.yaml"]["metadata"]["labels"]
    assert render.DRAIN_LABEL not in documents["node-n1.yaml"]["metadata"]["labels"]
    listed = documents["endpoints-ipv6.yaml"]["endpoints"]
    assert [e["targetRef"]["name"] for e in listed] == ["web-n1-1", "web-n1-2"]
    assert listed[0]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert listed[1]["conditions"] == {"ready": False, "serving": True, "terminating": True}
    assert documents["service.yaml"]["spec"]["externalTrafficPolicy"] == "Local"


def broken(pod: str = "web-n1-1", silent_s: float = 0.0, target: str = "203.0.113.10") -> Broken:
    return Broken(pod, "reset", silent_s, ("198.51.100.2", 1), (target, 80))


def test_each_break_has_one_class() -> None:
    doing = Doing(own_nodes={"n2"}, differing={"ipv4": {7}, "ipv6": set()})
    assert classify(broken(), 1, doing, 30) == "broken_others"
    assert classify(broken("web-n2-9", 99), 7, doing, 30) == "broken_own"
    assert classify(broken(silent_s=31), 7, doing, 30) == "broken_silent"
    assert classify(broken(silent_s=29), 1, doing, 30) == "broken_others"
    assert classify(broken(), 7, doing, 30) == "broken_in_move"
    assert classify(broken(target="2001:db8:113::10"), 7, doing, 30) == "broken_others"


def test_small_things() -> None:
    assert node_of("web-n3-12") == "n3"
    assert node_of("stranger") == "?"
    assert strip(["n1", "n3", "x"], ["n1", "n2", "n3"]) == "02?"
    assert [name for name, _, _ in chosen(("drain", "add"))] == ["add", "drain"]
    with pytest.raises(ValueError, match="no step 'ad': there are gateway_kill, add"):
        chosen(("ad",))

"""Service rules in the kernel: node ports, source ranges, clients that are kept, ports that change,
flows that are to be forgotten, and somebody else's rules beside ours.

client ── node ── pod1, pod2 (on this node), pod3 (on another one)
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from flows import Client
from nft_bench import (
    CLUSTER_IPS,
    NODES,
    PODS4,
    VIPS,
    Bench,
    made_bench,
    ready,
    rules_of,
    until,
)

from samepath.apply import conntrack
from samepath.apply.nft import Rules, clients_in_kernel
from samepath.model.cluster import Protocol
from samepath.model.net import parse_address
from samepath.plan import flows
from samepath.plan.ruleset import Claim

pytestmark = [pytest.mark.netns, pytest.mark.timeout(360)]

NODE_PORTS = (30080, 30053)
CLIENT = ("192.0.2.2", "2001:db8:2::2")
BOTH = pytest.mark.parametrize("index", [0, 1])


@pytest.fixture(scope="module")
def made() -> Iterator[Bench]:
    with made_bench() as bench:
        yield bench


@pytest.fixture
def bench(made: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return ready(made, monkeypatch)


# -- node ports -------------------------------------------------------------------------------


@BOTH
def test_a_node_port_with_policy_cluster(bench: Bench, index: int) -> None:
    bench.write("RRR", local=False, node_ports=NODE_PORTS)
    node = NODES[index]
    assert bench.client.many(node, 30080, 60).keys() == {"pod1", "pod2", "pod3"}
    assert bench.client.udp(node, 30053) in ("pod1", "pod2", "pod3")
    bench.write("R--", local=False, node_ports=NODE_PORTS)
    assert bench.client.source(node, 30080) == CLIENT[index]
    bench.write("--R", local=False, node_ports=NODE_PORTS)
    assert bench.client.once(node, 30080) == "pod3"
    assert bench.client.source(node, 30080) != CLIENT[index]  # the way back leads through the node
    bench.write("---", local=False, node_ports=NODE_PORTS)
    assert bench.client.once(node, 30080) == "refused"
    assert bench.client.udp(node, 30053) == "refused"


@BOTH
def test_a_node_port_with_policy_local(bench: Bench, index: int) -> None:
    bench.write("RRR", node_ports=NODE_PORTS)
    node = NODES[index]
    assert bench.client.many(node, 30080, 40).keys() == {"pod1", "pod2"}
    assert bench.client.source(node, 30080) == CLIENT[index]
    bench.write("TSR", node_ports=NODE_PORTS)
    assert bench.client.many(node, 30080, 10) == {"pod2": 10}
    bench.write("TTR", node_ports=NODE_PORTS)
    assert bench.client.once(node, 30080) == "timeout"
    bench.write("---", node_ports=NODE_PORTS)
    assert bench.client.once(node, 30080) == "refused"


@BOTH
def test_a_node_port_goes_before_the_hosts_listener(bench: Bench, index: int) -> None:
    bench.write("R--")
    assert bench.client.once(NODES[index], 22) == "host"
    assert bench.client.open("shell", NODES[index], 22) == "host"
    bench.write("R--", node_ports=(22, 30053))
    assert bench.client.once(NODES[index], 22) == "pod1"
    bench.write("--R", node_ports=(22, 30053))
    assert bench.client.once(NODES[index], 22) == "timeout"  # not the host's, either
    assert bench.client.echo("shell") == "host"
    on_node = Client(bench.node)
    try:
        assert on_node.once(("127.0.0.1", "::1")[index], 22) == "host"
    finally:
        on_node.stop()
    bench.write("R--")
    assert bench.client.once(NODES[index], 22) == "host"


@BOTH
def test_node_ports_from_a_pod_and_from_the_node(bench: Bench, index: int) -> None:
    bench.write("R-R", node_ports=NODE_PORTS)
    for host in (bench.pods[0], bench.node):
        inside = Client(host)
        try:
            # pod1 reaches itself, too: the hairpin.
            assert inside.many(NODES[index], 30080, 40).keys() == {"pod1", "pod3"}
        finally:
            inside.stop()


@BOTH
def test_an_endpoint_that_is_the_node_itself(bench: Bench, index: int) -> None:
    """A pod in the host's network; also where the node port is the very port that it listens on."""
    hosts = [Client(host) for host in (bench.client_host, bench.pods[0], bench.node)]
    try:
        for node_port in (30022, 22):
            bench.write("R", at=NODES, target=22, node_ports=(node_port, 30053), affinity=100)
            for client in hosts:
                for address, port in ((VIPS[index], 80), (CLUSTER_IPS[index], 80)):
                    assert client.once(address, port) == "host"
                assert client.once(NODES[index], node_port) == "host"
                assert client.once(NODES[index], 22) == "host"
    finally:
        for client in hosts:
            client.stop()


def test_the_rest_of_the_node_is_its_own(bench: Bench) -> None:
    bench.write("RRR", node_ports=NODE_PORTS)
    for node in NODES:
        assert bench.client.once(node, 22) == "host"
        assert bench.client.once(node, 80) == "refused"  # by the kernel: nobody listens
        bench.client_host.run("ping", "-c", "1", "-W", "2", node)


# -- what others bring here ------------------------------------------------------------------


@BOTH
def test_the_address_of_another_load_balancer(bench: Bench, index: int) -> None:
    """Its ports are served; the rest of the address is not ours."""
    vip = VIPS[index]

    def write(states: str, *, local: bool = True, ranges: tuple[str, ...] = ()) -> None:
        bench.write(states, local=local, ranges=ranges, load_balancer_class="example.com/lb")
        assert parse_address(vip) not in bench.ruleset.addresses

    write("RRR")
    assert bench.client.many(vip, 80, 20).keys() == {"pod1", "pod2"}
    assert bench.client.source(vip, 80) == CLIENT[index]
    assert bench.client.once(vip, 22) == "host"
    write("--R", local=False)
    assert bench.client.once(vip, 80) == "pod3"
    assert bench.client.source(vip, 80) != CLIENT[index]
    write("--R")
    assert bench.client.once(vip, 80) == "timeout"
    write("---")
    assert bench.client.once(vip, 80) == "refused"
    write("RRR", ranges=("198.51.100.0/24", "2001:db8:3::/64"))
    assert bench.client.once(vip, 80) == "timeout"


@BOTH
def test_one_that_is_not_on_the_node_is_not_forwarded(bench: Bench, index: int) -> None:
    vip, length = VIPS[index], (32, 128)[index]
    bench.node.ip("address", "del", f"{vip}/{length}", "dev", "lo")
    on_node = Client(bench.node)
    try:
        bench.write("---", load_balancer_class="example.com/lb")
        assert bench.client.once(vip, 80) == "refused"
        assert on_node.once(vip, 80) == "refused"
        bench.write("R--", load_balancer_class="example.com/lb")
        assert bench.client.once(vip, 80) == on_node.once(vip, 80) == "pod1"
    finally:
        on_node.stop()
        bench.node.ip("address", "add", f"{vip}/{length}", "dev", "lo")


def test_sctp_stands_beside_tcp_on_one_port(bench: Bench) -> None:
    """The rules; this kernel may have no SCTP to send."""
    for affinity in (None, 100):
        bench.write("RRR", sctp=True, node_ports=NODE_PORTS, affinity=affinity, local=False)
        text = bench.node.run("nft", "list", "table", "inet", "samepath")
        assert f"{VIPS[0]} . sctp . 80 : goto" in text
        assert f"{NODES[0]} . sctp . 30080 : goto" in text
        assert bench.client.once(VIPS[0], 80).startswith("pod")
        assert bench.client.once(NODES[0], 30080).startswith("pod")


# -- loadBalancerSourceRanges -----------------------------------------------------------------


def test_source_ranges_hold_for_the_load_balancer_alone(bench: Bench) -> None:
    ranges = ["192.0.2.0/24", "198.51.100.0/25", "198.51.100.128/25", "2001:db8:2::/64"]
    bench.write("RRR", ranges=ranges)
    for vip in VIPS:
        assert bench.client.once(vip, 80).startswith("pod")
        assert bench.client.open(vip, vip, 80).startswith("pod")
    bench.write("RRR", ranges=["198.51.100.0/24", "2001:db8:3::/64"], node_ports=NODE_PORTS)
    for vip, node in zip(VIPS, NODES, strict=True):
        assert bench.client.once(vip, 80) == "timeout"
        assert bench.client.udp(vip, 53) == "timeout"
        assert bench.client.echo(vip).startswith("pod")  # what stands goes on
        bench.client_host.run("ping", "-c", "1", "-W", "2", vip)
        assert bench.client.once(node, 30080).startswith("pod")
        assert bench.client.once(vip, 22) == "refused"
    for cluster_ip in CLUSTER_IPS:
        assert bench.client.once(cluster_ip, 80).startswith("pod")
    bench.write("RRR", ranges=["198.51.100.0/24"])  # says nothing of IPv6
    assert bench.client.once(VIPS[0], 80) == "timeout"
    assert bench.client.once(VIPS[1], 80).startswith("pod")
    bench.write("RRR", ranges=["198.51.100.0/24", "0.0.0.0/0"])
    assert bench.client.once(VIPS[0], 80).startswith("pod")


def test_source_ranges_hold_for_pods_and_the_node(bench: Bench) -> None:
    bench.write("RRR", ranges=["192.0.2.2/32", f"{PODS4.format(2)}/32", "2001:db8:2::2/128"])
    for host, answer in ((bench.pods[0], "timeout"), (bench.pods[1], "pod"), (bench.node, "")):
        inside = Client(host)
        try:
            assert inside.once(VIPS[0], 80).startswith(answer or "timeout")
            assert inside.once(CLUSTER_IPS[0], 80).startswith("pod")
        finally:
            inside.stop()


# -- sessionAffinity --------------------------------------------------------------------------


def test_a_client_is_kept_whatever_comes(bench: Bench) -> None:
    """Known at the node, it stays, though the endpoint's slots would be another's now."""
    inside = Client(bench.pods[1])
    try:
        for client, address in ((bench.client, VIPS[0]), (inside, CLUSTER_IPS[0])):
            bench.node.run("nft", "flush", "ruleset")
            bench.rules = Rules()
            bench.write("R--", local=False, affinity=100)
            assert client.once(address, 80) == "pod1"
            bench.write("RRR", local=False, affinity=100)
            assert client.many(address, 80, 12) == {"pod1": 12}
            assert client.udp(address, 53).startswith("pod")
            # As a whole: what was learned is carried over.
            bench.rules.applied = None
            bench.write("RRR", local=False, affinity=99)
            assert client.many(address, 80, 12) == {"pod1": 12}
            # Another agent adopts it.
            bench.rules = Rules()
            bench.write("RRR", local=False, affinity=99)
            assert client.many(address, 80, 12) == {"pod1": 12}
    finally:
        inside.stop()


@pytest.mark.parametrize("states", ["SRR", "TRR", "-RR"])
def test_a_client_leaves_an_endpoint_that_takes_no_new_flows(bench: Bench, states: str) -> None:
    bench.write("R--", affinity=100)
    assert bench.client.open("held", VIPS[0], 80) == "pod1"
    bench.write(states, affinity=100)
    assert bench.client.many(VIPS[0], 80, 12) == {"pod2": 12}
    assert bench.client.echo("held") == "pod1"
    assert {c.backend[0] for c in asyncio.run(clients_in_kernel())} == {
        parse_address(PODS4.format(2))
    }
    bench.write("RRR", affinity=100)
    assert bench.client.many(VIPS[0], 80, 12) == {"pod2": 12}


def test_a_client_from_outside_leaves_a_remote_endpoint_for_policy_local(bench: Bench) -> None:
    bench.write("--R", local=False, affinity=100)
    inside = Client(bench.pods[0])
    try:
        assert inside.once(VIPS[0], 80) == "pod3"
        assert bench.client.once(VIPS[0], 80) == "pod3"
        bench.write("RRR", affinity=100)
        assert set(bench.client.many(VIPS[0], 80, 6)) <= {"pod1", "pod2"}
        assert inside.many(VIPS[0], 80, 6) == {"pod3": 6}
    finally:
        inside.stop()


def test_the_timeout_counts_from_the_last_new_flow(bench: Bench) -> None:
    inside = Client(bench.pods[0])
    try:
        bench.write("RRR", local=False, affinity=2)
        first = inside.once(CLUSTER_IPS[0], 80)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert inside.once(CLUSTER_IPS[0], 80) == first
            time.sleep(0.2)
        until(lambda: asyncio.run(clients_in_kernel()) == [])
        # Who comes anew after that may get any.
        found = set()
        for _ in range(8):
            found.add(inside.once(CLUSTER_IPS[0], 80))
            bench.node.run("nft", "flush", "map", "inet", "samepath", "clients4")
        assert len(found) > 1
    finally:
        inside.stop()


@BOTH
def test_nodes_agree_on_a_client_that_they_do_not_know(bench: Bench, index: int) -> None:
    bench.write("RRR", local=False, affinity=100)
    first = bench.client.once(VIPS[index], 80)
    for _ in range(6):
        bench.node.run("nft", "flush", "map", "inet", "samepath", "clients4")
        assert bench.client.once(VIPS[index], 80) == first


# -- ports and endpoints that change ----------------------------------------------------------


@BOTH
def test_connections_outlive_a_change_of_ports(bench: Bench, index: int) -> None:
    vip, node = VIPS[index], NODES[index]
    bench.write("R--", node_ports=NODE_PORTS)
    assert bench.client.open("service", vip, 80) == "pod1"
    assert bench.client.open("node", node, 30080) == "pod1"
    bench.write("R--", forget=True, ports=(81, 54), target=8081, node_ports=(30081, 30054))
    assert bench.client.once(vip, 80) == "refused"
    assert bench.client.once(vip, 81) == "refused"  # by the pod, that does not listen there
    assert bench.client.once(node, 30080) == "refused"
    assert bench.client.echo("service") == "pod1"
    assert bench.client.echo("node") == "pod1"
    bench.write("-R-", forget=True, node_ports=NODE_PORTS)


@BOTH
def test_connections_end_with_their_endpoint(bench: Bench, index: int) -> None:
    vip, node = VIPS[index], NODES[index]
    bench.write("RR-", node_ports=NODE_PORTS)
    opened = {}
    for number in range(12):
        opened[f"v{number}"] = bench.client.open(f"v{number}", vip, 80)
        opened[f"n{number}"] = bench.client.open(f"n{number}", node, 30080)
    bench.write("-R-", forget=True, node_ports=NODE_PORTS)
    for name, server in opened.items():
        assert bench.client.echo(name) == ("reset" if server == "pod1" else "pod2")


@BOTH
def test_udp_goes_elsewhere_when_its_endpoint_is_gone(bench: Bench, index: int) -> None:
    vip, node = VIPS[index], NODES[index]
    bench.write("R--", node_ports=NODE_PORTS)
    for address, port in ((vip, 53), (node, 30053)):
        assert bench.client.udp(address, port, 40000) == "pod1"
    bench.write("-R-", node_ports=NODE_PORTS)
    assert bench.client.udp(vip, 53, 40000) == "pod1"  # conntrack knows no better
    bench.write("R--", node_ports=NODE_PORTS)
    bench.write("-R-", forget=True, node_ports=NODE_PORTS)
    for address, port in ((vip, 53), (node, 30053)):
        assert bench.client.udp(address, port, 40000) == "pod2"


@BOTH
def test_udp_that_began_before_the_rules(bench: Bench, index: int) -> None:
    """It was not translated; as long as the client goes on, it would not be."""
    bench.write("R--")
    assert bench.client.udp(NODES[index], 22, 40000) == "host"
    bench.write("R--", node_ports=(30080, 22))
    assert bench.client.udp(NODES[index], 22, 40000) == "host"
    bench.write("R--")
    bench.write("R--", forget=True, node_ports=(30080, 22))
    assert bench.client.udp(NODES[index], 22, 40000) == "pod1"


def test_only_the_port_that_is_meant_is_forgotten(bench: Bench) -> None:
    vip, pod1 = parse_address(VIPS[0]), parse_address(PODS4.format(1))
    bench.write("R--")
    assert bench.client.open("old", VIPS[0], 80) == "pod1"
    bench.write("R--", ports=(81, 53))
    assert bench.client.open("new", VIPS[0], 81) == "pod1"
    asyncio.run(conntrack.forget(flows.Tracked(Claim(vip, "tcp", 81), pod1, None)))
    there = {t.claim.port for t in asyncio.run(conntrack.flows_to([vip]))}
    assert there == {80}


def test_what_was_lost_while_nobody_looked(bench: Bench) -> None:
    bench.write("RR-", node_ports=NODE_PORTS)
    held = {f"h{i}": bench.client.open(f"h{i}", VIPS[0], 80) for i in range(8)}
    assert set(held.values()) == {"pod1", "pod2"}
    assert bench.client.open("shell", NODES[0], 22) == "host"
    bench.client.udp(VIPS[0], 53, 40001)
    new = rules_of("-R-", node_ports=NODE_PORTS)
    found = asyncio.run(conntrack.flows_to(flows.addresses(new)))
    lost = flows.are_lost(found, new)
    pod1 = parse_address(PODS4.format(1))
    assert {t.endpoint for t in lost} == {pod1}
    assert all(t.claim.address == parse_address(VIPS[0]) for t in lost)


# -- somebody else's rules --------------------------------------------------------------------

KUBE_PROXY = f"""
table ip kube-proxy {{
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {VIPS[0]} tcp dport 80 dnat to {PODS4.format(2)}:8080
    ip daddr 198.51.100.7 tcp dport 80 dnat to {PODS4.format(2)}:8080
    ip daddr {NODES[0]} tcp dport 30500 dnat to {PODS4.format(3)}:8080
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip daddr {PODS4.format(3)} masquerade
  }}
}}
"""


def test_beside_the_rules_of_another_proxy(bench: Bench, tmp_path: Path) -> None:
    """What is not ours is translated by theirs; of what both claim, the first in the hook decides,
    and there is one answer, not two."""
    (tmp_path / "rules").write_text(KUBE_PROXY)
    bench.node.run("nft", "-f", str(tmp_path / "rules"))
    theirs = bench.node.run("nft", "list", "table", "ip", "kube-proxy")
    assert bench.client.open("held", VIPS[0], 80) == "pod2"
    bench.write("R--", node_ports=NODE_PORTS)
    assert bench.client.once("198.51.100.7", 80) == "pod2"
    assert bench.client.once(NODES[0], 30500) == "pod3"
    assert bench.client.once(NODES[0], 30080) == "pod1"
    assert bench.client.once(VIPS[0], 80) in ("pod1", "pod2")
    assert bench.client.echo("held") == "pod2"
    # `serviceProxy: none`: our table goes, and what it has translated goes on all the same.
    assert bench.client.open("ours", NODES[0], 30080) == "pod1"
    asyncio.run(bench.rules.remove())
    assert bench.client.once(VIPS[0], 80) == "pod2"
    assert bench.client.echo("held") == "pod2"
    assert bench.client.echo("ours") == "pod1"
    assert bench.node.run("nft", "list", "table", "ip", "kube-proxy") == theirs


def test_what_the_tool_saves_it_can_read(bench: Bench, tmp_path: Path) -> None:
    for more in ({"affinity": 100}, {}):
        bench.write("RSR", node_ports=NODE_PORTS, ranges=["192.0.2.0/24", "::/0"], **more)
        bench.client.once(VIPS[0], 80)
        (tmp_path / "rules").write_text(bench.node.run("nft", "list", "ruleset"))
        bench.node.run("nft", "flush", "ruleset")
        bench.node.run("nft", "-f", str(tmp_path / "rules"))
        assert bench.client.once(VIPS[0], 80) == "pod1"
        bench.rules = Rules()
        bench.write("RSR", node_ports=NODE_PORTS, ranges=["192.0.2.0/24", "::/0"], **more)


WORLDS: list[tuple[str, dict[str, Any]]] = [
    ("RRR", {"only": Protocol.UDP}),
    ("R--", {"only": Protocol.SCTP, "sctp": True}),
    ("RR-", {"sctp": True, "affinity": 100}),
    ("SRR", {"affinity": 50, "local": False, "node_ports": NODE_PORTS}),
    ("RRR", {"ranges": ("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32")}),
    ("RRR", {"ranges": ("192.0.2.0/25", "2001:db8::/33"), "affinity": 50, "count": 3}),
    ("---", {"node_ports": NODE_PORTS, "count": 2}),
    ("R-R", {"node_ports": (22, 30054), "ranges": ("10.0.0.0/8",), "sctp": True}),
    ("RRR", {"load_balancer_class": "example.com/lb", "ranges": ("fd00::/8",)}),
    ("TTT", {"only": Protocol.TCP, "affinity": 7}),
]


@pytest.mark.parametrize("only", list(Protocol))
def test_one_protocol_alone(bench: Bench, only: Protocol) -> None:
    """Whichever comes first, none keeps the others' rules from being written."""
    bench.write("RRR", only=only, sctp=True)
    bench.write("RRR", sctp=True, local=False)
    assert bench.rules.wholes == 1
    assert bench.client.once(VIPS[0], 80).startswith("pod")
    assert bench.client.udp(VIPS[1], 53).startswith("pod")


def test_every_change_is_a_change_and_history_does_not_matter(bench: Bench) -> None:
    def table() -> list[str]:
        text = bench.node.run("nft", "-s", "list", "table", "inet", "samepath")
        return sorted(text.replace(",", "\n").split())

    fresh = []
    for states, more in WORLDS:
        bench.node.run("nft", "flush", "ruleset")
        bench.rules = Rules()
        bench.write(states, **more)
        fresh.append(table())
    for step in (1, 3, 7):
        for number in range(len(WORLDS)):
            states, more = WORLDS[number * step % len(WORLDS)]
            bench.write(states, **more)
            assert table() == fresh[number * step % len(WORLDS)], (step, number)
    assert bench.rules.wholes == 1

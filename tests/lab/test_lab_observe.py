"""The lab's eyes, on a lab without our programs: pods, routes, groups, service rules by iproute2.

So what the lab reports of a gateway is tested against what somebody else wrote into its kernel.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from samepath.lab import observe
from samepath.lab.build import batch
from samepath.lab.netns import ip
from samepath.lab.removal import down
from samepath.lab.running import Lab
from samepath.lab.scenario import TARGETS
from samepath.lab.state import wait
from samepath.lab.topology import POD_PORT, SERVICE_ADDRESSES, Node, Pod, Spec, Topology
from samepath.lab.traffic import SERVER_SCRIPT, script

BUCKETS = 16
POD_MAC = "ee:ee:ee:ee:ee:ee"
SERVICE4, SERVICE6 = SERVICE_ADDRESSES


def test_bird_sessions_are_read() -> None:
    text = """BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
kernel4    Kernel     master4    up     2026-01-02 03:04:05.006
gw1        BGP        ---        up     2026-01-02 03:04:06.500  Established
gw2        BGP        ---        start  2026-01-02 03:04:07.000  Active        Socket: Refused
"""
    ((name, since),) = observe.parse_bird(text)
    assert name == "gw1"
    assert since % 60 == pytest.approx(6.5)


def test_a_lost_session_is_told_unless_it_is_excused() -> None:
    before = observe.Sessions({("gw1", "n1"): 100.0, ("n1", "gw1"): 100.0, ("gw2", "n1"): 90.0})
    flapped = observe.Sessions({("gw1", "n1"): 130.0, ("n1", "gw1"): 100.4, ("gw2", "n1"): 90.0})
    assert before.lost(flapped, ()) == ["gw1 lost its session with n1"]
    assert before.lost(flapped, {"gw1"}) == []
    assert before.lost(flapped, {"n1"}) == []
    gone = observe.Sessions({("gw1", "n1"): 100.0, ("n1", "gw1"): 100.0, ("gw1", "n9"): 130.0})
    assert before.lost(gone, {"gw1"}) == ["gw2 lost its session with n1"]
    assert before.lost(before, ()) == []


def owners(*nodes: str) -> observe.Owners:
    return observe.Owners(nodes, ",".join(nodes))


def test_gateways_that_differ_are_told_by_bucket() -> None:
    one = {"ipv4": owners("n1", "n2", "n3"), "ipv6": owners("n1", "n1")}
    two = {"ipv4": owners("n1", "n3", "n3"), "ipv6": owners("n1", "n1")}
    assert observe.differing({"gw1": one, "gw2": two}) == {"ipv4": {1}, "ipv6": set()}
    assert not observe.agree({"gw1": one, "gw2": two})
    assert observe.agree({"gw1": one, "gw2": one})
    assert not observe.agree({"gw1": {"ipv4": one["ipv4"]}, "gw2": {"ipv4": one["ipv4"]}})
    assert one["ipv4"].moved_to(two["ipv4"]) == 1
    assert one["ipv4"].moved_to(None) == 3


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"spt-{os.getpid()}-o"
    spec = Spec(clients=2, nodes=2, spares=0, pods_per_node=1, buckets=BUCKETS)
    try:
        lab = Lab.up(name, spec, programs=False)
        by_hand(lab)
        yield lab
    finally:
        down(name)


def by_hand(lab: Lab) -> None:
    """What BGP and our programs would have done."""
    topology = lab.topology
    run_batch(lab, "upstream", upstream_routes(topology))
    for gateway in topology.gateways:
        lines = [
            f"route add default via {gateway.upstream4}",
            f"route add default via {gateway.upstream6}",
        ]
        for number, node in enumerate(topology.working, 1):
            lines += [
                f"nexthop add id {number} via {node.segment4} dev seg0",
                f"nexthop add id {10 + number} via {node.segment6} dev seg0",
            ]
        lines += [
            f"nexthop add id 100 group 1/2 type resilient buckets {BUCKETS}",
            f"nexthop add id 110 group 11/12 type resilient buckets {BUCKETS}",
            f"route add {SERVICE4} nhid 100",
            f"route add {SERVICE6} nhid 110",
        ]
        run_batch(lab, gateway.name, lines)
        lab.host(gateway.name).sysctl(
            net__ipv4__fib_multipath_hash_policy=3, net__ipv4__fib_multipath_hash_fields=0x37,
            net__ipv6__fib_multipath_hash_policy=3, net__ipv6__fib_multipath_hash_fields=0x37,
            net__ipv4__fib_multipath_hash_seed=lab.state.spec.hash_seed,
        )  # fmt: skip
    for node in topology.working:
        first = topology.gateways[0]
        run_batch(lab, node.name, [
            f"route add default via {first.segment4}", f"route add default via {first.segment6}"
        ])  # fmt: skip
        pod = pod_by_hand(lab, node)
        rules = f"""table inet by_hand {{ chain nat {{
          type nat hook prerouting priority dstnat;
          ip daddr {SERVICE4} tcp dport 80 dnat ip to {pod.address4}:8080
          ip6 daddr {SERVICE6} tcp dport 80 dnat ip6 to [{pod.address6}]:8080
        }}
        }}"""
        subprocess.run(
            lab.host(node.name).command(["nft", "-f", "-"]), input=rules.encode(), check=True
        )


def pod_by_hand(lab: Lab, node: Node) -> Pod:
    """What the plugin would have done, and the lab's server in it."""
    index = lab.topology.nodes.index(node) + 1
    pod = Pod(f"web-{node.name}-1", node.name, f"10.244.0.{index}", f"2001:db8:244::{index}")
    space = lab.host(pod.name).create()
    ip("link", "add", "eth0", "netns", space.name, "type", "veth",
       "peer", "name", "pod1", "netns", lab.host(node.name).name)  # fmt: skip
    run_batch(lab, pod.name, [
        f"addr add {pod.address4}/32 dev eth0",
        f"addr add {pod.address6}/128 dev eth0 nodad",
        "link set eth0 up",
        f"neigh replace 169.254.1.1 lladdr {POD_MAC} nud permanent dev eth0",
        f"neigh replace fe80::1 lladdr {POD_MAC} nud permanent dev eth0",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1 dev eth0",
        "route add default via fe80::1 dev eth0",
    ])  # fmt: skip
    run_batch(lab, node.name, [
        f"link set pod1 address {POD_MAC}",
        "link set pod1 up",
        f"route add {pod.address4}/32 dev pod1",
        f"route add {pod.address6}/128 dev pod1",
    ])  # fmt: skip
    lab.start(pod.name, "pod", [
        *script(SERVER_SCRIPT), "--name", pod.name, "--port", str(POD_PORT), "--grace", "5"
    ])  # fmt: skip
    wait(lambda: f":{POD_PORT} " in space.run("ss", "-Hltn"), 10, f"{pod.name} to listen")
    return pod


def upstream_routes(topology: Topology) -> list[str]:
    return [
        f"route replace {SERVICE4} "
        + " ".join(f"nexthop via {g.uplink4}" for g in topology.gateways),
        f"route replace {SERVICE6} "
        + " ".join(f"nexthop via {g.uplink6}" for g in topology.gateways),
        "route add 10.83.0.0/24 via " + topology.gateways[0].uplink4,
    ]


def run_batch(lab: Lab, host: str, lines: list[str]) -> None:
    batch(lab.name, lines, lab.host(host).name)


@pytest.mark.netns
def test_bucket_owners_are_read_from_the_kernel(lab: Lab) -> None:
    found = observe.tables(lab, ["gw1", "gw2"])
    assert observe.agree(found)
    for table in found.values():
        assert set(table) == {"ipv4", "ipv6"}
        for one in table.values():
            assert len(one.nodes) == BUCKETS
            assert one.shares() == {"n1": 0.5, "n2": 0.5}


@pytest.mark.netns
def test_a_table_that_changes_while_it_is_read_is_read_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Next hops that came between two dumps: not a table that is gone."""
    real, torn = observe._json, iter([True, True])

    def dump(lab: Lab, host: str, *words: str) -> list[dict[str, Any]]:
        found = real(lab, host, *words)
        return found[:1] if words == ("nexthop",) and next(torn, False) else found

    monkeypatch.setattr(observe, "_json", dump)
    assert set(observe.tables(lab, ["gw1"])["gw1"]) == {"ipv4", "ipv6"}
    assert next(torn, None) is None


@pytest.mark.netns
def test_plain_ecmp_is_shown_as_ranges(lab: Lab) -> None:
    lab.host("gw1").run("ip", "nexthop", "add", "id", "200", "group", "1/2,3")
    try:
        lab.host("gw1").run("ip", "route", "replace", SERVICE4, "nhid", "200")
        table = observe.tables(lab, ["gw1"])["gw1"]["ipv4"]
        assert table.nodes == ("n1",) * 4 + ("n2",) * 12
    finally:
        lab.host("gw1").run("ip", "route", "replace", SERVICE4, "nhid", "100")


@pytest.mark.netns
def test_the_upstream_uses_both_gateways(lab: Lab) -> None:
    assert observe.upstream_paths(lab) == {"ipv4": {"gw1", "gw2"}, "ipv6": {"gw1", "gw2"}}


@pytest.mark.netns
def test_traffic_gateways_and_buckets_are_as_predicted(lab: Lab) -> None:
    """Connections through the whole lab: each gateway's part is seen, and each connection's pod is
    on the node that owns its bucket."""
    traffic = lab.traffic(limit_s=5)
    try:
        observe.count_connections(lab)
        opened = traffic.open(200, TARGETS)
        assert (opened.done, opened.failed) == (200, ())
        held = traffic.held()
        carried = observe.carried(lab, held)
        assert carried["gw1"] + carried["gw2"] == pytest.approx(1.0)
        assert min(carried.values()) > 0.3
        table = observe.tables(lab, ["gw1"])["gw1"]
        buckets = observe.bucket_of(lab, ((h.source, h.target) for h in held))
        for one, bucket in zip(held, buckets, strict=True):
            owner = table["ipv6" if ":" in one.target[0] else "ipv4"].nodes[bucket]
            assert one.pod == f"web-{owner}-1"
        assert traffic.check() == 200
        assert traffic.take().broken == ()
    finally:
        traffic.end()

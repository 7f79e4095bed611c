"""Service rules in the kernel: real packets from a client through a node to its pods.

client ── node ── pod1, pod2 (on this node), pod3 (on another one)
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from flows import Client
from nft_bench import CLUSTER_IPS, PODS4, PODS6, VIPS, Bench, made_bench, ready, rules_of, until

from samepath.apply import conntrack, tool
from samepath.apply.nft import Rules, digest_in_kernel
from samepath.model.net import parse_address
from samepath.plan.flows import Tracked
from samepath.plan.ruleset import Claim, full_text

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def made() -> Iterator[Bench]:
    with made_bench() as bench:
        yield bench


@pytest.fixture
def bench(made: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return ready(made, monkeypatch)


@pytest.mark.parametrize("vip", VIPS)
def test_a_service_reaches_its_local_ready_endpoints(bench: Bench, vip: str) -> None:
    bench.write("RRR")
    found = bench.client.many(vip, 80, 40)
    assert found.keys() == {"pod1", "pod2"}
    assert sum(found.values()) == 40
    assert min(found.values()) > 5
    assert bench.client.udp(vip, 53) in ("pod1", "pod2")
    bench.write("RSR")
    assert bench.client.many(vip, 80, 10) == {"pod1": 10}
    bench.write("TSR")
    assert bench.client.many(vip, 80, 10) == {"pod2": 10}
    bench.write("TTR")
    assert bench.client.once(vip, 80) == "refused"


@pytest.mark.parametrize("vip", VIPS)
def test_policy_cluster_uses_all_and_masquerades_the_remote(bench: Bench, vip: str) -> None:
    bench.write("RRR", local=False)
    assert bench.client.many(vip, 80, 60).keys() == {"pod1", "pod2", "pod3"}
    client = "2001:db8:2::2" if ":" in vip else "192.0.2.2"
    bench.write("--R", local=False)
    assert bench.client.source(vip, 80) not in (client, vip)  # the way back leads through the node
    bench.write("R--", local=False)
    assert bench.client.source(vip, 80) == client


@pytest.mark.parametrize("vip", VIPS)
def test_established_flows_go_on_when_their_endpoint_terminates(bench: Bench, vip: str) -> None:
    bench.write("R--")
    assert bench.client.open("old", vip, 80) == "pod1"
    bench.write("SR-")
    assert bench.client.echo("old") == "pod1"
    assert bench.client.many(vip, 80, 10) == {"pod2": 10}
    bench.write("TR-")
    assert bench.client.echo("old") == "pod1"
    bench.write("S--")
    assert bench.client.echo("old") == "pod1"
    assert bench.client.once(vip, 80) == "pod1"


def test_a_packet_out_of_window_ends_no_connection(bench: Bench) -> None:
    """Conntrack calls it invalid and leaves its addresses alone, so it is for the node itself."""
    bench.node.sysctl(net__netfilter__nf_conntrack_tcp_be_liberal=0)
    bench.write("R--")
    assert bench.client.open("living", VIPS[0], 80) == "pod1"
    for _ in range(3):
        assert bench.client.stray("living") == "sent"
        assert bench.client.echo("living") == "pod1"


@pytest.mark.parametrize("vip", VIPS)
def test_off_port_is_rejected_and_ping_is_answered(bench: Bench, vip: str) -> None:
    assert bench.client.once(vip, 22) == "host"  # what happens without rules
    bench.write("RRR")
    started = time.monotonic()
    assert bench.client.once(vip, 22) == "refused"
    assert bench.client.udp(vip, 22) == "refused"
    assert bench.client.udp(vip, 80) == "refused"
    assert time.monotonic() - started < 3
    bench.client_host.run("ping", "-c", "1", "-W", "2", vip)
    node = "2001:db8:2::1" if ":" in vip else "192.0.2.1"
    assert bench.client.once(node, 22) == "host"


@pytest.mark.parametrize("index", [0, 1])
def test_what_is_not_on_the_node_is_not_forwarded(bench: Bench, index: int) -> None:
    """A cluster IP is on no interface: off its ports it must not leave by the default route."""
    bench.write("RRR")
    assert bench.client.many(CLUSTER_IPS[index], 80, 60).keys() == {"pod1", "pod2", "pod3"}
    assert bench.client.once(CLUSTER_IPS[index], 81) == "refused"


@pytest.mark.parametrize("index", [0, 1])
def test_pods_and_the_node_may_use_any_endpoint(bench: Bench, index: int) -> None:
    bench.write("R-R")
    vip = VIPS[index]
    assert bench.client.many(vip, 80, 10) == {"pod1": 10}
    for host in (bench.pods[0], bench.node):
        inside = Client(host)
        try:
            for address in (vip, CLUSTER_IPS[index]):
                # pod1 reaches itself, too: the hairpin.
                assert inside.many(address, 80, 40).keys() == {"pod1", "pod3"}
            assert inside.once(vip, 22) == "refused"
        finally:
            inside.stop()


@pytest.mark.parametrize("vip", VIPS)
def test_affinity_keeps_a_client_at_its_endpoint(bench: Bench, vip: str) -> None:
    bench.write("RRR", affinity=10800)
    found = bench.client.many(vip, 80, 12)
    assert len(found) == 1
    bench.write("RRR", affinity=10800, count=2)
    assert bench.client.many(vip, 80, 12) == found


def test_rules_change_under_load_and_nothing_breaks(bench: Bench) -> None:
    bench.write("RR-")
    for number in range(20):
        assert bench.client.open(f"c{number}", VIPS[number % 2], 80).startswith("pod")
    stop = threading.Event()
    failures: list[object] = []
    opened = [0]

    def load() -> None:
        while not stop.is_set():
            for number in range(20):
                if not (who := bench.client.echo(f"c{number}")).startswith("pod"):
                    failures.append(who)
            for vip in VIPS:
                found = bench.client.ask("many", vip, 80, 5)
                if isinstance(found, dict) and found.keys() <= {"pod1", "pod2"}:
                    opened[0] += sum(found.values())
                else:
                    failures.append(found)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        for turn in range(40):
            bench.write(("RR-", "RRR", "SR-")[turn % 3], count=1 + turn % 4)
            if turn % 10 == 9:
                bench.rules.applied = None  # and once in a while the whole table
                asyncio.run(run_full(bench))
    finally:
        stop.set()
        loading.join()
    assert not failures
    assert opened[0] >= 20


async def run_full(bench: Bench) -> None:
    await tool.run(("nft", "-f", "-"), full_text(bench.ruleset))


@pytest.mark.parametrize("vip", VIPS)
def test_an_endpoint_that_is_gone_is_forgotten(bench: Bench, vip: str) -> None:
    bench.write("R--")
    family = 1 if ":" in vip else 0
    pod1 = parse_address((PODS4, PODS6)[family].format(1))
    assert bench.client.open("old", vip, 80) == "pod1"
    bench.write("-R-")
    assert bench.client.open("new", vip, 80) == "pod2"
    gone = Tracked(Claim(parse_address(vip), "tcp", 80), pod1, None)
    there = asyncio.run(conntrack.flows_to([parse_address(vip)]))
    assert gone._replace(port=8080) in there
    asyncio.run(conntrack.forget(gone))
    asyncio.run(conntrack.forget(gone))  # again is no error
    there = asyncio.run(conntrack.flows_to([parse_address(vip)]))
    assert gone._replace(port=8080) not in there
    started = time.monotonic()
    assert bench.client.echo("old") == "reset"
    assert time.monotonic() - started < 3
    assert bench.client.echo("new") == "pod2"


def test_living_flows_are_counted(bench: Bench) -> None:
    # Addresses that no other test uses: closed connections of theirs may still be retransmitting.
    vips = ("203.0.113.21", "2001:db8:113::21")
    services = [parse_address(vip) for vip in vips]
    bench.write("RR-", count=2)
    assert asyncio.run(conntrack.live_flows(services)) == {}
    bench.client.open("a", vips[0], 80)
    bench.client.open("b", vips[0], 80)
    bench.client.open("c", vips[1], 80)
    bench.client.many(vips[0], 80, 5)  # over, or about to be

    def counted() -> dict[bytes, int]:
        return asyncio.run(conntrack.live_flows(services))

    until(lambda: counted() == {services[0]: 2, services[1]: 1})


def test_the_table_is_adopted_and_repaired(bench: Bench) -> None:
    bench.write("RR-", count=3)
    handle = bench.node.run("nft", "-a", "list", "tables")
    again = Rules()
    asyncio.run(again.apply(rules_of("RR-", count=3)))
    assert bench.node.run("nft", "-a", "list", "tables") == handle, "written, though it stood"
    assert asyncio.run(again.check())
    bench.node.run("nft", "flush", "ruleset")
    assert not asyncio.run(again.check())
    asyncio.run(again.apply(rules_of("RR-", count=3)))
    assert asyncio.run(digest_in_kernel()) == again.applied.digest
    # Somebody takes an element away behind our back: the change falls back to the whole table.
    bench.node.run("nft", "flush", "map", "inet", "samepath", "outside4")
    asyncio.run(again.apply(rules_of("R--", count=2)))
    assert bench.client.once(VIPS[0], 80) == "pod1"
    asyncio.run(again.remove())
    assert asyncio.run(digest_in_kernel()) is None
    assert "samepath" not in bench.node.run("nft", "list", "tables")


def test_a_refused_ruleset_leaves_the_old_one(bench: Bench) -> None:
    bench.write("R--")
    bad = rules_of("RR-")
    networks = {**bad.networks, "cluster4": {"}nonsense": ""}}
    with pytest.raises(tool.ToolError, match="nonsense"):
        asyncio.run(bench.rules.apply(replace(bad, networks=networks, digest="0bad")))
    assert bench.rules.applied is None
    assert "nonsense" in str(bench.rules.error)
    assert bench.client.once(VIPS[0], 80) == "pod1"
    bench.write("-R-")
    assert bench.rules.error is None
    assert bench.client.once(VIPS[0], 80) == "pod2"


WORLDS = ["R--", "RR-", "SRR", "---", "RRR", "TSS", "--R"]


def test_history_does_not_matter(bench: Bench) -> None:
    """Whatever was written before, the table is the one that a fresh start would write."""

    def table() -> list[str]:
        text = bench.node.run("nft", "-s", "list", "table", "inet", "samepath")
        return sorted(text.replace(",", "\n").split())

    for last in WORLDS:
        bench.node.run("nft", "flush", "ruleset")
        bench.rules = Rules()
        bench.write(last, count=2)
        fresh = table()
        for before in WORLDS:
            bench.write(before, count=1 + len(before.replace("-", "")) % 3, local=before != "RR-")
        bench.write(last, count=2)
        assert table() == fresh, last

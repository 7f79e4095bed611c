"""The gateway as a process among BGP peers: the ways that it is meant to go."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import msgspec
import pytest
from gateway_stage import SERVICE, SERVICE6, Stage, eventually, table

from samepath.lab.netns import ip
from samepath.model.net import Family, parse_address
from samepath.programs.control import ask

pytestmark = pytest.mark.netns


def test_paths_become_tables_in_both_families(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    eventually(lambda: stage.owners(SERVICE6) == table(1, 2, family=Family.IPV6))
    eventually(stage.settled)
    status = stage.status()
    assert status["in_sync"]
    assert {s["prefix"] for s in status["services"]} == {SERVICE, SERVICE6}
    assert all(t["kernel"] == "as desired" for t in status["tables"])
    assert status["flow_hash"] == {"ipv4": "as predicted", "ipv6": "as predicted"}


def test_weight_draining_and_refusal(stage: Stage) -> None:
    stage.start()
    stage.serve(1, weight=1)
    stage.serve(2, weight=3)
    eventually(lambda: stage.owners() == table(1, 2, weights={2: 3}))
    before = stage.owners()
    stage.peers["n2"].offer({SERVICE: {"weight": 3, "draining": True}, "203.0.113.0/24": {}})
    eventually(
        lambda: (
            stage.status()["tables"]
            and any(
                m["state"] == "draining" for t in stage.status()["tables"] for m in t["members"]
            )
        )
    )
    assert stage.owners() == before, "draining moves no bucket in use"
    refused = eventually(lambda: stage.status()["refusals"])
    assert refused == [
        {
            "peer": "10.9.0.2",
            "prefix": "203.0.113.0/24",
            "reason": "in none of the neighbour's import lists",
        }
    ]


def test_goodbye_moves_at_once_and_silence_after_the_hold_time(stage: Stage) -> None:
    stage.config = msgspec.structs.replace(stage.config, expected_peers=3)
    stage.start()
    stage.serve(1, 2, 3)
    eventually(lambda: stage.owners() == table(1, 2, 3))
    one = stage.peers["n1"].process
    assert one.stdin is not None
    one.stdin.close()  # the peer ends with a NOTIFICATION
    eventually(lambda: stage.owners().count(parse_address("10.9.0.1")) == 0)  # type: ignore[union-attr]
    stage.peers["n2"].process.send_signal(signal.SIGSTOP)
    eventually(lambda: stage.owners() == table(3))


def test_peer_killed_without_a_word_keeps_its_buckets(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    stage.peers["n1"].kill()
    eventually(lambda: any(f["stale"] for p in stage.status()["peers"] for f in p["families"]))
    assert stage.owners() == table(1, 2)
    stage.serve(1)
    eventually(
        lambda: all(
            p["state"] == "Established" and not f["stale"]
            for p in stage.status()["peers"]
            if p["address"] == "10.9.0.1"
            for f in p["families"]
        )
    )
    assert stage.owners() == table(1, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restart_moves_no_bucket(stage: Stage, number: int) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    stage.serve(3)
    eventually(lambda: stage.status()["moves"]["waiting"])
    before = stage.owners(), stage.owners(SERVICE6)
    ids = sorted(t["id"] for t in stage.status()["tables"])
    stage.stop(number)
    assert (stage.owners(), stage.owners(SERVICE6)) == before
    stage.start()
    eventually(lambda: stage.status().get("in_sync"))
    eventually(stage.settled)
    assert (stage.owners(), stage.owners(SERVICE6)) == before
    status = stage.status()
    assert status["sync"] == "every neighbour of the adopted next hops has sent End-of-RIB"
    assert sorted(t["id"] for t in status["tables"]) == ids
    assert status["moves"]["departed"] == 0
    # The third node may be back later than the adopted ones.
    eventually(lambda: stage.status()["moves"]["waiting"])
    assert (stage.owners(), stage.owners(SERVICE6)) == before


def test_upstream_hears_of_services_when_they_are_installed(stage: Stage) -> None:
    router = stage.router()
    router.offer({"0.0.0.0/0": {}})
    stage.start()
    eventually(lambda: any(p["state"] == "Established" for p in stage.status().get("peers", [])))
    stage.node(1).offer({SERVICE: {}, "10.244.1.0/26": {}})
    eventually(lambda: "10.244.1.0/26" in router.knows())
    assert SERVICE not in router.knows(), "one peer of the expected two: not in sync"
    two = stage.node(2)
    two.offer({SERVICE: {}})
    eventually(lambda: router.knows().get(SERVICE) == ["10.8.0.2"])
    assert router.knows()["10.244.1.0/26"] == ["10.8.0.2"], "not on its segment: through us"
    eventually(lambda: two.knows().get("10.244.1.0/26") == ["10.9.0.1"])
    eventually(lambda: two.knows().get("0.0.0.0/0") == ["10.9.0.254"])
    assert "::/0" not in two.knows(), "we know no way out for IPv6"
    assert "10.9.0.1" in stage.gateway.ip("route", "get", "10.244.1.5")
    router.process.send_signal(signal.SIGSTOP)
    eventually(lambda: "0.0.0.0/0" not in two.knows())
    router.process.send_signal(signal.SIGCONT)


def test_configuration_changes_without_a_flap(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    before = {p["address"]: p["flaps"] for p in stage.status()["peers"]}
    nodes, upstream = stage.config.neighbors
    narrower = msgspec.structs.replace(nodes.import_, services=["192.0.2.0/24"])
    stage.config = msgspec.structs.replace(
        stage.config,
        idle_timer_s=1,
        neighbors=[msgspec.structs.replace(nodes, import_=narrower), upstream],
    )
    stage.write_config()
    eventually(lambda: stage.owners(SERVICE6) is None)
    eventually(lambda: stage.status()["idle_timer_s"] == 1)
    after = {p["address"]: p["flaps"] for p in stage.status()["peers"]}
    assert after == before
    path = stage.folder / "gateway.yaml"
    path.write_text(
        path.read_text()
        .replace('"hash_seed":77', '"hash_seed":"many"')
        .replace('"hash_seed": 77', '"hash_seed": "many"')
    )
    error = eventually(lambda: stage.status()["config_error"])
    assert "hash_seed" in error
    assert "gateway.yaml:1" in error
    assert stage.owners() == table(1, 2)


def test_forgotten_by_the_kernel_is_made_again(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    ip("-n", stage.gateway.name, "link", "set", "dev", "eth0", "down")
    ip("-n", stage.gateway.name, "link", "set", "dev", "eth0", "up")
    eventually(lambda: stage.owners() == table(1, 2))
    eventually(stage.settled)


def test_bad_configuration_says_where(stage: Stage) -> None:
    path = stage.folder / "bad.yaml"
    path.write_text("router_id: 10.0.0.1\nas: 64512\nhash_seed: 0\nneighbors: []\n")
    done = subprocess.run(
        [sys.executable, "-m", "samepath.cli.main", "gateway", "--config", str(path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "hash_seed: 1 to 4294967295" in done.stderr
    assert str(path) in done.stderr


ANSWER = """
import socket, sys
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)
while True:
    connection, _ = server.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""

ASK = """
import json, socket, sys
answers = {}
for source, destination in (("10.8.0.1", "192.0.2.1"), ("fd00:8::1", "2001:db8:100::1")):
    for port in range(20000, 20040):
        with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((source, port))
            client.settimeout(5)
            client.connect((destination, 80))
            answers[f"{source} {port}"] = client.recv(100).decode()
print(json.dumps(answers))
"""


def test_trace_agrees_with_the_way_of_real_connections(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2))
    stage.serve(3)  # moves wait: present owners and target differ
    eventually(lambda: stage.status()["moves"]["waiting"])
    stage.upstream.ip("-6", "addr", "add", "fd00:8::1/64", "dev", "eth0", "nodad")
    stage.gateway.ip("-6", "addr", "add", "fd00:8::2/64", "dev", "eth1", "nodad")
    stage.upstream.ip("route", "add", "192.0.2.0/24", "via", "10.8.0.2")
    stage.upstream.ip("-6", "route", "add", "2001:db8:100::/64", "via", "fd00:8::2")
    servers = []
    try:
        for number, host in stage.nodes.items():
            host.ip("addr", "add", SERVICE, "dev", "lo")
            host.ip("-6", "addr", "add", SERVICE6, "dev", "lo")
            host.ip("route", "add", "default", "via", "10.9.0.254")
            host.ip("-6", "route", "add", "default", "via", "fd00:9::fe")
            servers.append(host.popen(sys.executable, "-c", ANSWER, str(number)))
        eventually(lambda: all(":80 " in h.run("ss", "-Htln") for h in stage.nodes.values()))
        answers = json.loads(stage.upstream.run(sys.executable, "-c", ASK))
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert len(set(answers.values())) > 1
    for client, number in answers.items():
        source, port = client.split()
        service = "192.0.2.1" if "." in source else "2001:db8:100::1"
        traced = ask(
            stage.config.run_dir, "gateway", "trace",
            client=source, client_port=int(port), service=service, service_port=80,
        )  # fmt: skip
        hop = traced["next_hop"]
        assert hop == (f"10.9.0.{number}" if "." in source else f"fd00:9::{number}")
        assert ("has waited" in traced["why"]) == (traced["target"] != hop)

"""The gateway as a process, its kernel, and BGP peers in namespaces of their own.

One bridge holds the gateway and three nodes; a fourth peer is the router upstream.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samepath.hashing.table import Member, Table, build, from_owners
from samepath.lab.netns import Namespace, ip, veth
from samepath.model.config import Bgp, GatewayConfig, Import, Neighbor
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.netlink.kernel import RealKernel
from samepath.programs.control import NotRunningError, ask

pytestmark = pytest.mark.netns

B = 127
SERVICE = "192.0.2.1/32"
SERVICE6 = "2001:db8:100::1/128"
LIMIT_S = 20.0


def eventually(true: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition; its value. Fails, showing the last value, after `limit_s`."""
    until = time.monotonic() + limit_s
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < until, f"not within {limit_s:.0f} s; last: {value!r}"
        time.sleep(0.02)


class Peer:
    """A BGP peer in its namespace."""

    def __init__(self, host: Namespace, config: Bgp, log: Path) -> None:
        self.learned: dict[str, list[str]] = {}
        self.process = host.popen(
            sys.executable,
            str(Path(__file__).with_name("peer.py")),
            msgspec.json.encode(config).decode(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def offer(self, routes: dict[str, dict[str, Any]]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(routes).encode() + b"\n")
        self.process.stdin.flush()

    def knows(self) -> dict[str, list[str]]:
        assert self.process.stdout is not None
        for line in self.process.stdout.readlines():
            self.learned = json.loads(line)
        return self.learned

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(5)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Stage:
    def __init__(self, folder: Path) -> None:
        tag = f"spt-gw-{os.getpid()}"
        self.folder = folder
        self.bridge = Namespace(f"{tag}-br")
        self.gateway = Namespace(f"{tag}-gw")
        self.upstream = Namespace(f"{tag}-up")
        self.nodes = {n: Namespace(f"{tag}-n{n}") for n in (1, 2, 3)}
        self.peers: dict[str, Peer] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.config = GatewayConfig(
            router_id="10.9.0.254",
            local_as=64512,
            listen=["10.9.0.254"],
            buckets=B,
            hash_seed=77,
            idle_timer_s=3600,
            expected_peers=2,
            selection_deferral_s=15,
            run_dir=str(folder / "run"),
            neighbors=[
                Neighbor(
                    range="10.9.0.0/24",
                    remote_as=64512,
                    hold_time_s=3,
                    import_=Import(
                        services=["192.0.2.0/24", "2001:db8:100::/64"],
                        pods=["10.244.0.0/16"],
                        max_prefixes=100,
                    ),
                    export=["pods", "default"],
                ),
                Neighbor(
                    address="10.8.0.1",
                    remote_as=65000,
                    hold_time_s=3,
                    connect_retry_s=1,
                    import_=Import(routes=["0.0.0.0/0", "::/0"]),
                    export=["services", "pods"],
                ),
            ],
        )

    def create(self) -> None:
        hosts = [self.bridge, self.gateway, self.upstream, *self.nodes.values()]
        for host in hosts:
            host.create()
        self.bridge.ip("link", "add", "br0", "type", "bridge")
        self.bridge.ip("link", "set", "br0", "up")
        for name, number, host in [
            ("gw", 254, self.gateway),
            *((f"n{n}", n, host) for n, host in self.nodes.items()),
        ]:
            veth(host, "eth0", self.bridge, name)
            self.bridge.ip("link", "set", "dev", name, "master", "br0")
            host.ip("addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
            host.ip("addr", "add", f"fd00:9::{number:x}/64", "dev", "eth0", "nodad")
        veth(self.gateway, "eth1", self.upstream, "eth0")
        self.gateway.ip("addr", "add", "10.8.0.2/24", "dev", "eth1")
        self.upstream.ip("addr", "add", "10.8.0.1/24", "dev", "eth0")

    def delete(self) -> None:
        for peer in self.peers.values():
            peer.close()
        self.stop(signal.SIGKILL)
        for host in [self.bridge, self.gateway, self.upstream, *self.nodes.values()]:
            host.delete()

    # the gateway

    def write_config(self) -> None:
        data = msgspec.to_builtins(self.config)
        path = self.folder / "gateway.yaml"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(data))
        fresh.rename(path)

    def start(self) -> None:
        self.write_config()
        log = (self.folder / "gateway.log").open("ab")
        self.process = self.gateway.popen(
            sys.executable, "-m", "samepath.cli.main", "gateway", "--config",
            str(self.folder / "gateway.yaml"), stdout=log, stderr=log,
        )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)

    def status(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = ask(self.config.run_dir, "gateway", "status")
        except NotRunningError:
            return {}
        return answer

    def settled(self) -> bool:
        return bool(self.status().get("settled"))

    # its peers

    def node(self, number: int) -> Peer:
        config = Bgp(
            router_id=f"10.9.0.{number}",
            local_as=64512,
            next_hops=[f"10.9.0.{number}", f"fd00:9::{number:x}"],
            neighbors=[
                Neighbor(
                    address="10.9.0.254",
                    remote_as=64512,
                    hold_time_s=3,
                    connect_retry_s=1,
                    import_=Import(routes=["0.0.0.0/0", "::/0"], pods=["10.244.0.0/16"]),
                )
            ],
        )
        return self._peer(f"n{number}", self.nodes[number], config)

    def router(self) -> Peer:
        config = Bgp(
            router_id="10.8.0.1",
            local_as=65000,
            listen=["10.8.0.1"],
            next_hops=["10.8.0.1"],
            neighbors=[
                Neighbor(
                    address="10.8.0.2",
                    remote_as=64512,
                    passive=True,
                    families=["ipv4"],
                    hold_time_s=3,
                    import_=Import(routes=["0.0.0.0/0", "192.0.2.0/24", "10.244.0.0/16"]),
                )
            ],
        )
        return self._peer("up", self.upstream, config)

    def _peer(self, name: str, host: Namespace, config: Bgp) -> Peer:
        if name in self.peers:
            self.peers[name].close()
        peer = self.peers[name] = Peer(host, config, self.folder / f"{name}.log")
        return peer

    def serve(self, *numbers: int, **how: Any) -> None:
        for number in numbers:
            self.node(number).offer({SERVICE: how, SERVICE6: how})

    # what the kernel holds

    def owners(self, prefix: str = SERVICE) -> Table | None:
        family, nlri = parse_prefix(prefix)
        kernel = RealKernel(self.gateway.path)
        try:
            for route in kernel.routes(family, 83):
                if route.nlri == nlri and route.nexthop_id:
                    hops = {n.id: n.gateway for n in kernel.nexthops()[0]}
                    owners = [hops[i] for i in kernel.bucket_state(route.nexthop_id).ids]
                    return from_owners([o for o in owners if o is not None])
            return None
        finally:
            kernel.close()


def table(
    *numbers: int, family: Family = Family.IPV4, weights: dict[int, int] | None = None
) -> Table:
    texts = {n: f"10.9.0.{n}" if family is Family.IPV4 else f"fd00:9::{n:x}" for n in numbers}
    members = [Member(parse_address(t), (weights or {}).get(n, 1)) for n, t in texts.items()]
    return build(members, B)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        stage.create()
        yield stage
    finally:
        stage.delete()
        log = tmp_path / "gateway.log"
        if log.exists():
            print(log.read_text()[-6000:])


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
        capture_output=True, text=True, check=False, timeout=20,
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
        assert ("waits" in traced["why"]) == (traced["target"] != hop)

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from samepath.hashing.table import Member, Table, build, from_owners
from samepath.lab.netns import Namespace, veth
from samepath.model.config import Bgp, GatewayConfig
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, parse_address, parse_prefix
from samepath.netlink.kernel import RealKernel
from samepath.programs.control import NotRunningError, ask

B = 127
SERVICE = "192.0.2.1/32"
SERVICE6 = "2001:db8:100::1/128"
LIMIT_S = 60.0


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
        self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Stage:
    def __init__(self, folder: Path, name: str = "") -> None:
        tag = f"spt-gw{name}-{os.getpid()}"
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
            self.process.wait(30)

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
                    ids = kernel.bucket_state(route.nexthop_id).ids
                    owners = [o for i in ids if (o := hops.get(i)) is not None]
                    # Read one after the other: it may have changed in between.
                    return from_owners(owners) if ids and len(owners) == len(ids) else None
            return None
        finally:
            kernel.close()


def table(
    *numbers: int, family: Family = Family.IPV4, weights: dict[int, int] | None = None
) -> Table:
    texts = {n: f"10.9.0.{n}" if family is Family.IPV4 else f"fd00:9::{n:x}" for n in numbers}
    members = [Member(parse_address(t), (weights or {}).get(n, 1)) for n, t in texts.items()]
    return build(members, B)


def log_of(stage: Stage) -> str:
    return (stage.folder / "gateway.log").read_text()


def two_nodes(stage: Stage) -> None:
    stage.start()
    stage.serve(1, 2)
    eventually(lambda: stage.owners() == table(1, 2) and stage.settled())


def flaps(stage: Stage) -> list[int]:
    return [p["flaps"] for p in stage.status()["peers"]]

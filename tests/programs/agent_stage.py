"""Nodes with agents, and routers that hear them, for tests of agents whose neighbours, blocks and
advertisements come as objects.

    gw: 10.83.0.1, 10.83.0.2 (a router each) ── n1 (10.83.0.11), n2 (10.83.0.12)

Where the objects come from is the caller's: `objects` and `forget` are to be given.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from samepath.lab.netns import Namespace, veth
from samepath.programs import control

AS, ROUTER_AS = 64512, 64513
VIP, VIP6 = "203.0.113.10", "2001:db8:113::10"
HOST, HOST6 = f"{VIP}/32", f"{VIP6}/128"
Json = dict[str, Any]


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
    return found


class Router:
    """One address of `gw`, and who listens there."""

    def __init__(self, host: Namespace, address: str, **more: Any) -> None:
        neighbor = {
            "range": "10.83.0.0/24",
            "remote_as": AS,
            "hold_time_s": 9,
            "import": {
                "services": ["203.0.113.0/24", "2001:db8:113::/48", "198.51.100.0/24"],
                "pods": ["10.244.0.0/16", "2001:db8:244::/48"],
            },
            **more.pop("neighbor", {}),
        }
        config = {
            "router_id": address,
            "as": ROUTER_AS,
            "listen": [address],
            "next_hops": [address, f"2001:db8:83::{address.rpartition('.')[2]}"],
            "neighbors": [neighbor],
            **more,
        }
        script = str(Path(__file__).parent / "agent_witness.py")
        self.process = host.popen(
            sys.executable, script, json.dumps(config),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, what: str = "state") -> Any:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def told(self, node: str = "10.83.0.11") -> Json:
        """Prefix -> how this node tells it."""
        rib = self.ask()["rib"]
        return {prefix: paths[node] for prefix, paths in rib.items() if node in paths}

    def peer(self, node: str = "10.83.0.11") -> Json:
        return dict(self.ask()["peers"].get(node) or {"state": "IDLE"})

    def is_up(self, node: str = "10.83.0.11") -> bool:
        return bool(self.peer(node)["state"] == "ESTABLISHED")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Stage:
    _numbers = itertools.count()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"spt-{os.getpid()}-{next(self._numbers)}-"
        self.gateway = Namespace(self.prefix + "gw")
        self.nodes: dict[str, Namespace] = {}
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.closing = contextlib.ExitStack()

    def up(self, nodes: int = 1) -> None:
        self._host(self.gateway)
        self.gateway.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self.gateway.ip("link", "set", "br0", "up")
        for last in (1, 2):
            self.gateway.ip("address", "add", f"10.83.0.{last}/24", "dev", "br0")
            self.gateway.ip("address", "add", f"2001:db8:83::{last}/64", "dev", "br0", "nodad")
        for number in range(1, nodes + 1):
            name = f"n{number}"
            host = self.nodes[name] = Namespace(self.prefix + name)
            self._host(host)
            veth(host, "eth0", self.gateway, name)
            self.gateway.ip("link", "set", name, "master", "br0")
            host.ip("address", "add", f"10.83.0.{10 + number}/24", "dev", "eth0")
            host.ip("address", "add", f"2001:db8:83::{10 + number}/64", "dev", "eth0", "nodad")

    def _host(self, host: Namespace) -> None:
        host.delete()
        host.create()
        host.sysctl(net__ipv6__conf__default__accept_dad=0)

    def down(self) -> None:
        for name in list(self.agents):
            self.kill(name)
        self.closing.close()
        for host in (self.gateway, *self.nodes.values()):
            host.delete()

    def router(self, last: int = 1, **more: Any) -> Router:
        made = Router(self.gateway, f"10.83.0.{last}", **more)
        self.closing.callback(made.stop)
        return made

    # agents

    def configure(self, node: str = "n1", **config: Any) -> None:
        path = self.folder / f"agent-{node}.yaml"
        other = path.with_suffix(".new")
        other.write_text(yaml.safe_dump(config))
        other.rename(path)

    def run_dir(self, node: str = "n1") -> Path:
        return self.folder / f"run-{node}"

    def start(self, node: str = "n1", *, with_ip: bool = True) -> None:
        """`run_dir` is each node's own here, since all of them share one machine."""
        code = (
            "import sys, msgspec; from samepath.programs import agent;"
            "load = agent.load;"
            "agent.load = lambda *a: msgspec.structs.replace(load(*a), run_dir=sys.argv[2]);"
            "sys.exit(agent.run(sys.argv[1], *sys.argv[3:]))"
        )
        words = [node, f"10.83.0.{10 + int(node[1:])}"] if with_ip else [node]
        with open(self.folder / f"{node}.log", "ab") as log:
            self.agents[node] = self.nodes[node].popen(
                sys.executable, "-c", code, str(self.folder / f"agent-{node}.yaml"),
                str(self.run_dir(node)), *words, stderr=log,
            )  # fmt: skip
        until(lambda: self.status(node) is not None, 20)

    def kill(self, node: str = "n1", how: signal.Signals = signal.SIGKILL) -> int:
        agent = self.agents.pop(node)
        agent.send_signal(how)
        return agent.wait(15)

    def ask(self, what: str, node: str = "n1") -> Any:
        return control.ask(str(self.run_dir(node)), "agent", what)

    def status(self, node: str = "n1") -> Any:
        try:
            return self.ask("status", node)
        except control.NotRunningError:
            return None

    def whys(self, node: str = "n1") -> dict[str, str]:
        return {s["service"]: s["why"] for s in self.status(node)["services"]}

    def log(self, node: str = "n1") -> str:
        path = self.folder / f"{node}.log"
        return path.read_text() if path.exists() else ""


# objects


def ours(kind: str, name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def bgp_peer(name: str = "gw1", address: str = "10.83.0.1", **spec: Any) -> Json:
    return ours(
        "BGPPeer", name,
        **{"myASN": AS, "peerASN": ROUTER_AS, "peerAddress": address, "holdTime": "9s",
           "connectTime": "1s", "enableGracefulRestart": True, **spec},
    )  # fmt: skip


def pool(name: str = "main", *addresses: str) -> Json:
    default = ("203.0.113.0/24", "2001:db8:113::/64")
    return ours("IPAddressPool", name, addresses=list(addresses or default))


def node(name: str = "n1", labels: Json | None = None, **more: Any) -> Json:
    number = int(name[1:])
    addresses = (f"10.83.0.{10 + number}", f"2001:db8:83::{10 + number}")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}, **more},
        "spec": {"podCIDRs": [f"10.244.{number}.0/24", f"2001:db8:244:{number}::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
    }


def service(name: str = "web", vips: tuple[str, ...] = (VIP, VIP6), **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": vip} for vip in vips]}},
    }


def slices(states: str = "R", name: str = "web", on: str = "n1") -> list[Json]:
    """One letter an endpoint: R ready, S serving and terminating, T terminating."""
    made = []
    for kind, base in (("IPv4", "10.244.1."), ("IPv6", "2001:db8:244:1::")):
        made.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-{kind.lower()}",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": kind,
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [
                    {
                        "addresses": [f"{base}{i}"],
                        "nodeName": on,
                        "conditions": {
                            "ready": state == "R",
                            "serving": state in "RS",
                            "terminating": state in "ST",
                        },
                    }
                    for i, state in enumerate(states, 1)
                ],
            }
        )
    return made

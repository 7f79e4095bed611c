"""Nodes with agents and pods on one segment, a router, and a server outside: for tests of the pods'
routes. Pods are wired as the CNI plugin wires them, by hand.

    pod ── n1 ──┐
    pod ── n2 ──┼── segment ── router ── far ── outside
    pod ── n3 ──┘
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from samepath.lab.netns import Namespace, veth
from samepath.programs import control

AS = 64512
POD_MAC = "ee:ee:ee:ee:ee:ee"
LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"
"""That follows from POD_MAC (RFC 4291, appendix A)."""
POOLS = ("10.244.0.0/16", "2001:db8:244::/48")
OUTSIDE = ("192.0.2.2", "2001:db8:2::2")
ROUTER = ("10.83.0.1", "2001:db8:83::1")
FAR = "2001:db8:2:1:"


def address(node: int, family: int) -> str:
    return (f"10.83.0.{10 + node}", f"2001:db8:83::{10 + node}")[family]


def block(node: int, family: int) -> str:
    return (f"10.244.{node}.0/26", f"2001:db8:244:{node}::/122")[family]


def pod_address(node: int, pod: int, family: int) -> str:
    return (f"10.244.{node}.{pod}", f"2001:db8:244:{node}::{pod}")[family]


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.prefix = f"spt-{os.getpid()}-"
        self.hosts: dict[str, Namespace] = {}
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        self.closing = contextlib.ExitStack()
        self.segment = self.host("sw")
        self.segment.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self.segment.ip("link", "set", "br0", "up")

    # who is there

    def host(self, name: str) -> Namespace:
        host = self.hosts[name] = Namespace(self.prefix + name)
        host.delete()
        host.create()
        host.sysctl(net__ipv6__conf__default__accept_dad=0)
        return host

    def plug(self, host: Namespace, name: str, *addresses: str) -> None:
        """A cable from the host's eth0 to the segment."""
        veth(host, "eth0", self.segment, name)
        self.segment.ip("link", "set", name, "master", "br0")
        self.give(host, "eth0", *addresses)

    def give(self, host: Namespace, link: str, *addresses: str) -> None:
        for text in addresses:
            host.ip("address", "add", text, "dev", link, *(("nodad",) if ":" in text else ()))

    def node(self, number: int) -> Namespace:
        host = self.host(f"n{number}")
        self.plug(host, f"n{number}", f"{address(number, 0)}/24", f"{address(number, 1)}/64")
        return host

    def pod(self, node: int, pod: int, mtu: int = 1500) -> Namespace:
        host, inside = self.hosts[f"n{node}"], self.host(f"p{node}-{pod}")
        link = f"cali{pod}"
        veth(inside, "eth0", host, link)
        host.ip("link", "set", link, "address", POD_MAC, "mtu", str(mtu))
        inside.ip("link", "set", "eth0", "mtu", str(mtu))
        four, six = (pod_address(node, pod, f) for f in (0, 1))
        self.give(inside, "eth0", f"{four}/32", f"{six}/128")
        for gateway in ("169.254.1.1", LINK_LOCAL):
            inside.ip("neigh", "replace", gateway, "lladdr", POD_MAC, "nud", "permanent",
                      "dev", "eth0")  # fmt: skip
        inside.ip("route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        inside.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        inside.ip("-6", "route", "add", "default", "via", LINK_LOCAL, "dev", "eth0")
        mac = inside.ip("-br", "link", "show", "eth0").split()[2]
        for text in (four, six):
            host.ip("neigh", "replace", text, "lladdr", mac, "nud", "permanent", "dev", link)
            host.ip("route", "add", text, "dev", link, "proto", "83")
        return inside

    def router(self, mtu: int = 1500) -> Namespace:
        """The way out, for the nodes by static routes, and back to the nodes' blocks. `mtu`: of the
        link in the middle of it."""
        router, far, outside = (self.host(name) for name in ("router", "far", "outside"))
        for host in (router, far):
            host.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.plug(router, "router", f"{ROUTER[0]}/24", f"{ROUTER[1]}/64")
        veth(router, "out0", far, "in0")
        veth(far, "out0", outside, "eth0")
        self.give(router, "out0", "192.0.2.129/30", f"{FAR}:1/64")
        self.give(far, "in0", "192.0.2.130/30", f"{FAR}:2/64")
        self.give(far, "out0", "192.0.2.1/28", "2001:db8:2::1/64")
        self.give(outside, "eth0", f"{OUTSIDE[0]}/28", f"{OUTSIDE[1]}/64")
        for host, name in ((router, "out0"), (far, "in0")):
            host.ip("link", "set", name, "mtu", str(mtu))
        for host, four, six in (
            (router, "192.0.2.130", f"{FAR}:2"),
            (far, "192.0.2.129", f"{FAR}:1"),
            (outside, "192.0.2.1", "2001:db8:2::1"),
        ):
            host.ip("route", "add", "default", "via", four)
            host.ip("-6", "route", "add", "default", "via", six)
        for name, host in self.hosts.items():
            if name[0] == "n":
                for family in (0, 1):
                    host.ip("route", "add", ("0.0.0.0/0", "::/0")[family], "via", ROUTER[family])
                    number = int(name[1:])
                    router.ip("route", "add", block(number, family),
                              "via", address(number, family))  # fmt: skip
        return router

    def down(self) -> None:
        for number in list(self.agents):
            self.kill(number)
        self.closing.close()
        for host in self.hosts.values():
            host.delete()

    # agents

    def configure(self, number: int, **more: Any) -> None:
        run_dir = self.folder / f"run{number}"
        config = {
            "router_id": address(number, 0),
            "as": AS,
            "run_dir": str(run_dir),
            "node": f"n{number}",
            "manifests": str(self.manifests),
            "mesh": {"hold_time_s": 3, "connect_retry_s": 1},
            "neighbors": [],
            **more,
        }
        put(self.folder / f"agent{number}.yaml", config)

    def start(self, number: int, deferral_s: float = 60) -> None:
        """`deferral_s`: how long it waits for neighbours that do not answer."""
        code = (
            "import sys; from samepath.programs import agent, routing;"
            f"routing.DEFERRAL_S = {deferral_s}; sys.exit(agent.run(sys.argv[1]))"
        )
        with open(self.folder / f"agent{number}.log", "ab") as log:
            path = str(self.folder / f"agent{number}.yaml")
            host = self.hosts[f"n{number}"]
            self.agents[number] = host.popen(sys.executable, "-c", code, path, stderr=log)
        until(lambda: self.status(number))

    def gateway(self, asn: int = AS) -> None:
        """A real one at ROUTER, which reflects the nodes' blocks and is their way out."""
        host = self.host("gw")
        self.plug(host, "gw", f"{ROUTER[0]}/24", f"{ROUTER[1]}/64")
        nodes = {
            "range": "10.83.0.0/24",
            "remote_as": AS,
            "hold_time_s": 3,
            "next_hops": list(ROUTER),
            "import": {"services": [], "pods": list(POOLS)},
            "export": ["pods", "default"],
        }
        config = {
            "router_id": ROUTER[0],
            "as": asn,
            "listen": [ROUTER[0]],
            "run_dir": str(self.folder / "rungw"),
            "hash_seed": 7,
            "neighbors": [nodes],
        }
        path = self.folder / "gateway.yaml"
        put(path, config)
        code = "import sys; from samepath.programs.gateway import run; sys.exit(run(sys.argv[1]))"
        with open(self.folder / "gateway.log", "ab") as log:
            running = host.popen(sys.executable, "-c", code, str(path), stderr=log)
        self.closing.callback(running.wait)
        self.closing.callback(running.kill)

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        agent = self.agents.pop(number)
        agent.send_signal(how)
        agent.wait(30)

    def status(self, number: int) -> Any:
        try:
            return control.ask(str(self.folder / f"run{number}"), "agent", "status")
        except control.NotRunningError:
            return None

    def routes(self, number: int) -> dict[str, Any]:
        return {r["prefix"]: r for r in self.status(number)["routes"] if r["installed"]}

    def log(self, number: int) -> str:
        return (self.folder / f"agent{number}.log").read_text()

    # the cluster

    def node_object(self, number: int, **changes: Any) -> None:
        thing = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": f"n{number}"},
            "spec": {"podCIDRs": [block(number, f) for f in (0, 1)]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": f"n{number}"},
                    *({"type": "InternalIP", "address": address(number, f)} for f in (0, 1)),
                ]
            },
        }
        put(self.manifests / f"n{number}.yaml", {**thing, **changes})

    def remove_object(self, number: int) -> None:
        (self.manifests / f"n{number}.yaml").unlink()

    def pools(self, **spec: Any) -> None:
        sizes = (26, 122)
        put(
            self.manifests / "pools.yaml",
            *(
                {
                    "kind": "IPPool",
                    "apiVersion": "samepath.dev/v1",
                    "metadata": {"name": f"pods{4 + 2 * f}"},
                    "spec": {"cidr": POOLS[f], "blockSize": sizes[f], **spec},
                }
                for f in (0, 1)
            ),
        )


def by_gateway(asn: int = AS) -> dict[str, Any]:
    """The gateway as a neighbour of an agent."""
    return {
        "address": ROUTER[0],
        "remote_as": asn,
        "hold_time_s": 3,
        "connect_retry_s": 1,
        "import": {"pods": list(POOLS), "routes": ["0.0.0.0/0", "::/0"]},
    }


def put(path: Path, *documents: Any) -> None:
    """By rename, as careful writers do."""
    other = path.with_name(f".{path.name}.new")
    other.write_text(yaml.safe_dump_all(documents))
    other.rename(path)


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
    return found


def ping(host: Namespace, target: str, *options: str) -> bool:
    command: Sequence[str] = ("ping", "-c", "1", "-W", "1", *options, target)
    return "1 received" in host.run(*command, check=False)

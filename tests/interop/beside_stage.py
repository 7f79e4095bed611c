"""A gateway beside a routing daemon: FRR or BIRD and `samepath gateway` in one namespace.

Four nodes on a bridge, each with the service's addresses on `lo`, a server that answers with the
node's name, and a BIRD that tells the gateway's daemon of the service. A client behind the gateway.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from samepath.lab.netns import Namespace, veth
from samepath.model.config import GatewayConfig, KernelRoutes
from samepath.model.net import Family, parse_address
from samepath.netlink.own_table import TableKernel
from samepath.netlink.socket import in_namespace
from samepath.programs.control import NotRunningError, ask

B = 127
SERVICES = ("203.0.113.10/32", "2001:db8:113::10/128")
NODES = (1, 2, 3, 4)
GATEWAY4, GATEWAY6 = "10.9.0.254", "fd09::254"

SERVER = """
import socket, sys, threading
def serve(connection):
    while data := connection.recv(100):
        connection.sendall(sys.argv[1].encode() + b" " + data)
listener = socket.create_server(
    ("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=500)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


def eventually(true: Callable[[], Any], limit_s: float = 60.0) -> Any:
    until = time.monotonic() + limit_s
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < until, f"not within {limit_s:.0f} s; last: {value!r}"
        time.sleep(0.02)


def four(node: int) -> str:
    return f"10.9.0.{10 + node}"


def six(node: int) -> str:
    return f"fd09::{10 + node:x}"


class Stage:
    def __init__(self, folder: Path, daemon: str) -> None:
        tag = f"spt-bs-{os.getpid()}"
        self.folder, self.daemon = folder, daemon
        self.bridge = Namespace(f"{tag}-br")
        self.gateway = Namespace(f"{tag}-gw")
        self.client = Namespace(f"{tag}-c")
        self.nodes = {n: Namespace(f"{tag}-n{n}") for n in NODES}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.held: list[tuple[socket.socket, str]] = []
        self.frr: Path | None = None
        self.config = GatewayConfig(
            router_id=GATEWAY4,
            local_as=64512,
            neighbors=[],
            buckets=B,
            hash_seed=77,
            idle_timer_s=2,
            expected_peers=3,
            selection_deferral_s=8,
            run_dir=str(folder / "run"),
            kernel_routes=KernelRoutes(services=["203.0.113.0/24", "2001:db8:113::/64"]),
        )

    # building

    def build(self) -> None:
        self.bridge.create()
        self.bridge.ip("link", "add", "br0", "type", "bridge")
        self.bridge.ip("link", "set", "br0", "up")
        self.client.create()
        self._host(self.gateway, "gw", f"{GATEWAY4}/24", f"{GATEWAY6}/64")
        veth(self.client, "c0", self.gateway, "up0")
        for host, port, last in ((self.client, "c0", 1), (self.gateway, "up0", 2)):
            host.ip("addr", "add", f"10.8.0.{last}/24", "dev", port)
            host.ip("addr", "add", f"fd08::{last}/64", "dev", port, "nodad")
        self.client.ip("route", "add", "default", "via", "10.8.0.2")
        self.client.ip("route", "add", "default", "via", "fd08::2")
        for n, host in self.nodes.items():
            self._host(host, f"n{n}", f"{four(n)}/24", f"{six(n)}/64")
            for service in SERVICES:
                host.ip(
                    "addr", "add", service, "dev", "lo", *(("nodad",) if ":" in service else ())
                )
            host.ip("route", "add", "default", "via", GATEWAY4)
            host.ip("route", "add", "default", "via", GATEWAY6)
            self.spawn(host, f"server{n}", sys.executable, "-c", SERVER, f"n{n}")
        self.gateway.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)

    def _host(self, host: Namespace, port: str, *addresses: str) -> None:
        host.create()
        veth(host, "seg0", self.bridge, port)
        self.bridge.ip("link", "set", port, "master", "br0")
        for address in addresses:
            host.ip("addr", "add", address, "dev", "seg0", *(("nodad",) if ":" in address else ()))

    def spawn(self, host: Namespace, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = host.popen(
                *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(30)

    def close(self) -> None:
        for connection, _ in self.held:
            connection.close()
        for name in list(self.processes):
            self.end(name)
        for host in (self.client, self.gateway, *self.nodes.values(), self.bridge):
            host.delete()
        if self.frr is not None:
            shutil.rmtree(self.frr)

    # who speaks

    def start_node(self, n: int) -> None:
        """Tells of the service, over IPv4 and over IPv6."""
        path = self.folder / f"n{n}.conf"
        path.write_text(f"""
router id {four(n)};
protocol device {{ }}
protocol static s4 {{ ipv4; route {SERVICES[0]} blackhole; }}
protocol static s6 {{ ipv6; route {SERVICES[1]} blackhole; }}
template bgp uplink {{ local as 64513; hold time 6; connect delay time 1; connect retry time 1;
  error wait time 1, 1; }}
protocol bgp to4 from uplink {{ neighbor {GATEWAY4} as 64512; source address {four(n)};
  ipv4 {{ import none; export where source = RTS_STATIC; }}; }}
protocol bgp to6 from uplink {{ neighbor {GATEWAY6} as 64512; source address {six(n)};
  ipv6 {{ import none; export where source = RTS_STATIC; next hop address {six(n)}; }}; }}
""")
        self.spawn(self.nodes[n], f"speaker{n}", "/usr/sbin/bird", "-f", "-c", str(path),
                   "-s", f"{self.folder}/n{n}.ctl", "-P", f"{self.folder}/n{n}.pid")  # fmt: skip

    def stop_node(self, n: int) -> None:
        """With a NOTIFICATION: its routes are withdrawn."""
        self.end(f"speaker{n}", signal.SIGTERM)

    def start_daemon(self, *, objects: bool = False) -> None:
        """`objects`: FRR with next hop objects in the kernel."""
        if self.daemon == "bird":
            self._start_bird()
        else:
            self._start_frr(objects)

    def kill_daemon(self) -> None:
        self.end("bird" if self.daemon == "bird" else "bgpd")

    def _start_bird(self) -> None:
        path = self.folder / "gw.conf"
        kernels = "".join(
            f"protocol kernel k{n} {{ merge paths on limit 64; metric 20; "
            f"ipv{n} {{ import none; export where source = RTS_BGP; }}; }}\n"
            for n in (4, 6)
        )
        peers = "".join(
            f"protocol bgp n{n}v{f} {{ local {ours} as 64512; neighbor {theirs} as 64513; "
            f"hold time 6; connect delay time 1; connect retry time 1; error wait time 1, 1; "
            f"ipv{f} {{ import all; export none; }}; }}\n"
            for n in NODES
            for f, ours, theirs in ((4, GATEWAY4, four(n)), (6, GATEWAY6, six(n)))
        )
        path.write_text(
            f"router id {GATEWAY4};\nprotocol device {{ scan time 1; }}\n{kernels}{peers}"
        )
        self.spawn(self.gateway, "bird", "/usr/sbin/bird", "-f", "-c", str(path),
                   "-s", f"{self.folder}/gw.ctl", "-P", f"{self.folder}/gw.pid")  # fmt: skip

    def _start_frr(self, objects: bool) -> None:
        # zebra insists on being its own user, and that user cannot see into the test's folder.
        self.frr = self.frr or Path(tempfile.mkdtemp(prefix="spt-frr-"))
        shutil.chown(self.frr, "frr", "frr")
        (self.frr / "zebra.conf").write_text("" if objects else "no zebra nexthop kernel enable\n")
        (self.frr / "bgpd.conf").write_text(self._bgpd())
        common = ("-u", "frr", "-g", "frr", "-z", f"{self.frr}/zserv",
                  "--vty_socket", str(self.frr), "-P", "0", "--log", "stdout")  # fmt: skip
        for name in ("zebra", "bgpd"):
            if name in self.processes:
                continue
            (self.frr / f"{name}.vty").unlink(missing_ok=True)
            self.spawn(self.gateway, name, f"/usr/lib/frr/{name}", "-f", f"{self.frr}/{name}.conf",
                       "-i", f"{self.frr}/{name}.pid", *common)  # fmt: skip
            eventually((self.frr / f"{name}.vty").exists)

    def _bgpd(self) -> str:
        lines = ["router bgp 64512", " no bgp ebgp-requires-policy", " timers bgp 2 6",
                 " no bgp default ipv4-unicast", f" bgp router-id {GATEWAY4}"]  # fmt: skip
        for n in NODES:
            for theirs in (four(n), six(n)):
                lines += [f" neighbor {theirs} remote-as 64513",
                          f" neighbor {theirs} timers connect 1"]  # fmt: skip
        for family, of in (("ipv4", four), ("ipv6", six)):
            lines.append(f" address-family {family} unicast")
            for n in NODES:
                lines += [f"  neighbor {of(n)} activate", f"  neighbor {of(n)} route-map global in"]
            lines.append(" exit-address-family")
        # Else zebra has link-local next hops, which name no link here.
        lines += ["exit", "route-map global permit 1", " set ipv6 next-hop prefer-global", "exit"]
        return "\n".join([*lines, ""])

    # the gateway

    def start_gateway(self) -> None:
        path = self.folder / "gateway.yaml"
        path.write_bytes(msgspec.yaml.encode(self.config))
        code = "from samepath.cli.main import main; main()"
        self.spawn(self.gateway, "gateway", sys.executable, "-c", code, "gateway",
                   "--config", str(path))  # fmt: skip

    def status(self) -> dict[str, Any]:
        try:
            found = ask(self.config.run_dir, "gateway", "status")
        except (NotRunningError, ValueError):
            return {}
        assert isinstance(found, dict)
        return found

    def serves(self, *nodes: int) -> bool:
        """The kernel is as these nodes' routes want it, but for moves in wait."""
        status = self.status()
        if not status or not status["settled"] or len(status["services"]) != 2:
            return False
        wanted = {four(n) for n in nodes} | {six(n) for n in nodes}
        return {a for s in status["services"] for a in s["active"]} == wanted

    def owners(self, family: Family) -> list[str]:
        """The node of each bucket, read from the kernel."""
        kernel = TableKernel(self.gateway.path)
        try:
            routes = kernel.route_nexthops(family, 83)
            if not routes:
                return []
            hops = {hop.id: hop.gateway for hop in kernel.nexthops()[0]}
            known = {parse_address(a): f"n{n}" for n in NODES for a in (four(n), six(n))}
            ids = kernel.bucket_state(next(iter(routes.values()))).ids
            return [known[gateway] for i in ids if (gateway := hops.get(i)) is not None]
        finally:
            kernel.close()

    def theirs(self) -> list[dict[str, Any]]:
        """The daemon's routes to the services, as iproute2 shows them."""
        found = []
        for flag, service in zip(("-4", "-6"), SERVICES, strict=True):
            text = self.gateway.ip("-j", flag, "route", "show", service.split("/")[0])
            found += json.loads(text or "[]")
        return found

    # connections

    def hold(self, count: int) -> None:
        """So many connections, with the node that each began with."""

        def connect() -> None:
            for i in range(count):
                address = SERVICES[i % 2].split("/")[0]
                connection = socket.create_connection((address, 80), timeout=60)
                self.held.append((connection, _ask(connection)))

        thread = threading.Thread(target=lambda: in_namespace(self.client.path, connect))
        thread.start()
        thread.join(30)
        assert len(self.held) >= count

    def broken(self) -> list[str]:
        """The nodes of connections that did not survive; the others have exchanged once more."""
        gone = []
        for connection, node in self.held:
            try:
                is_well = _ask(connection) == node
            except OSError:
                is_well = False
            if not is_well:
                gone.append(node)
        return gone


def _ask(connection: socket.socket) -> str:
    connection.sendall(b"who\n")
    answer = connection.recv(100).decode()
    if not answer:
        raise ConnectionResetError
    return answer.split()[0]

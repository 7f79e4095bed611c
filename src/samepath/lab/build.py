"""How the hosts are made: namespaces, settings, cables and addresses, as lists of commands.

Pure but for `make`, which runs them in few batches: a lab of forty namespaces stands in a second
or two. Called by `lab.running`. What the programs under test set up themselves (hash policy of the
gateways, service rules, routes) is not touched here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from samepath.lab.netns import Namespace
from samepath.lab.processes import environment
from samepath.lab.topology import Client, Control, Gateway, Node, Topology

_QUIET = {
    # Addresses are usable at once, and stay when a link goes down and comes back.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/all/keep_addr_on_down": "1",
    "net/ipv6/conf/default/keep_addr_on_down": "1",
    "net/ipv6/conf/default/accept_ra": "0",
    # Replies may come by another gateway than requests went.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
_CLIENT = {"net/ipv4/ip_local_port_range": "10000 65000"}
_SERVER = {"net/core/somaxconn": "4096", "net/ipv4/tcp_max_syn_backlog": "8192"}


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair between two hosts."""

    a: str
    a_port: str
    b: str
    b_port: str


@dataclass(slots=True)
class Host:
    """One namespace: its settings, then the iproute2 commands after its cables are in."""

    settings: dict[str, str]
    commands: list[str] = field(default_factory=list)

    def up(self, port: str, *addresses: str) -> None:
        """`addresses` with their prefix length; IPv6 ones without duplicate detection."""
        for address in addresses:
            self.commands.append(
                f"addr add {address} dev {port}{' nodad' if ':' in address else ''}"
            )
        self.commands.append(f"link set {port} up")


@dataclass(slots=True)
class Build:
    hosts: dict[str, Host] = field(default_factory=dict)
    cables: list[Cable] = field(default_factory=list)

    def host(self, name: str, *settings: Mapping[str, str]) -> Host:
        merged = dict(_QUIET)
        for more in settings:
            merged.update(more)
        self.hosts[name] = Host(merged, ["link set lo up"])
        return self.hosts[name]


def hosts(topology: Topology) -> Build:
    """Everything but the pods."""
    build = Build()
    spec = topology.spec
    multipath = {
        f"net/{family}/{setting}": value
        for family in ("ipv4", "ipv6")
        for setting, value in (
            ("fib_multipath_hash_policy", "3"),
            ("fib_multipath_hash_fields", "0x37"),
        )
    }
    seed = {"net/ipv4/fib_multipath_hash_seed": str(spec.upstream_hash_seed)}
    upstream = build.host("upstream", _FORWARDING, multipath, seed)
    fabric = build.host("fabric")
    fabric.commands += [
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set br0 up",
    ]
    for client in topology.clients:
        _client(build, upstream, client)
    for gateway in topology.gateways:
        _gateway(build, upstream, fabric, gateway)
    for node in topology.nodes:
        _node(build, fabric, node)
    if topology.control is not None:
        _control(build, fabric, topology.control)
    return build


def _client(build: Build, upstream: Host, client: Client) -> None:
    build.cables.append(Cable(client.name, "eth0", "upstream", client.name))
    upstream.up(client.name, f"{client.upstream4}/28", f"{client.upstream6}/64")
    host = build.host(client.name, _CLIENT)
    host.up("eth0", *(f"{a}/28" for a in client.addresses4),
            *(f"{a}/64" for a in client.addresses6))  # fmt: skip
    host.commands += [
        f"route add default via {client.upstream4}",
        f"route add default via {client.upstream6}",
    ]


def _gateway(build: Build, upstream: Host, fabric: Host, gateway: Gateway) -> None:
    build.cables.append(Cable(gateway.name, "up0", "upstream", gateway.name))
    build.cables.append(Cable(gateway.name, "seg0", "fabric", gateway.name))
    upstream.up(gateway.name, f"{gateway.upstream4}/30", f"{gateway.upstream6}/64")
    _bridged(fabric, gateway.name)
    host = build.host(gateway.name, _FORWARDING)
    host.up("up0", f"{gateway.uplink4}/30", f"{gateway.uplink6}/64")
    host.up("seg0", f"{gateway.segment4}/24", f"{gateway.segment6}/64")


def _node(build: Build, fabric: Host, node: Node) -> None:
    build.cables.append(Cable(node.name, "seg0", "fabric", node.name))
    _bridged(fabric, node.name)
    build.host(node.name, _FORWARDING).up("seg0", f"{node.segment4}/24", f"{node.segment6}/64")


def _control(build: Build, fabric: Host, control: Control) -> None:
    build.cables.append(Cable(control.name, "seg0", "fabric", control.name))
    _bridged(fabric, control.name)
    build.host(control.name).up("seg0", f"{control.segment4}/24", f"{control.segment6}/64")


def _bridged(fabric: Host, port: str) -> None:
    fabric.commands += [f"link set {port} master br0", f"link set {port} up"]


def pods(names: Iterable[str]) -> Build:
    """What is a pod's own: a namespace with `lo`. Its network is the plugin's work."""
    build = Build()
    for name in names:
        build.hosts[name] = Host(dict(_SERVER), ["link set lo up"])
    return build


def make(build: Build, namespaces: Mapping[str, Namespace], lab: str) -> None:
    """Make it real. `namespaces` names every host of a cable. Raises RuntimeError."""
    batch(lab, (f"netns add {namespaces[name].name}" for name in build.hosts))
    for name, host in build.hosts.items():
        _settings(namespaces[name], host.settings)
    cables = (
        f"link add {c.a_port} netns {namespaces[c.a].name} type veth"
        f" peer name {c.b_port} netns {namespaces[c.b].name}"
        for c in build.cables
    )
    batch(lab, cables)
    for name, host in build.hosts.items():
        batch(lab, host.commands, namespaces[name].name)


def batch(lab: str, commands: Iterable[str], netns: str | None = None) -> None:
    """iproute2 commands in one process, which carries the lab's mark as all others do.

    The first command that fails ends it. Raises RuntimeError.
    """
    command = ["ip", *(("-n", netns) if netns else ()), "-batch", "-"]
    text = "\n".join(commands) + "\n"
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=60,
        env=environment(lab),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _settings(namespace: Namespace, settings: Mapping[str, str]) -> None:
    words: Sequence[str] = [w for pair in settings.items() for w in pair]
    text = 'while [ $# -gt 0 ]; do printf %s "$2" >"/proc/sys/$1" || exit 1; shift 2; done'
    namespace.run("sh", "-c", text, "sh", *words)

"""Real connections through namespaces: client, gateway with the program, two nodes.

The gateway has no route to the service at all: what arrives came by the program.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from samepath.bpf import attachments, pins, syscall
from samepath.bpf.dataplane import Dataplane
from samepath.bpf.errors import Unavailable
from samepath.bpf.layout import Hop, Sizes, Total
from samepath.hashing.flow import Flow, bucket
from samepath.lab.netns import Namespace, veth
from samepath.model.net import parse_address
from samepath.netlink.socket import in_namespace
from tests.bpf.conftest import SEED

pytestmark = pytest.mark.netns

SERVICES = {4: "203.0.113.1", 6: "2001:db8::1"}
CLIENT = {4: "10.1.0.2", 6: "fd01::2"}
PORT = 4430
BUCKETS = 31


@dataclass
class Net:
    client: Namespace
    gateway: Namespace
    nodes: tuple[Namespace, Namespace]
    plane: Dataplane
    ingress: int
    listeners: list[dict[int, socket.socket]]
    open: list[socket.socket] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    """Attachments that are not pinned: until they are closed."""

    def connect(self, family: int, port: int) -> tuple[socket.socket, int, socket.socket]:
        """A connection, and the node that took it."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6

        def connected() -> socket.socket:
            sock = socket.socket(kind, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(5)
            sock.bind((CLIENT[family], port))
            sock.connect((SERVICES[family], PORT))
            return sock

        ours = in_namespace(self.client.path, connected)
        for number, listener in enumerate(self.listeners):
            try:
                theirs, _ = listener[family].accept()
            except BlockingIOError:
                continue
            theirs.settimeout(5)
            self.open += [ours, theirs]
            return ours, number, theirs
        raise AssertionError("nobody took the connection")

    def expected(self, family: int, port: int) -> int:
        flow = Flow(parse_address(CLIENT[family]), parse_address(SERVICES[family]), 6, port, PORT)
        return int(self.plane.table(0)["owner"][bucket(flow, SEED, BUCKETS)]) - 1


def mac(host: Namespace, name: str) -> bytes:
    words = host.ip("-o", "link", "show", name).split()
    return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))


def index(host: Namespace, name: str) -> int:
    return int(host.ip("-o", "link", "show", name).split(":")[0])


@pytest.fixture
def net(bpffs: Path, program: Path, request: pytest.FixtureRequest) -> Iterator[Net]:
    name = f"spt-{os.getpid()}-b"
    with ExitStack() as stack:
        client, gateway, one, two = (
            stack.enter_context(Namespace(f"{name}{role}")) for role in "cg12"
        )
        veth(client, "eth0", gateway, "c0")
        client.ip("addr", "add", "10.1.0.2/24", "dev", "eth0")
        client.ip("addr", "add", "fd01::2/64", "dev", "eth0", "nodad")
        gateway.ip("addr", "add", "10.1.0.1/24", "dev", "c0")
        gateway.ip("addr", "add", "fd01::1/64", "dev", "c0", "nodad")
        client.ip("route", "add", "default", "via", "10.1.0.1")
        client.ip("route", "add", "default", "via", "fd01::1")
        gateway.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        plane = Dataplane.open(bpffs / name, Sizes(16, 1, BUCKETS, 4, 4096), SEED)
        stack.callback(plane.remove)
        listeners = []
        for number, node in enumerate((one, two), 1):
            veth(gateway, f"n{number}", node, "eth0")
            gateway.ip("addr", "add", f"10.2.{number}.1/24", "dev", f"n{number}")
            gateway.ip("addr", "add", f"fd02:{number}::1/64", "dev", f"n{number}", "nodad")
            node.ip("addr", "add", f"10.2.{number}.2/24", "dev", "eth0")
            node.ip("addr", "add", f"fd02:{number}::2/64", "dev", "eth0", "nodad")
            node.ip("addr", "add", f"{SERVICES[4]}/32", "dev", "lo")
            node.ip("addr", "add", f"{SERVICES[6]}/128", "dev", "lo", "nodad")
            node.ip("route", "add", "default", "via", f"10.2.{number}.1")
            node.ip("route", "add", "default", "via", f"fd02:{number}::1")
            plane.put_hop(number, Hop(parse_address(f"10.2.{number}.2"),
                                      index(gateway, f"n{number}"), mac(gateway, f"n{number}"),
                                      mac(node, "eth0"), 1500))  # fmt: skip
            listeners.append(in_namespace(node.path, listening))
        plane.put_table(0, np.arange(BUCKETS, dtype="<u2") % 2 + 1)
        plane.put_services({parse_address(text): 0 for text in SERVICES.values()})
        made = Net(client, gateway, (one, two), plane, index(gateway, "c0"), listeners)
        yield made
        for sock in [*made.open, *(s for listener in listeners for s in listener.values())]:
            sock.close()
        for link in made.links:
            os.close(link)


def listening() -> dict[int, socket.socket]:
    sockets = {4: socket.socket(socket.AF_INET), 6: socket.socket(socket.AF_INET6)}
    sockets[6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for sock in sockets.values():
        sock.bind(("", PORT))
        sock.listen(100)
        sock.setblocking(False)
    return sockets


def speak(ours: socket.socket, theirs: socket.socket, octets: int = 100) -> None:
    """There and back, in pieces that the sockets hold."""
    while octets > 0:
        sent = os.urandom(min(octets, 60_000))
        ours.sendall(sent)
        got = b""
        while len(got) < len(sent):
            got += theirs.recv(len(sent) - len(got))
        assert got == sent
        octets -= len(sent)
    theirs.sendall(b"done")
    assert ours.recv(4) == b"done"


def attach(net: Net, mode: attachments.Mode = "tc") -> str:
    own = mac(net.gateway, "c0")
    return in_namespace(net.gateway.path, lambda: net.plane.attach(net.ingress, own, mode)).how


def by_clsact(net: Net) -> None:
    links = net.plane.folder / pins.LINKS
    program = net.plane.program()
    in_namespace(net.gateway.path, lambda: attachments.clsact(links, net.ingress, program))


@pytest.mark.parametrize("how", [attach, by_clsact], ids=["tcx", "clsact"])
def test_connections_go_where_their_bucket_says_and_stay(
    net: Net, how: Callable[[Net], None]
) -> None:
    """Through a transition, in which all new ones go to the new owner; large ones, too."""
    how(net)
    held = []
    for family in (4, 6):
        for port in range(20000, 20020):
            ours, node, theirs = net.connect(family, port)
            assert node == net.expected(family, port)
            held.append((ours, theirs))
    assert {net.expected(4, port) for port in range(20000, 20020)} == {0, 1}
    present = net.plane.table(0)["owner"]
    net.plane.put_table(0, np.full(BUCKETS, 2, "<u2"), np.where(present == 2, 0, present))
    for family in (4, 6):
        for port in range(20020, 20030):
            ours, node, theirs = net.connect(family, port)
            assert node == 1
            held.append((ours, theirs))
    for number, (ours, theirs) in enumerate(held):
        speak(ours, theirs, 3_000_000 if number % 10 == 0 else 100)
    counters = net.plane.counters()
    assert sum(count.packets for count in counters.services.values()) == sum(
        count.packets for count in counters.hops.values()
    )
    assert counters.totals[Total.MOVED] > 0
    assert counters.totals[Total.TOO_BIG] == 0
    attached = in_namespace(net.gateway.path, net.plane.attached)
    assert [a.mode for a in attached.values()] == ["tc"]
    in_namespace(net.gateway.path, lambda: net.plane.detach(net.ingress))
    assert in_namespace(net.gateway.path, net.plane.attached) == {}
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
        net.connect(4, 21000)


def test_xdp_in_the_driver(net: Net) -> None:
    """veth takes redirected frames where the far end has XDP, and leaves checksums open: datagrams
    without one."""
    assert attach(net, "xdp") == "xdp"
    for node in net.nodes:
        link = in_namespace(
            node.path,
            lambda node=node: syscall.link_create(
                net.plane.program("xdp"), index(node, "eth0"), syscall.XDP, syscall.XDP_NATIVE
            ),
        )
        net.links.append(link)

    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", PORT))
        sock.settimeout(5)
        return sock

    sinks = [in_namespace(node.path, bound) for node in net.nodes]
    for port in range(22000, 22010):

        def send(port: int = port) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
                sock.bind((CLIENT[4], port))
                sock.sendto(b"hello", (SERVICES[4], PORT))

        flow = Flow(parse_address(CLIENT[4]), parse_address(SERVICES[4]), 17, port, PORT)
        node = int(net.plane.table(0)["owner"][bucket(flow, SEED, BUCKETS)]) - 1
        in_namespace(net.client.path, send)
        assert sinks[node].recvfrom(100) == (b"hello", (CLIENT[4], port))
    for sink in sinks:
        sink.close()
    # Another mode takes its place, and the other way round.
    assert attach(net) == "tcx"
    assert [a.mode for a in in_namespace(net.gateway.path, net.plane.attached).values()] == ["tc"]


def test_what_cannot_be_attached_says_why(net: Net) -> None:
    with pytest.raises(Unavailable, match=r"native XDP|Operation not supported"):
        in_namespace(net.gateway.path, lambda: net.plane.attach(1, bytes(6), "xdp"))
    with pytest.raises(Unavailable, match="no such link"):
        in_namespace(net.gateway.path, lambda: net.plane.attach(9999, bytes(6)))


def test_a_link_that_is_gone_is_forgotten(net: Net) -> None:
    attach(net)
    net.gateway.ip("link", "del", "c0")
    assert in_namespace(net.gateway.path, net.plane.attached) == {}
    assert list((net.plane.folder / pins.LINKS).iterdir()) == []

"""The kernel's filter on a real socket: which packets reach the process, and which do not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from samepath.bfd import filter as bfd_filter
from samepath.bfd.fsm import State
from samepath.bfd.packet import ControlPacket, encode
from samepath.bfd.sockets import Place, Receiver
from samepath.lab.netns import Namespace
from samepath.netlink.socket import in_namespace

pytestmark = pytest.mark.netns

PEERS = {False: ("127.0.0.2", "127.0.0.3"), True: ("fd00::2", "fd00::3")}
STRANGER = {False: "127.0.0.9", True: "fd00::9"}
OURS = {False: "127.0.0.1", True: "::1"}
DISCRIMINATORS = (7, 0xFFFFFFFF)


class Wire:
    """A receiver, and whoever sends to it, on one loopback."""

    def __init__(self, namespace: Namespace, is_v6: bool) -> None:
        self.namespace, self.is_v6 = namespace, is_v6
        self.receiver = in_namespace(namespace.path, lambda: Receiver(Place(is_v6, False, "")))

    def send(self, source: str, data: bytes, ttl: int = 255) -> None:
        family = socket.AF_INET6 if self.is_v6 else socket.AF_INET
        sock = in_namespace(self.namespace.path, lambda: socket.socket(family, socket.SOCK_DGRAM))
        with sock:
            if self.is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.bind((source, 0))
            sock.sendto(data, (OURS[self.is_v6], 3784))

    def arrives(self, source: str, data: bytes, ttl: int = 255) -> bool:
        """On a loopback it is there when it has been sent."""
        self.send(source, data, ttl)
        return [arrived.data for arrived in self.receiver.read()] == [data]


@pytest.fixture(params=[False, True], ids=["v4", "v6"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with Namespace(f"spt-{os.getpid()}-bfdf") as namespace:
        for address in (*PEERS[True], STRANGER[True]):
            namespace.ip("addr", "add", f"{address}/128", "dev", "lo")
        wire = Wire(namespace, request.param)
        yield wire
        wire.receiver.close()


def to(discriminator: int) -> bytes:
    return encode(ControlPacket(State.DOWN, 5, discriminator, 1_000_000, 300_000, 3))


def test_peers_reach_us_and_nobody_else(wire: Wire) -> None:
    peers, stranger = PEERS[wire.is_v6], STRANGER[wire.is_v6]
    wire.receiver.only(255, peers, DISCRIMINATORS)
    for peer in peers:
        for known in (0, *DISCRIMINATORS):
            assert wire.arrives(peer, to(known))
        for other in (1, 6, 8, 0xFFFFFFFE):
            assert not wire.arrives(peer, to(other)), other
        assert not wire.arrives(peer, to(7), ttl=254)
        assert wire.arrives(peer, b"short"), "a fault of the peer's: to be counted"
        assert wire.arrives(peer, to(7) + b"longer")
    for known in (0, *DISCRIMINATORS):
        assert not wire.arrives(stranger, to(known))
    wire.receiver.only(254, peers[:1], (8,))
    assert wire.arrives(peers[0], to(8), ttl=254)
    assert not wire.arrives(peers[0], to(7))
    assert not wire.arrives(peers[1], to(8))


@pytest.mark.parametrize("count", [0, 1, 2, 150, bfd_filter.MOST, bfd_filter.MOST + 1, 5000])
def test_any_number_of_sessions(wire: Wire, count: int) -> None:
    """However far the jumps are; and with more than there is room for, nobody is shut out."""
    numbers = range(1_000_000_007, 1_000_000_007 + 3 * count, 3)
    (peer, _), stranger = PEERS[wire.is_v6], STRANGER[wire.is_v6]
    prefix = "10.0" if not wire.is_v6 else "fd01:"
    others = [
        f"{prefix}.{i >> 8}.{i & 255}" if not wire.is_v6 else f"{prefix}:1:{i:x}"
        for i in range(1, count)
    ]
    wire.receiver.only(255, [peer, *others], numbers)
    assert wire.arrives(peer, to(0))
    for number in (*numbers[:1], *numbers[-1:]):
        assert wire.arrives(peer, to(number))
    if count <= bfd_filter.MOST:
        assert not wire.arrives(peer, to(1_000_000_006))
        assert not wire.arrives(peer, to(1_000_000_008))
        assert not wire.arrives(stranger, to(0))

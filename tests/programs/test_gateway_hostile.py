"""A gateway and a peer that means it harm, while another peer must notice nothing.

The hostile one is a node of the gateway's range, with addresses of its own. Each test holds a
session of an honest node from beginning to end: it may not flap, its table stands, the gateway
keeps sending it KEEPALIVEs, and the gateway's memory stays within bounds.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_stage import SERVICE, SERVICE6, Stage, eventually, flaps, table

from samepath.bgp import message
from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.capabilities import Capabilities
from samepath.model.net import Family, make_nlri, parse_address, parse_prefix
from samepath.netlink.socket import in_namespace

pytestmark = pytest.mark.netns

V4 = Family.IPV4
AS = 64512
GATEWAY = ("10.9.0.254", 179)
CONTEXT = message.Context(four_octet_as=True, families=frozenset(Family), internal=True)
ROOM_KB = 50_000
"""So much more memory than before a gateway may have while it is attacked, and after it."""


class Hostile:
    """Speaks from node 3's namespace, by hand."""

    def __init__(self, stage: Stage, *numbers: int) -> None:
        self.stage = stage
        self.host = stage.nodes[3]
        for number in numbers:
            self.host.ip("addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
        self.sockets: list[socket.socket] = []

    def connect(self, number: int = 3, *, small: bool = False) -> socket.socket:
        def open_() -> socket.socket:
            sock = socket.socket()
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.settimeout(5)
            sock.bind((f"10.9.0.{number}", 0))
            sock.connect(GATEWAY)
            return sock

        made = in_namespace(self.host.path, open_)
        self.sockets.append(made)
        return made

    def open(self, number: int = 3, **more: Any) -> socket.socket:
        """A session that the gateway takes for established."""
        sock = self.connect(number, **more)
        sock.sendall(opening(number) + message.encode(message.Keepalive(), CONTEXT))
        eventually(lambda: self.state(number) == "Established")
        return sock

    def state(self, number: int = 3) -> str:
        peers = {p["address"]: p["state"] for p in self.stage.status().get("peers", [])}
        return str(peers.get(f"10.9.0.{number}", ""))

    def view(self, number: int = 3) -> dict[str, Any]:
        found = {p["address"]: p for p in self.stage.status()["peers"]}
        view: dict[str, Any] = found[f"10.9.0.{number}"]
        return view

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def opening(number: int, asn: int = AS, *, hold_s: int = 90) -> bytes:
    capabilities = Capabilities(families=frozenset(Family), four_octet_as=asn)
    return message.encode(message.Open(asn, hold_s, 0x0A090000 + number, capabilities), CONTEXT)


def updates(prefixes: list[bytes], via: str = "10.9.0.3", **more: Any) -> bytes:
    attributes = PathAttributes(parse_address(via), local_pref=100, **more)
    reach = message.Reach(V4, tuple(prefixes), attributes)
    return b"".join(message.encode_updates([reach], [], CONTEXT))


def nlris(count: int, *, first: int = 0xC0000200, length: int = 32) -> list[bytes]:
    step = 1 << (32 - length)
    return [make_nlri((first + i * step).to_bytes(4, "big"), length) for i in range(count)]


def memory_kb(stage: Stage) -> int:
    assert stage.process is not None
    for line in Path(f"/proc/{stage.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


@pytest.fixture
def honest(stage: Stage) -> Callable[[], None]:
    """A gateway with one honest node, which the returned function looks after."""
    nodes = stage.config.neighbors[0]
    strict = msgspec.structs.replace(nodes.import_, next_hop="peer", max_prefixes=1000)
    changed = msgspec.structs.replace(nodes, import_=strict, max_sessions=8)
    stage.config = msgspec.structs.replace(
        stage.config, neighbors=[changed, *stage.config.neighbors[1:]], expected_peers=1
    )
    stage.start()
    node = stage.node(1)
    node.offer({SERVICE: {}, SERVICE6: {}, "10.244.1.0/24": {}})
    eventually(lambda: stage.owners() == table(1) and stage.settled())
    before = memory_kb(stage)
    began = time.monotonic()

    def look() -> None:
        status = stage.status()
        (peer,) = (p for p in status["peers"] if p["address"] == "10.9.0.1")
        assert peer["state"] == "Established"
        assert peer["flaps"] == 0
        assert peer["since_s"] >= time.monotonic() - began - 1
        grown = memory_kb(stage) - before
        assert grown < ROOM_KB, f"{grown} KB more than before"
        print(f"memory: {before} KB before, {grown:+} KB")
        node.offer({SERVICE: {}, SERVICE6: {}, "10.244.1.0/24": {}, "192.0.2.77/32": {}})
        limit_s = 5.0  # it is still listened to, and promptly
        eventually(lambda: stage.owners("192.0.2.77/32") == table(1), limit_s)
        node.offer({SERVICE: {}, SERVICE6: {}, "10.244.1.0/24": {}})
        eventually(lambda: stage.owners("192.0.2.77/32") is None, limit_s)
        assert stage.owners() == table(1)

    return look


@pytest.fixture
def hostile(stage: Stage, honest: Callable[[], None]) -> Iterator[Hostile]:
    made = Hostile(stage, *range(20, 60))
    yield made
    made.close()


def test_a_thousand_connections_that_say_nothing(
    stage: Stage, hostile: Hostile, honest: Callable[[], None]
) -> None:
    """From 40 addresses of the range; then a node that is new comes up within seconds."""
    refused = 0
    for i in range(1_000):
        try:
            hostile.connect(20 + i % 40)
        except OSError:
            refused += 1
        if i % 250 == 249:
            honest()
    status = stage.status()
    assert status["turned_away"]["more than 20 connections at once from one address"] > 100
    assert stage.process is not None
    descriptors = len(list(Path(f"/proc/{stage.process.pid}/fd").iterdir()))
    assert descriptors < 200
    stage.serve(2)
    eventually(lambda: stage.owners() == table(1) or "10.9.0.2" in str(stage.status()["peers"]))
    eventually(lambda: all(p["state"] == "Established" for p in stage.status()["peers"]
                           if p["address"] in ("10.9.0.1", "10.9.0.2")))  # fmt: skip
    honest_flaps = flaps(stage)
    assert honest_flaps[0] == 0


def test_garbage(stage: Stage, hostile: Hostile, honest: Callable[[], None]) -> None:
    header = b"\xff" * 16
    junk = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 5000,
        header + struct.pack("!HB", 65535, 1) + b"\0" * 70_000,
        header + struct.pack("!HB", 18, 4),
        header + struct.pack("!HB", 29, 1) + b"\0" * 10,
        header + struct.pack("!HB", 19, 200),
        opening(25)[:-3],
        opening(25) + header + struct.pack("!HB", 4097, 2) + bytes(4078),
        opening(25, 65000),
        opening(25, hold_s=1),
        opening(25) + updates(nlris(10)),
    ]
    for i, data in enumerate(junk * 2):
        with contextlib.suppress(OSError):
            hostile.connect(20 + i).sendall(data)
    honest()
    errors = {p["last_error"] for p in stage.status()["peers"]}
    assert len(errors) > 6, errors


def test_an_identifier_and_a_block_of_another(
    stage: Stage, hostile: Hostile, honest: Callable[[], None]
) -> None:
    """It says that it is node 1, takes node 1's pods, its next hop, and services of nobody."""
    sock = hostile.connect(3)
    sock.sendall(opening(1) + message.encode(message.Keepalive(), CONTEXT))
    eventually(lambda: hostile.state() == "Established")
    told = {
        "10.244.1.0/24": "10.9.0.3",
        "10.244.1.128/25": "10.9.0.3",
        "10.244.0.0/16": "10.9.0.3",
        "192.0.2.9/32": "10.9.0.1",
        "192.0.2.10/32": "10.9.0.254",
        "203.0.113.1/32": "10.9.0.3",
        "10.9.0.254/32": "10.9.0.3",
        "127.0.0.0/8": "10.9.0.3",
        "0.0.0.0/0": "10.9.0.3",
    }
    for prefix, via in told.items():
        sock.sendall(updates([parse_prefix(prefix)[1]], via))
    eventually(lambda: len(stage.status()["refusals"]) == len(told))
    reasons = {r["prefix"]: r["reason"] for r in stage.status()["refusals"]}
    another = "this pod block, or a part of it, is another neighbour's"
    assert reasons == {
        "10.244.1.0/24": another,
        "10.244.1.128/25": another,
        "10.244.0.0/16": another,
        "192.0.2.9/32": "its next hop is not the neighbour itself",
        "192.0.2.10/32": "its next hop is an address of ours",
        "203.0.113.1/32": "in none of the neighbour's import lists",
        "10.9.0.254/32": "in none of the neighbour's import lists",
        "127.0.0.0/8": "a prefix that is not routed, and in no import list by name",
        "0.0.0.0/0": "in none of the neighbour's import lists",
    }
    assert sum(hostile.view()["refused_for"].values()) == len(told)
    texts = " ".join(s["text"] for s in stage.status()["settings"])
    assert "10.9.0.1 and 10.9.0.3 have the same BGP identifier" in texts
    route = next(r for r in stage.status()["routes"] if r["prefix"] == "10.244.1.0/24")
    assert route["next_hops"] == ["10.9.0.1"]
    honest()


def test_a_full_table(stage: Stage, hostile: Hostile, honest: Callable[[], None]) -> None:
    """900,000 prefixes, 899,000 of them beyond the limit."""
    stage.config = msgspec.structs.replace(
        stage.config, neighbors=[loose(stage), *stage.config.neighbors[1:]]
    )
    stage.write_config()
    sock = hostile.open()
    honest()
    total = 900_000
    began = time.monotonic()
    for start in range(0, total, 30_000):
        sock.settimeout(60)
        sock.sendall(updates(nlris(30_000, first=0x14000000 + start * 256, length=24)))
    eventually(lambda: refused_of(hostile) >= total - 1000, 60)
    took = time.monotonic() - began
    view = hostile.view()
    assert next(f for f in view["families"] if f["family"] == "ipv4")["accepted"] == 1000
    assert any("over 80 % of max_prefixes" in hint for hint in view["hints"])
    print(f"{total} prefixes refused in {took:.1f} s")
    honest()


def refused_of(hostile: Hostile) -> int:
    return int(hostile.view()["refused_for"].get("beyond max_prefixes", 0))


def loose(stage: Stage) -> Any:
    nodes = stage.config.neighbors[0]
    import_ = msgspec.structs.replace(
        nodes.import_, routes=["16.0.0.0/4", "32.0.0.0/3"], warn_percent=80
    )
    return msgspec.structs.replace(nodes, import_=import_)


def test_floods_flaps_and_who_reads_nothing(
    stage: Stage, hostile: Hostile, honest: Callable[[], None]
) -> None:
    """One peer flaps its prefixes as fast as it can, another asks for everything and never reads,
    a third sends octet by octet."""
    flapping, deaf, slow = hostile.open(3), hostile.open(21, small=True), hostile.connect(22)
    many = nlris(200)
    withdrawal = b"".join(
        message.encode_updates([], [message.Withdrawal(V4, tuple(many))], CONTEXT)
    )
    flap = (updates(many) + withdrawal) * 40
    refresh = message.encode(message.RouteRefresh(V4), CONTEXT) * 500
    talk = iter(opening(22) * 2)
    began = time.monotonic()
    sent = asked = 0
    for sock in (flapping, deaf, slow):
        sock.setblocking(False)
    while time.monotonic() - began < 8:
        select.select([], [flapping], [], 0.05)
        with contextlib.suppress(BlockingIOError):
            sent += flapping.send(flap[sent % len(flap) :])
        with contextlib.suppress(BlockingIOError):
            asked += deaf.send(refresh[asked % len(refresh) :])
        with contextlib.suppress(OSError, StopIteration):
            slow.send(bytes((next(talk),)))
        with contextlib.suppress(BlockingIOError):
            flapping.recv(65536)
    print(f"{sent // 1000} KB of UPDATEs in 8 s")
    assert sent > 100_000
    honest()


def test_attributes_without_end(stage: Stage, hostile: Hostile, honest: Callable[[], None]) -> None:
    """Every prefix with other attributes, as large as a message may be."""
    sock = hostile.open()
    sock.settimeout(60)
    for i, nlri in enumerate(nlris(256)):
        communities = tuple(range(i * 1000, i * 1000 + 900))
        sock.sendall(updates([nlri], communities=communities))
    sock.sendall(updates(nlris(1, first=0xC0000201), as_path=AsPath.of(*[64999] * 250)))
    eventually(lambda: "more than 100 AS in AS_PATH" in hostile.view()["refused_for"])
    reasons = hostile.view()["refused_for"]
    assert reasons["more than 100 AS in AS_PATH"] == 1
    assert reasons["the neighbour's attributes take too much memory"] > 100
    honest()


def test_only_what_is_configured_is_bound(stage: Stage, honest: Callable[[], None]) -> None:
    lines = stage.gateway.run("ss", "-Hltn").splitlines()
    assert [line.split()[3] for line in lines] == ["10.9.0.254:179"]
    assert stage.gateway.run("ss", "-Hlun").strip() == ""

"""Peers that read nothing, write without end, connect and say nothing: what the speaker does."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
import time
from typing import Any

import msgspec
import pytest
from test_bgp_transport import (
    GATEWAY,
    LONG,
    NODES,
    V4,
    Peer,
    Woken,
    count,
    gateway_config,
    node_config,
    routes,
    run,
    speaker,
    up,
)

from samepath.bgp import admission, link, message, sockets, transport, turns
from samepath.bgp.adjout import Advertisement
from samepath.bgp.admission import Admission, TurnedAway
from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.link import WRITE_OCTETS, Link
from samepath.bgp.policy import Reason
from samepath.bgp.transport import Speaker
from samepath.model.neighbor import Import
from samepath.model.net import Nlri, make_nlri

RESET = struct.pack("ii", 1, 0)


def large(prefixes: int) -> dict[Nlri, Advertisement]:
    """Every one needs an UPDATE of its own, of some 800 octets."""
    return {
        make_nlri((0x0A000000 + i).to_bytes(4, "big"), 32): Advertisement(
            PathAttributes(b"", med=i, communities=LONG)
        )
        for i in range(prefixes)
    }


# A peer that reads nothing


def test_a_peer_that_reads_nothing_is_lost_and_its_paths_stay_for_its_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9687, also where there is no hold timer to do it."""
    monkeypatch.setattr(turns, "SEND_HOLD_S", 0.3)

    async def main() -> None:
        woken = Woken()
        nodes = msgspec.structs.replace(NODES, hold_time_s=0)
        async with speaker(gateway_config(nodes), woken) as gateway:
            deaf = Peer(gateway, 66)
            await woken.until(lambda: up(gateway))
            gateway.set("127.0.0.0/16", {V4: large(20_000)})
            await woken.until(lambda: not up(gateway))
            (status,) = gateway.peers()
            assert status.last_error == "send hold timer expired: the neighbour reads nothing"
            assert status.flaps == 1
            await woken.until(lambda: not gateway.connections.open)
            deaf.close()

    run(main)


def test_a_peer_that_reads_again_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SEND_HOLD_S", 5.0)

    async def main() -> None:
        woken = Woken()
        async with speaker(gateway_config(NODES), woken) as gateway:
            deaf = Peer(gateway, 66)
            await woken.until(lambda: up(gateway))
            gateway.set("127.0.0.0/16", {V4: large(5_000)})
            await woken.until(lambda: any(x.stuck_since for x in gateway.connections.open))
            loop = asyncio.get_running_loop()
            while any(x.stuck_since for x in gateway.connections.open):
                await loop.sock_recv(deaf.sock, 1 << 20)
            assert up(gateway)
            deaf.close()

    run(main)


def test_no_more_is_made_than_the_socket_takes() -> None:
    """UPDATEs are made when there is room: never more than the limit and one step wait."""

    async def main() -> None:
        woken = Woken()
        async with speaker(gateway_config(NODES), woken) as gateway:
            deaf = Peer(gateway, 66)
            await woken.until(lambda: up(gateway))
            (one,) = gateway.connections.open
            transport_ = one._transport
            assert transport_ is not None
            gateway.set("127.0.0.0/16", {V4: large(20_000)})
            waiting = []
            loop = asyncio.get_running_loop()
            for _ in range(400):
                waiting.append(transport_.get_write_buffer_size())
                with contextlib.suppress(BlockingIOError):
                    deaf.sock.recv(8192)
                await asyncio.sleep(0)
                if one.stuck_since is not None and len(waiting) > 100:
                    await asyncio.wait_for(loop.sock_recv(deaf.sock, 8192), 1)
            assert WRITE_OCTETS < max(waiting) < 2 * WRITE_OCTETS
            deaf.close()

    run(main)


# A connection that is reset while we close it


def test_reset_while_closing_ends_quietly() -> None:
    """The neighbour's reset is there, and asyncio has not told us: `write_eof` raises."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        closed = loop.create_future()

        class Owner:
            def opened(self, one: Link, local: bytes) -> None: ...
            def accepted(self, one: Link, peer: bytes, local: bytes) -> None: ...
            def schedule(self, peer: Any) -> None: ...
            def closed(self, one: Link) -> None:
                closed.set_result(None)

        listening = socket.create_server((GATEWAY, 0))
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
        ours.setblocking(False)
        one = Link(Owner())
        await loop.connect_accepted_socket(lambda: one, ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        theirs.close()
        one.close()  # before the loop has had a look
        one.close()  # and twice does no harm
        await asyncio.wait_for(closed, 1)
        assert one._transport is None
        listening.close()

    run(main)


# Those who connect


def test_who_says_nothing_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OPENING_MOST", 8)

    async def main() -> None:
        woken = Woken()
        async with speaker(gateway_config(NODES), woken) as gateway:
            silent = [connect(gateway, 20 + i) for i in range(20)]
            await woken.until(lambda: gateway.turned_away.get(TurnedAway.MADE_ROOM) == 12)
            await woken.until(lambda: len(gateway.connections.open) == 8)
            async with speaker(node_config(2, gateway), woken) as node:
                node.set(GATEWAY, routes())
                await woken.until(lambda: count(gateway) == 3)
            for sock in silent:
                sock.close()

    run(main)


def connect(gateway: Speaker, number: int) -> socket.socket:
    sock = socket.socket()
    sock.bind((f"127.0.0.{number}", 0))
    sock.connect((GATEWAY, gateway.ports[GATEWAY]))
    return sock


def test_a_range_full_of_silence_makes_room_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "EVICT_S", 0.1)

    async def main() -> None:
        woken = Woken()
        nodes = msgspec.structs.replace(NODES, max_sessions=4)
        async with speaker(gateway_config(nodes), woken) as gateway:
            silent = [connect(gateway, 20 + i) for i in range(4)]
            await woken.until(lambda: len(gateway.connections.open) == 4)
            async with speaker(node_config(2, gateway), woken) as node:
                await woken.until(lambda: up(node))
            for sock in silent:
                sock.close()

    run(main)


def test_peers_of_a_range_that_come_and_go_are_forgotten() -> None:
    async def main() -> None:
        woken = Woken()
        nodes = msgspec.structs.replace(NODES, max_sessions=5)
        async with speaker(gateway_config(nodes), woken) as gateway:
            for i in range(100):
                connect(gateway, 20 + i).close()
                await woken.until(lambda: not gateway.connections.open)
            assert len(gateway.peers()) <= 10

    run(main)


def test_an_address_has_a_burst_and_then_a_rate() -> None:
    door: Admission[int] = Admission()
    one, other = b"\x0a\0\0\1", b"\x0a\0\0\2"
    assert [door.is_too_often(one, 0.0) for _ in range(25)].count(False) == admission.BURST
    assert not door.is_too_often(other, 0.0)
    assert not door.is_too_often(one, 0.6)
    assert door.is_too_often(one, 0.6)
    assert [door.is_too_often(one, 60.0) for _ in range(25)].count(False) == admission.BURST
    for i in range(2 * admission.ADDRESSES_KEPT):
        door.is_too_often(i.to_bytes(4, "big"), 60.0)
    assert len(door._spent) <= admission.ADDRESSES_KEPT


def test_what_is_turned_away_is_logged_once_a_second_and_always_counted() -> None:
    door: Admission[int] = Admission()
    said = [door.count(TurnedAway.STRANGER, i / 100) for i in range(250)]
    assert said.count(True) == 3
    assert door.counts == {TurnedAway.STRANGER: 250}


# Those who write


def test_a_peer_is_read_no_faster_than_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many octets in few messages: what is read and not handled stays bounded."""

    async def main() -> None:
        woken = Woken()
        async with speaker(gateway_config(NODES), woken) as gateway:
            flood = Peer(gateway, 66)
            await woken.until(lambda: up(gateway))
            (one,) = gateway.connections.open
            monkeypatch.setattr(gateway, "schedule", lambda peer: None)  # nobody listens
            data = update(flood, large_nlris(1000)) * 4000
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(flood.sock, data))
            await woken.until(lambda: not one._is_reading)
            await asyncio.sleep(0.05)
            assert one._unhandled <= link.BACKLOG_OCTETS + link.READ_OCTETS
            assert not sending.done()
            sending.cancel()
            flood.close()

    run(main)


def large_nlris(count_: int, first: int = 0x0A000000) -> tuple[Nlri, ...]:
    return tuple(make_nlri((first + i).to_bytes(4, "big"), 32) for i in range(count_))


def update(peer: Peer, nlris: tuple[Nlri, ...], last: int = 66) -> bytes:
    attributes = PathAttributes(bytes((192, 0, 2, last)), as_path=AsPath.of(65001))
    reach = message.Reach(V4, nlris, attributes)
    return b"".join(message.encode_updates([reach], [], peer.context))


@pytest.mark.alone
def test_many_floods_at_once_delay_nobody_for_long() -> None:
    """Ten peers write as fast as they can; an eleventh is heard in a fraction of a second."""

    async def main() -> None:
        woken = Woken()
        async with (
            speaker(gateway_config(NODES), woken) as gateway,
            speaker(node_config(2, gateway), woken) as node,
        ):
            await woken.until(lambda: up(gateway) and up(node))
            loop = asyncio.get_running_loop()
            floods = [Peer(gateway, 60 + i) for i in range(10)]
            await woken.until(lambda: len(gateway.peers()) == 11 and up(gateway))
            sending = []
            for i, flood in enumerate(floods):
                nlris = large_nlris(300, 0x0A100000)
                one = update(flood, nlris, 60 + i) + update(flood, nlris, 80 + i)
                sending.append(loop.create_task(pour(flood, one)))
            took = []
            for i in range(8):
                began = time.perf_counter()
                node.set(GATEWAY, routes(3 + i % 2))
                nlri = make_nlri((0x0A000003).to_bytes(4, "big"), 32)
                await woken.until(lambda: (gateway.rib.paths(V4, nlri) is None) == (i % 2 == 0))  # noqa: B023
                took.append(time.perf_counter() - began)
            for task, flood in zip(sending, floods, strict=True):
                task.cancel()
                flood.close()
            assert sorted(took)[len(took) // 2] < 0.5
            print("heard after", [f"{t * 1000:.0f} ms" for t in took])

    run(main)


async def pour(peer: Peer, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(peer.sock, data * 20)


@pytest.mark.alone
def test_a_full_table_is_refused_and_the_loop_stays_prompt() -> None:
    """900,000 prefixes, a thousand of them accepted; lateness of the loop is measured beside."""

    async def main() -> None:
        woken = Woken()
        few = Import(services=["0.0.0.0/1"], max_prefixes=1000)
        nodes = msgspec.structs.replace(NODES, import_=few)
        async with speaker(gateway_config(nodes), woken) as gateway:
            flood = Peer(gateway, 66)
            await woken.until(lambda: up(gateway))
            total = 900_000
            loop = asyncio.get_running_loop()

            data = b"".join(
                update(flood, nlris_24(first, 50_000)) for first in range(0, total, 50_000)
            )
            sending = loop.create_task(loop.sock_sendall(flood.sock, data))
            late, refused = [], 0
            while refused < total - 1000:
                began = time.perf_counter()
                await asyncio.sleep(0.005)
                late.append(time.perf_counter() - began - 0.005)
                (status,) = gateway.peers()
                refused = status.refused_for.get(Reason.TOO_MANY, 0)
            await sending
            assert count(gateway) == 1000
            assert len(gateway.refusals()) == 1000
            late.sort()
            print("late, in ms:", [round(late[int(s * (len(late) - 1))] * 1000, 1)
                                   for s in (0.5, 0.95, 1)])  # fmt: skip
            assert late[-len(late) // 20] < 0.1
            flood.close()

    run(main)


def nlris_24(first: int, count_: int) -> tuple[Nlri, ...]:
    return tuple(
        make_nlri((0x10000000 + (first + i) * 256).to_bytes(4, "big"), 24) for i in range(count_)
    )


def test_as_many_sockets_as_the_system_allows() -> None:
    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            async with speaker(gateway_config(), Woken()):
                assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(main)


def test_the_kernel_gives_up_on_who_acknowledges_nothing() -> None:
    """RFC 9687 for what the kernel has taken already, and buffers that do not grow."""
    with sockets.listening_socket(GATEWAY, 0) as sock:
        timeout = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert timeout == sockets.SEND_HOLD_S * 1000
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            assert sock.getsockopt(socket.SOL_SOCKET, option) <= 2 * sockets.BUFFER_OCTETS

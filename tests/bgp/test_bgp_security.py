"""Passwords, distances, limits and ownership, between speakers over real TCP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_bgp_transport import (
    ALL,
    GATEWAY,
    NODES,
    Woken,
    count,
    gateway_config,
    node_config,
    only,
    routes,
    run,
    speaker,
    up,
)

from samepath.bgp import transport
from samepath.bgp.admission import TurnedAway
from samepath.bgp.policy import Reason
from samepath.bgp.tcp_md5 import Password, Passwords, dropped
from samepath.bgp.transport import Speaker
from samepath.model.config import Bgp
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import address_text

SECRET = "s3cret of the tests"


@pytest.fixture
def password(tmp_path: Path) -> Callable[..., str]:
    def write(text: str = SECRET, name: str = "password", mode: int = 0o600) -> str:
        path = tmp_path / name
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.rename(path)
        return str(path)

    return write


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PASSWORDS_LOOK_S", 0.02)


def with_neighbor(config: Bgp, **changes: Any) -> Bgp:
    (neighbor,) = config.neighbors
    changed = msgspec.structs.replace(neighbor, **changes)
    return msgspec.structs.replace(config, neighbors=[changed])


@contextlib.asynccontextmanager
async def two(
    woken: Woken, gateway: dict[str, Any], node: dict[str, Any]
) -> AsyncIterator[tuple[Speaker, Speaker]]:
    """A gateway and one node, with what each side says of the other."""
    async with (
        speaker(with_neighbor(gateway_config(NODES), **gateway), woken) as one,
        speaker(with_neighbor(node_config(2, one), **node), woken) as other,
    ):
        other.set(GATEWAY, routes())
        yield one, other


# TCP-MD5


def test_the_same_password_on_both_sides(password: Callable[..., str]) -> None:
    """A range has it for all of its addresses; a line's end is not part of it."""

    async def main() -> None:
        woken = Woken()
        ours, theirs = password(SECRET + "\n", "ours"), password(SECRET, "theirs")
        async with two(woken, {"password_file": ours}, {"password_file": theirs}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            assert only(a).protection == only(b).protection == ("TCP-MD5",)
            assert a.findings() == b.findings() == ()

    run(main)


def test_ipv6_and_a_neighbour_by_address(password: Callable[..., str]) -> None:
    async def main() -> None:
        woken = Woken()
        path = password()
        by_address = Neighbor(
            address="::1", remote_as=65001, import_=ALL, passive=True, password_file=path
        )
        config = msgspec.structs.replace(gateway_config(by_address), listen=["::1"])
        async with speaker(config, woken) as gateway:
            node = with_neighbor(
                node_config(2, gateway_like(gateway)),
                address="::1", local_address="::1", password_file=path,
            )  # fmt: skip
            async with speaker(node, woken) as other:
                other.set("::1", routes())
                await woken.until(lambda: count(gateway) == 3)

    run(main)


def gateway_like(speaker_: Speaker) -> Any:
    """`node_config` asks for the port of 127.0.0.1."""

    class Like:
        ports = {GATEWAY: next(iter(speaker_.ports.values()))}  # noqa: RUF012

    return Like


@pytest.mark.parametrize("theirs", ["another", None], ids=["wrong", "none"])
def test_never_up_with_another_password_or_none(
    password: Callable[..., str], theirs: str | None
) -> None:
    async def main() -> None:
        woken = Woken()
        before = dropped()
        ours = {"password_file": password()}
        other = {"password_file": password(theirs, "theirs")} if theirs else {}
        async with two(woken, ours, other) as (a, b):
            field = "wrong" if theirs else "unsigned"
            await woken.until(lambda: getattr(dropped(), field) - getattr(before, field) >= 2)
            assert a.peers() == ()
            assert not up(b)
            (finding,) = a.findings()
            assert "segments dropped by the kernel" in finding
            if theirs:
                (hint, *_) = only(b).hints
                assert "not the same on both sides looks like no answer" in hint

    run(main)


def test_another_password_needs_a_new_session_and_the_same_one_none(
    password: Callable[..., str],
) -> None:
    async def main() -> None:
        woken = Woken()
        ours, theirs = password(SECRET, "ours"), password(SECRET, "theirs")
        async with two(woken, {"password_file": ours}, {"password_file": theirs}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            password(SECRET + "\n", "ours")  # written anew, and the same
            a.reconfigure(a.config)
            assert not a.passwords.are_stale
            assert up(a)
            assert only(b).flaps == 0
            password("another", "ours")
            await woken.until(lambda: not up(b) and only(b).flaps == 1)
            assert "other configuration change" in only(b).last_error.lower()
            password("another", "theirs")
            await woken.until(lambda: up(a) and up(b) and count(a) == 3)

    run(main)


def test_a_password_that_is_taken_away_is_not_asked_for_any_more(
    password: Callable[..., str],
) -> None:
    async def main() -> None:
        woken = Woken()
        path = password()
        async with two(woken, {"password_file": path}, {"password_file": path}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            a.reconfigure(with_neighbor(a.config, password_file=None))
            b.reconfigure(with_neighbor(b.config, password_file=None))
            await woken.until(lambda: up(a) and up(b) and count(a) == 3)

    run(main)


def test_a_file_that_cannot_be_used_keeps_its_neighbour_down_and_nobody_else(
    password: Callable[..., str], tmp_path: Path
) -> None:
    """And never is it spoken with unsigned; when the file comes, so does the session."""

    async def main() -> None:
        woken = Woken()
        path = str(tmp_path / "late")
        late = Neighbor(
            address="127.0.0.2", remote_as=65001, import_=ALL, password_file=path, port=9
        )
        async with (
            speaker(gateway_config(NODES, late), woken) as gateway,
            speaker(node_config(3, gateway), woken) as free,
            speaker(node_config(2, gateway), woken) as node,
        ):
            free.set(GATEWAY, routes())
            await woken.until(lambda: count(gateway) == 3)
            await woken.until(lambda: gateway.turned_away.get(TurnedAway.NO_PASSWORD))
            status = {address_text(p.address): p for p in gateway.peers()}
            assert not status["127.0.0.2"].is_established
            assert "No such file" in status["127.0.0.2"].last_error
            assert gateway.findings() == (f"password_file {path}: No such file or directory",)
            password(SECRET, "late")
            password(SECRET, "node")
            node.reconfigure(with_neighbor(node.config, password_file=str(tmp_path / "node")))
            await woken.until(lambda: all(p.is_established for p in gateway.peers()))
            assert gateway.findings()[:1] != ("",)

    run(main)


def test_files_and_what_is_said_of_them(password: Callable[..., str], tmp_path: Path) -> None:
    def look(path: str, former: Passwords | None = None) -> Passwords:
        return Passwords([neighbor(path)], former)

    def neighbor(path: str) -> Neighbor:
        return Neighbor(address="127.0.0.2", remote_as=1, password_file=path)

    good = look(password("two words\r\nnot this"))
    path = str(tmp_path / "password")
    assert good.of(neighbor(path)) == Password(b"two words")
    assert SECRET not in repr(Password(SECRET.encode()))
    assert good.findings == []
    assert not good.are_stale
    open_to_all = look(password(SECRET, mode=0o604), good)
    assert good.are_stale
    assert open_to_all.of(neighbor(path)) == Password(SECRET.encode())
    (finding,) = open_to_all.findings
    assert finding.endswith("everybody can read it (mode 0604): chmod o-r")
    for text, octets in (("", 0), ("\n", 0), ("x" * 81, 81)):
        bad = look(password(text), open_to_all)
        assert bad.of(neighbor(path)) == Password(SECRET.encode())
        assert bad.findings[0].endswith(f"not {octets}; the last good password stands")
        assert look(path).of(neighbor(path)) is None
        assert f"not {octets}" in look(path).why_not(neighbor(path))


def test_a_password_is_nowhere_to_be_read(
    password: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        woken = Woken()
        path = password()
        async with two(woken, {"password_file": path}, {"password_file": path}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            password("another one")
            for side in (a, b):
                await woken.until(lambda: not side.passwords.are_stale)  # noqa: B023
            assert "another password: a new session" in caplog.text
            await woken.until(lambda: up(a) and up(b) and count(a) == 3)
            shown = repr((a.peers(), a.findings(), a.config, a.passwords.__dict__))
            for word in (SECRET, "another one"):
                assert word not in shown
                assert word not in caplog.text

    run(main)


def test_a_neighbour_without_password_in_a_range_with_one_is_a_mistake() -> None:
    guarded = msgspec.structs.replace(NODES, password_file="/x")
    inside = Neighbor(address="127.0.0.9", remote_as=65001)
    with pytest.raises(ValueError, match=r"127\.0\.0\.9: password_file: it lies in 127"):
        gateway_config(guarded, inside)
    gateway_config(guarded, msgspec.structs.replace(inside, password_file="/y"))


# GTSM, multihop


def test_ttl_security_on_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        woken = Woken()
        async with two(woken, {"ttl_security": True}, {"ttl_security": 1}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            assert only(a).protection == only(b).protection == ("GTSM, 1 hop",)
            link = next(iter(a.connections.open))
            sock = link._transport.get_extra_info("socket")  # type: ignore[union-attr]
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 255
            assert sock.getsockopt(socket.IPPROTO_IP, 21) == 255

    run(main)


def test_who_sends_with_a_lower_ttl_is_turned_away(tmp_path: Path) -> None:
    async def main() -> None:
        woken = Woken()
        async with two(woken, {"ttl_security": 2}, {"ebgp_multihop": 253}) as (a, b):
            await woken.until(lambda: a.turned_away.get(TurnedAway.TOO_FAR, 0) >= 2)
            assert a.peers() == ()
            b.reconfigure(with_neighbor(b.config, ebgp_multihop=254))
            await woken.until(lambda: count(a) == 3)

    run(main)


@pytest.mark.parametrize(
    ("changes", "ttl"), [({}, 1), ({"ebgp_multihop": 3}, 3)], ids=["direct", "multihop"]
)
def test_ttl_towards_external_neighbours(changes: dict[str, Any], ttl: int) -> None:
    async def main() -> None:
        woken = Woken()
        async with two(woken, changes, changes) as (a, b):
            await woken.until(lambda: count(a) == 3)
            for side in (a, b):
                link = next(iter(side.connections.open))
                sock = link._transport.get_extra_info("socket")  # type: ignore[union-attr]
                assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == ttl

    run(main)


def test_ttl_security_and_multihop_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Neighbor(address="192.0.2.1", remote_as=1, ttl_security=True, ebgp_multihop=2)
    with pytest.raises(ValueError, match="1 to 255"):
        Neighbor(address="192.0.2.1", remote_as=1, ttl_security=256)


# Limits of prefixes


def test_near_the_limit_is_said_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        woken = Woken()
        few = Import(services=["10.0.0.0/8"], max_prefixes=10)
        async with two(woken, {"import_": few}, {}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            assert only(a).hints == ()
            for number in (8, 9, 8, 12):
                b.set(GATEWAY, routes(number))
                accepted = min(number, 10)
                await woken.until(lambda: count(a) == accepted)  # noqa: B023
            assert only(a).hints == ("ipv4: over 80 % of max_prefixes, which is 10",)
            await woken.until(lambda: only(a).refused_for.get(Reason.TOO_MANY) == 2)
            assert up(a)
            assert caplog.text.count("over 80 % of max_prefixes") == 1

    run(main)


def test_beyond_the_limit_the_session_may_end_and_is_tried_again() -> None:
    async def main() -> None:
        woken = Woken()
        few = Import(services=["10.0.0.0/8"], max_prefixes=10, beyond="restart", restart_s=1)
        async with two(woken, {"import_": few}, {}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            b.set(GATEWAY, routes(11))
            await woken.until(lambda: not count(a) and only(b).flaps == 1)
            assert "maximum number of prefixes reached" in only(b).last_error.lower()
            assert "more than 10 ipv4 prefixes" in only(a).last_error
            (hint, *_) = only(a).hints
            assert hint.startswith("beyond max_prefixes: tried again in")
            b.set(GATEWAY, routes(4))
            await woken.until(lambda: count(a) == 4)
            assert only(a).flaps == 1

    run(main)


def test_a_raised_limit_ends_the_wait() -> None:
    async def main() -> None:
        woken = Woken()
        few = Import(services=["10.0.0.0/8"], max_prefixes=10, beyond="restart")
        async with two(woken, {"import_": few}, {}) as (a, b):
            await woken.until(lambda: count(a) == 3)
            b.set(GATEWAY, routes(11))
            await woken.until(lambda: not count(a))
            await woken.until(lambda: a.turned_away.get(TurnedAway.WAITS))
            more = msgspec.structs.replace(few, max_prefixes=20)
            a.reconfigure(with_neighbor(a.config, import_=more))
            await woken.until(lambda: count(a) == 11)

    run(main)


# Sockets


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process listens, by the kernel's own tables."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}").removeprefix("socket:[").rstrip("]"))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, port = words[1].split(":")
                packed = b"".join(
                    int(address[i : i + 8], 16).to_bytes(4, "little")
                    for i in range(0, len(address), 8)
                )
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def test_only_what_is_configured_is_listened_on() -> None:
    async def main() -> None:
        before = listening(os.getpid())
        config = msgspec.structs.replace(gateway_config(NODES), listen=[GATEWAY, "::1"])
        async with speaker(config, Woken()) as gateway:
            ports = gateway.ports
            assert listening(os.getpid()) - before == {
                (GATEWAY, ports[GATEWAY]),
                ("::1", ports["::1"]),
            }
        async with speaker(msgspec.structs.replace(config, listen=[]), Woken()):
            assert listening(os.getpid()) == before

    run(main)


def test_passwords_are_only_asked_where_they_are_configured(password: Callable[..., str]) -> None:
    """Two ranges, one of them guarded."""

    async def main() -> None:
        woken = Woken()
        guarded = msgspec.structs.replace(NODES, range="127.0.5.0/24", password_file=password())
        async with speaker(gateway_config(NODES, guarded), woken) as gateway:
            free = node_config(2, gateway)
            signed = with_neighbor(
                node_config(3, gateway), local_address="127.0.5.3", password_file=password()
            )
            async with speaker(free, woken), speaker(signed, woken):
                await woken.until(lambda: len(gateway.peers()) == 2 and up(gateway))

    run(main)


def test_asking_again_and_again_is_turned_away_and_forgiven() -> None:
    async def main() -> None:
        woken = Woken()
        async with speaker(gateway_config(NODES), woken) as gateway:
            for _ in range(40):
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection(
                        GATEWAY, gateway.ports[GATEWAY], local_addr=("127.0.0.2", 0)
                    )
                    writer.close()
            await woken.until(lambda: gateway.turned_away.get(TurnedAway.TOO_OFTEN, 0) >= 10)
            async with speaker(node_config(3, gateway), woken) as other:
                await woken.until(lambda: up(other))
            async with speaker(node_config(2, gateway), woken) as node:
                await woken.until(lambda: up(node))

    run(main)

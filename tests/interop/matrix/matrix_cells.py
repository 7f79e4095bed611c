"""The cells: what is shown of each row, with the peer's own view as the witness.

Each takes a `World` in which the session stands and everything was told, and leaves it so, but for
those at the end of a setting (see `matrix_rows`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from interop_peers import OFFERED, OURS, OURS_V6, THEIRS, THEIRS_V6, wait
from matrix_setting import (
    BANDWIDTH,
    LARGE,
    OUR_DRAINING,
    OUR_LARGE,
    OUR_V4,
    OUR_V6,
    OUR_WEIGHTED,
    REASON,
    REFLECTED,
    SHARED,
    THEIR_DRAINING,
    THEIR_LARGE,
    THEIR_WEIGHTED,
    THIRD_ID,
    THIRD_V6,
)
from matrix_world import Cell, World

from samepath.bgp.attributes import GRACEFUL_SHUTDOWN, AsPath
from samepath.lab.netns import Namespace
from samepath.model.net import address_text, parse_address
from samepath.netlink.socket import in_namespace

CELLS: dict[str, Cell] = {}
SILENCE_S = 0.7
"""A SYN that is not answered within it is one that is dropped."""


def cell(key: str) -> Callable[[Cell], Cell]:
    def named(function: Cell) -> Cell:
        CELLS[key] = function
        return function

    return named


# Sessions and families.


@cell("ebgp")
def external(world: World) -> None:
    (path,) = world.from_peer(OFFERED[0])
    assert path.external
    assert path.attributes.as_path == AsPath.of(65002)
    (seen,) = world.theirs.paths(OUR_V4)
    assert seen.as_path == "65001"
    assert world.theirs.is_established()
    if not world.theirs.knows_extended_messages:
        assert not world.theirs.paths(OUR_LARGE)


@cell("ibgp")
def internal(world: World) -> None:
    (path, *_) = world.from_peer(OFFERED[2])
    assert not path.external
    assert path.attributes.as_path == AsPath()
    assert path.attributes.local_pref == 100
    (seen,) = world.theirs.paths(OUR_V6)
    assert seen.as_path == ""
    assert world.theirs.is_established()


@cell("ipv4")
def routes_of_ipv4(world: World) -> None:
    _come_and_go(world, theirs=OFFERED[1], ours=OUR_V4, hops=(THEIRS, OURS))


@cell("ipv6")
def routes_of_ipv6(world: World) -> None:
    _come_and_go(world, theirs=OFFERED[2], ours=OUR_V6, hops=(THEIRS_V6, OURS_V6))


def _come_and_go(world: World, *, theirs: str, ours: str, hops: tuple[str, str]) -> None:
    def we_have() -> list[str]:
        return [address_text(p.attributes.next_hop) for p in world.from_peer(theirs)]

    def they_have() -> list[str]:
        return [seen.next_hop for seen in world.theirs.paths(ours)]

    flaps = world.ours.status().flaps
    assert we_have() == [hops[0]]
    assert they_have() == [hops[1]]
    world.theirs.withdraw(theirs)
    wait(lambda: we_have() == [], "their withdrawal")
    world.theirs.announce(theirs)
    wait(lambda: we_have() == [hops[0]], "their announcement")
    world.tell(ours)  # but this one
    wait(lambda: they_have() == [], "our withdrawal")
    world.tell()
    wait(lambda: they_have() == [hops[1]], "our announcement")
    assert world.ours.status().flaps == flaps, world.ours.status().lost_for


# What goes with a route.


@cell("draining-from")
def draining_from(world: World) -> None:
    (path,) = world.from_peer(THEIR_DRAINING)
    assert path.attributes.has(GRACEFUL_SHUTDOWN)
    (other,) = world.from_peer(OFFERED[0])
    assert not other.attributes.has(GRACEFUL_SHUTDOWN)


@cell("draining-to")
def draining_to(world: World) -> None:
    (seen,) = world.theirs.paths(OUR_DRAINING)
    assert seen.is_draining
    (other,) = world.theirs.paths(OUR_V4)
    assert not other.is_draining


@cell("bandwidth-from")
def bandwidth_from(world: World) -> None:
    (path,) = world.from_peer(THEIR_WEIGHTED)
    assert path.attributes.link_bandwidth == BANDWIDTH


@cell("bandwidth-to")
def bandwidth_to(world: World) -> None:
    (seen,) = world.theirs.paths(OUR_WEIGHTED)
    assert seen.bandwidth == BANDWIDTH


@cell("extended-from")
def extended_from(world: World) -> None:
    assert "extended message" in world.ours.status().agreed
    (path,) = world.from_peer(THEIR_LARGE)
    assert len(path.attributes.large_communities) == LARGE


@cell("extended-to")
def extended_to(world: World) -> None:
    (seen,) = world.theirs.paths(OUR_LARGE)
    assert seen.large == LARGE


# Who may speak.


@cell("md5")
def md5(world: World) -> None:
    sockets = world.their_host.run("ss", "-tniHO", "state", "established")
    (session,) = (line for line in sockets.splitlines() if re.search(r"10\.0\.0\.1\]?:", line))
    assert "md5keys:" in session
    (own,) = (world.our_host.run("ss", "-tniHO", "state", "established")).splitlines()[:1]
    assert "md5keys:" in own
    assert _is_ignored(world.their_host, OURS, at=world.our_host)
    if world.theirs.listens:
        assert _is_ignored(world.our_host, THEIRS, at=world.their_host)


def _is_ignored(source: Namespace, destination: str, *, at: Namespace) -> bool:
    """A connection without the key gets no answer, and that is the reason."""
    before = _count(at, "TCPMD5NotFound")

    def connect() -> bool:
        with socket.socket() as sock:
            sock.settimeout(SILENCE_S)
            try:
                sock.connect((destination, 179))
            except TimeoutError:
                return True
            return False

    return in_namespace(source.path, connect) and _count(at, "TCPMD5NotFound") > before


def _count(host: Namespace, name: str) -> int:
    """A counter of the namespace's TCP."""
    lines = host.run("cat", "/proc/net/netstat").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if name in names.split():
            return int(values.split()[names.split().index(name)])
    raise LookupError(name)


@contextmanager
def _from_afar(host: Namespace) -> Iterator[None]:
    """What leaves `host` looks as if a router were in between."""
    host.run(
        "nft",
        "table ip afar { chain out { type filter hook postrouting priority 0;\n"
        "ip protocol tcp ip ttl set 250\n}\n}",
    )
    try:
        yield
    finally:
        host.run("nft", "delete table ip afar")


@cell("gtsm-us")
def gtsm_us(world: World) -> None:
    before = _count(world.our_host, "TCPMinTTLDrop")
    with _from_afar(world.their_host):
        world.theirs.withdraw(OFFERED[1])
        wait(lambda: _count(world.our_host, "TCPMinTTLDrop") > before, "dropped by our socket")
        assert world.from_peer(OFFERED[1])
    wait(lambda: not world.from_peer(OFFERED[1]), "what they said, from nearby")
    world.theirs.announce(OFFERED[1])
    wait(lambda: world.from_peer(OFFERED[1]), "their announcement")


@cell("gtsm-them")
def gtsm_them(world: World) -> None:
    before = _count(world.their_host, "TCPMinTTLDrop")
    with _from_afar(world.our_host):
        world.tell(OUR_V4)
        wait(lambda: _count(world.their_host, "TCPMinTTLDrop") > before, "dropped by their socket")
        assert world.theirs.paths(OUR_V4)
    wait(lambda: not world.theirs.paths(OUR_V4), "what we said, from nearby")
    world.tell()
    wait(lambda: world.theirs.paths(OUR_V4), "our announcement")


# Several speakers.


def _hops(world: World, prefix: str) -> set[str]:
    return {address_text(p.attributes.next_hop) for p in world.from_peer(prefix)}


@cell("add-path-from")
def add_path_from(world: World) -> None:
    wait(lambda: _hops(world, SHARED) == {THEIRS_V6, THIRD_V6}, "both of their paths")
    assert "add-path receive" in world.ours.status().agreed


@cell("add-path-to")
def add_path_to(world: World) -> None:
    def they_have() -> set[str]:
        return {seen.next_hop for seen in world.theirs.paths(SHARED)}

    wait(lambda: they_have() == {OURS_V6, THIRD_V6}, "both of our paths")
    assert "add-path send" in world.ours.status().agreed


@cell("reflection-from")
def reflection_from(world: World) -> None:
    wait(lambda: world.from_peer(REFLECTED), "the reflected path")
    (path,) = world.from_peer(REFLECTED)
    assert address_text(path.attributes.next_hop) == THIRD_V6
    assert path.attributes.originator_id == _number(THIRD_ID)
    assert path.attributes.cluster_list == (_number(THEIRS),)


@cell("reflection-to")
def reflection_to(world: World) -> None:
    wait(lambda: world.theirs.paths(REFLECTED), "the reflected path")
    (seen,) = world.theirs.paths(REFLECTED)
    assert seen.next_hop == THIRD_V6
    assert seen.originator == THIRD_ID
    assert seen.cluster_list == [OURS]


def _number(router_id: str) -> int:
    return int.from_bytes(parse_address(router_id))


@cell("next-hop-from")
def next_hop_from(world: World) -> None:
    assert _hops(world, OFFERED[0]) == {THEIRS_V6}
    assert "extended next hop" in world.ours.status().agreed


@cell("next-hop-to")
def next_hop_to(world: World) -> None:
    assert [seen.next_hop for seen in world.theirs.paths(OUR_V4)] == [OURS_V6]


# Ends and returns.


@cell("restart-theirs")
def they_restart(world: World) -> None:
    world.theirs.kill()
    wait(lambda: world.ours.stale() == len(world.theirs.offered), "stale paths")
    world.theirs.start(restarted=True)

    def is_back() -> bool:
        assert set(world.ours.learned()) == set(world.theirs.offered)
        return world.ours.status().is_established and world.ours.stale() == 0

    wait(is_back, "their return", 25)
    wait(lambda: set(world.ours.learned()) == set(world.theirs.offered), "all of their routes")
    wait(world.they_have_all, "our routes again")


@cell("restart-ours")
def we_restart(world: World) -> None:
    world.ours.stop(notify=False)
    wait(lambda: not world.theirs.is_established(), "their notice")
    assert world.theirs.paths(OUR_V4)
    world.start_ours(restarted=True, forwarding_preserved=True)
    world.tell(OUR_DRAINING, release=False)
    wait(lambda: set(world.ours.learned()) == set(world.theirs.offered), "their routes again", 25)
    assert world.theirs.paths(OUR_V4)
    assert world.theirs.paths(OUR_DRAINING)
    world.tell(OUR_DRAINING)
    wait(lambda: not world.theirs.paths(OUR_DRAINING), "what we no longer offer")
    assert world.theirs.paths(OUR_V4)


@cell("bfd-ipv6")
@cell("bfd")
def bfd(world: World) -> None:
    wait(lambda: world.theirs.is_bfd_up() and world.ours.is_bfd_up(), "up in both views")
    drop = "table inet cut { chain in { type filter hook input priority -300; policy drop; }\n}"
    for host in world.hosts():
        host.run("nft", drop)
    try:
        wait(lambda: not world.theirs.is_established(), "their end of the session", 3)
        wait(lambda: not world.ours.status().is_established, "our end of the session", 3)
        assert "BFD" in world.ours.status().lost_for
        assert not world.from_peer(OFFERED[0])
    finally:
        for host in world.hosts():
            host.run("nft", "delete table inet cut")
    wait(lambda: world.from_peer(OFFERED[0]) and world.theirs.paths(OUR_V4), "the way back", 25)


@cell("reason-from")
def reason_from(world: World) -> None:
    world.theirs.shut_down_with_reason()
    wait(lambda: REASON in world.ours.status().lost_for, "their reason")
    assert not world.from_peer(OFFERED[0])


@cell("reason-to")
def reason_to(world: World) -> None:
    world.ours.stop(text=REASON)
    wait(lambda: REASON in world.theirs.heard_reason(), "our reason, as they show it")

"""The feeder says what it should, to any router, and says it anew after a lost session."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import feeder
from benchmarks.feeder import Feeder, Session, State, make_sessions, message, open_message, updates
from benchmarks.load import PEER_AS, Load
from samepath.bgp.message import Context, Open, Update, decode, split
from samepath.model.net import Family, host_nlri

HOP = bytes((10, 0, 1, 1))
CONTEXT = Context(four_octet_as=True, families=frozenset({Family.IPV4}), internal=False)


def addresses(count: int) -> list[bytes]:
    return [Load(1, count).prefix(i) for i in range(count)]


@given(st.integers(0, 2500))
def test_our_own_codec_reads_every_prefix_and_then_end_of_rib(count: int) -> None:
    octets = updates(PEER_AS, HOP, addresses(count))
    found, used = split(octets)
    assert used == len(octets)
    read = [decode(kind, body, CONTEXT) for kind, body in found]
    reaches = [r for u in read[:-1] if isinstance(u, Update) for r in u.reaches]
    assert [n for r in reaches for n in r.nlris] == [host_nlri(a) for a in addresses(count)]
    assert {r.attributes.next_hop for r in reaches} <= {HOP}
    assert {r.attributes.as_path.asns for r in reaches} <= {(PEER_AS,)}
    last = read[-1]
    assert isinstance(last, Update)
    assert last.end_of_rib is Family.IPV4


def test_the_open_offers_what_a_node_would() -> None:
    [(kind, body)], _ = split(open_message(PEER_AS, 240, HOP))
    read = decode(kind, body, CONTEXT)
    assert isinstance(read, Open)
    assert read.hold_time_s == 240
    assert read.router_id == int.from_bytes(HOP, "big")
    assert read.capabilities.families == {Family.IPV4}
    assert read.capabilities.four_octet_as == read.asn


@given(st.lists(st.binary(max_size=50), max_size=5), st.data())
def test_messages_are_found_however_the_stream_is_cut(
    bodies: list[bytes], data: st.DataObject
) -> None:
    octets = b"".join(message(2, body) for body in bodies)
    cut = data.draw(st.integers(0, len(octets)))
    first, rest = feeder.split(octets[:cut])
    second, nothing = feeder.split(rest + octets[cut:])
    assert [body for _, body in first + second] == bodies
    assert nothing == b""


def test_what_is_no_bgp_is_refused() -> None:
    with pytest.raises(ValueError, match="not a BGP"):
        feeder.split(b"HTTP/1.1 400 Bad Request")


@given(st.integers(1, 64), st.integers(1, 300), st.integers(1, 40))
def test_what_is_announced_is_what_is_expected(peers: int, prefixes: int, sets: int) -> None:
    load = Load(peers, prefixes, sets)
    announced = load.announced()
    hops: dict[bytes, set[bytes]] = {}
    for peer, of in enumerate(announced):
        for prefix in of:
            hops.setdefault(prefix, set()).add(load.peer(peer))
    assert hops == load.expected()


# -- against a router that is as simple as can be


class Router:
    """Accepts sessions, and keeps the octets that come after each KEEPALIVE."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.at: tuple[str, int] = self.listener.getsockname()
        self.connections: dict[str, socket.socket] = {}
        self.heard: dict[str, bytes] = {}

    def turn(self) -> None:
        try:
            connection, (source, _) = self.listener.accept()
        except BlockingIOError:
            pass
        else:
            connection.setblocking(False)
            connection.sendall(open_message(65000, 90, bytes((10, 0, 0, 1))) + message(4))
            self.connections[source], self.heard[source] = connection, b""
        for source, connection in self.connections.items():
            try:
                self.heard[source] += connection.recv(1 << 20)
            except BlockingIOError:
                continue

    def updates(self, source: str) -> list[bytes]:
        return [body for kind, body in split(self.heard[source])[0] if kind == 2]

    def close(self) -> None:
        for connection in (self.listener, *self.connections.values()):
            connection.close()


@pytest.fixture
def router() -> Iterator[Router]:
    router = Router()
    yield router
    router.close()


class Feeding:
    """A feeder and its router, in turns, in one thread."""

    def __init__(self, router: Router, sessions: list[Session]) -> None:
        self.router = router
        self.told: list[dict[str, Any]] = []
        self.feeder = Feeder(sessions, lambda **what: self.told.append(what))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.told
            self.feeder.turn(0.01)
            self.router.turn()

    def was_told(self, what: str) -> bool:
        return any(what in told for told in self.told)


def feeding(router: Router, peers: int, prefixes: int) -> Feeding:
    sessions = make_sessions(Load(peers, prefixes), router.at)
    for i, session in enumerate(sessions):
        session.source = f"127.0.0.{i + 2}"
    return Feeding(router, sessions)


def test_nothing_is_sent_before_the_start_and_everything_after_it(router: Router) -> None:
    both = feeding(router, peers=3, prefixes=5000)
    both.until(lambda: both.was_told("established"))
    assert [router.updates(s.source) for s in both.feeder.sessions] == [[], [], []]
    both.feeder.go()
    both.until(lambda: both.was_told("written"))
    for session in both.feeder.sessions:
        both.until(lambda s=session: router.heard[s.source].endswith(s.octets))  # type: ignore[misc]
    assert both.was_told("sent")


def test_one_that_waits_connects_no_earlier_than_told_to_go(router: Router) -> None:
    """Else a figure that begins with `go` begins too late."""
    both = feeding(router, peers=2, prefixes=10)
    both.feeder.stay_closed()
    for _ in range(20):
        both.feeder.turn(0.01)
        both.router.turn()
    assert {s.state for s in both.feeder.sessions} == {State.CLOSED}
    both.feeder.go()
    both.until(lambda: both.was_told("established"))
    moments = {key: value for told in both.told for key, value in told.items()}
    assert moments["established"] > moments["sent"]
    for session in both.feeder.sessions:
        both.until(lambda s=session: router.heard[s.source].endswith(s.octets))  # type: ignore[misc]


def test_a_lost_session_comes_back_and_says_everything_again(router: Router) -> None:
    both = feeding(router, peers=2, prefixes=10)
    both.until(lambda: both.was_told("established"))
    both.feeder.go()
    first, second = both.feeder.sessions
    both.until(lambda: router.heard[first.source].endswith(first.octets))
    router.connections[first.source].close()
    del router.connections[first.source]
    both.until(lambda: both.was_told("lost"))
    assert first.state is State.CLOSED
    assert second.state is State.ESTABLISHED
    both.until(lambda: router.heard[first.source].endswith(first.octets))


def test_keepalives_follow_the_agreed_hold_time(router: Router) -> None:
    both = feeding(router, peers=1, prefixes=0)
    both.until(lambda: both.was_told("established"))
    [session] = both.feeder.sessions
    assert session.keepalive_s == 30
    before = len(router.heard[session.source])
    session.due = 0.0
    both.until(lambda: len(router.heard[session.source]) > before)
    assert router.heard[session.source].endswith(message(4))
    assert session.due > time.monotonic() + 25


def test_what_is_dropped_stays_away_until_it_rises(router: Router) -> None:
    both = feeding(router, peers=3, prefixes=10)
    both.until(lambda: both.was_told("established"))
    both.feeder.go()
    first, second, third = both.feeder.sessions
    both.until(lambda: all(router.heard[s.source].endswith(s.octets) for s in both.feeder.sessions))
    both.feeder.drop(2)
    for session in (first, second):
        router.connections.pop(session.source).close()
        both.until(lambda s=session: (s.state, s.due) == (State.CLOSED, float("inf")))  # type: ignore[misc]
    both.told.clear()
    for _ in range(50):
        both.feeder.turn(0.01)
    assert [s.state for s in (first, second, third)] == [
        State.CLOSED,
        State.CLOSED,
        State.ESTABLISHED,
    ]
    both.feeder.rise()
    both.until(lambda: both.was_told("established"))
    for session in (first, second):
        both.until(lambda s=session: router.heard[s.source].endswith(s.octets))  # type: ignore[misc]

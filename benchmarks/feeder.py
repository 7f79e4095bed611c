"""The feeder: many BGP peers in one light process, to load a router.

Run in a namespace of its own as `python -m benchmarks.feeder`, with the numbers of a `Load`; `Feed`
starts it and talks to it. It opens one session from each peer's address, tells `established` when
all are up, waits for `go`, and then writes everything at once, as fast as the router reads: UPDATEs
of 800 prefixes, encoded beforehand, and End-of-RIB. Started as one that waits, it opens no session
before `go`, so that the moment of `go` is that at which all peers begin to connect. Sessions are
kept alive, and opened again when the router ends them: then everything is sent anew. Told to
`drop`, it closes some of them without a word, all at once, and opens them when told to `rise`.

The octets are made here with `struct`, not by the codec under test. What the router sends is cut
into messages and otherwise ignored, but for NOTIFICATION, whose codes are reported.

RFC 4271 §4, RFC 4760 §8, RFC 6793, RFC 4724 §2 (End-of-RIB).
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from benchmarks.load import PEER_AS, ROUTER, Load
from samepath.lab.netns import Namespace
from samepath.model.net import Address, address_text

PER_UPDATE = 800
PORT = 179
RETRY_S = 0.2
CONNECTS, WAITS = "connects", "waits"
MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
_READ_OCTETS = 1 << 18


# -- octets: pure


def message(kind: int, body: bytes = b"") -> bytes:
    return MARKER + struct.pack(">HB", 19 + len(body), kind) + body


def open_message(asn: int, hold_s: int, router_id: Address) -> bytes:
    """With IPv4 unicast, route refresh and the AS in four octets."""
    capabilities = b"\1\4\0\1\0\1" + b"\2\0" + b"\x41\4" + asn.to_bytes(4, "big")
    parameter = bytes((2, len(capabilities))) + capabilities
    head = struct.pack(">BHH4sB", 4, asn, hold_s, router_id, len(parameter))
    return message(OPEN, head + parameter)


def updates(asn: int, next_hop: Address, prefixes: Sequence[Address]) -> bytes:
    """UPDATEs for all the /32, and End-of-RIB."""
    origin = b"\x40\1\1\0"
    path = b"\x40\2\6\2\1" + asn.to_bytes(4, "big")
    attributes = origin + path + b"\x40\3\4" + next_hop
    head = b"\0\0" + len(attributes).to_bytes(2, "big") + attributes
    parts = []
    for at in range(0, len(prefixes), PER_UPDATE):
        nlri = b"".join([b"\x20" + prefix for prefix in prefixes[at : at + PER_UPDATE]])
        parts.append(message(UPDATE, head + nlri))
    parts.append(message(UPDATE, b"\0\0\0\0"))
    return b"".join(parts)


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Whole messages (type, body), and the rest. Raises ValueError for what is no BGP."""
    found = []
    at = 0
    while len(data) - at >= 19:
        length, kind = struct.unpack_from(">HB", data, at + 16)
        if not data.startswith(MARKER, at) or length < 19:
            raise ValueError("not a BGP message")
        if len(data) - at < length:
            break
        found.append((kind, data[at + 19 : at + length]))
        at += length
    return found, data[at:]


# -- sessions


class State(enum.Enum):
    CLOSED = 0
    CONNECTING = 1
    OPEN_SENT = 2
    OPEN_CONFIRM = 3
    ESTABLISHED = 4


class Session:
    """One peer: what it will say, and how far its connection is."""

    def __init__(
        self, address: Address, router: tuple[str, int], asn: int, octets: bytes, hold_s: int = 240
    ) -> None:
        self.source = address_text(address)
        self.address = address
        self.router = router
        self.asn = asn
        self.octets = octets
        self.state = State.CLOSED
        self.socket: socket.socket | None = None
        self.inbox = b""
        self.outbox = memoryview(b"")
        self.due = 0.0
        """When to connect again, or to send a keepalive."""
        self.hold_s = hold_s
        self.keepalive_s = hold_s / 3
        self.why = ""

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((self.source, 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect(self.router)
        self.socket, self.state, self.inbox, self.why = sock, State.CONNECTING, b"", ""
        self.outbox = memoryview(open_message(self.asn, self.hold_s, self.address))
        return sock

    def say(self, octets: bytes) -> None:
        self.outbox = memoryview(bytes(self.outbox) + octets) if self.outbox else memoryview(octets)

    def receive(self, data: bytes, now: float) -> bool:
        """Whether this made the session Established. Raises ValueError: to be closed."""
        found, self.inbox = split(self.inbox + data)
        became = False
        for kind, body in found:
            if kind == OPEN:
                hold_s = min(self.hold_s, int.from_bytes(body[3:5], "big"))
                self.keepalive_s = hold_s / 3 if hold_s else 1e9
                self.say(message(KEEPALIVE))
                self.state = State.OPEN_CONFIRM
            elif kind == KEEPALIVE and self.state is State.OPEN_CONFIRM:
                self.state = State.ESTABLISHED
                self.due = now + self.keepalive_s
                became = True
            elif kind == NOTIFICATION:
                raise ValueError(f"NOTIFICATION {body[0]}/{body[1]} {body[2:]!r}")
        return became


class Feeder:
    """All sessions on one selector."""

    def __init__(self, sessions: Sequence[Session], tell: Callable[..., None]) -> None:
        self.sessions = sessions
        self.tell = tell
        self.selector = selectors.DefaultSelector()
        self.has_begun = False
        self.told_established = False
        self.unwritten: set[Session] = set()

    def go(self) -> None:
        self.has_begun = True
        self.tell(sent=time.monotonic())
        self._open_all()
        self.unwritten = set(self.sessions)
        for session in self.sessions:
            if session.state is State.ESTABLISHED:
                session.say(session.octets)
                self._write(session)

    def drop(self, count: int) -> None:
        """The first `count` sessions end, and stay closed."""
        self.tell(dropped=time.monotonic())
        for session in self.sessions[:count]:
            if session.state is not State.CLOSED:
                self._close(session, "dropped")
            session.due = float("inf")

    def rise(self) -> None:
        """What was dropped is opened again."""
        self.tell(risen=time.monotonic())
        self._open_all()

    def stay_closed(self) -> None:
        """No session is opened before `go`."""
        for session in self.sessions:
            session.due = float("inf")

    def _open_all(self) -> None:
        for session in self.sessions:
            if session.due == float("inf"):
                session.due = 0.0

    def turn(self, wait_s: float) -> None:
        """Serve what is ready, and what is due."""
        for key, events in self.selector.select(wait_s):
            if isinstance(key.data, Session):
                self._serve(key.data, events)
            else:
                key.data()
        now = time.monotonic()
        for session in self.sessions:
            if now < session.due:
                continue
            if session.state is State.CLOSED:
                self.selector.register(session.connect(), selectors.EVENT_WRITE, session)
                session.due = now + 5
            elif session.state is State.ESTABLISHED:
                session.say(message(KEEPALIVE))
                session.due = now + session.keepalive_s
                self._write(session)
            else:
                self._close(session, "no session within 5 s")

    def _serve(self, session: Session, events: int) -> None:
        assert session.socket is not None
        try:
            if session.state is State.CONNECTING:
                error = session.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise ConnectionError(error)
                session.state = State.OPEN_SENT
            if events & selectors.EVENT_READ:
                data = session.socket.recv(_READ_OCTETS)
                if not data:
                    raise ConnectionError("closed by the router")
                if session.receive(data, time.monotonic()):
                    self._established(session)
            self._write(session)
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            self._close(session, str(error))

    def _established(self, session: Session) -> None:
        if self.has_begun:
            session.say(session.octets)
            self.unwritten.add(session)
        if not self.told_established and all(s.state is State.ESTABLISHED for s in self.sessions):
            self.told_established = True
            self.tell(established=time.monotonic())

    def _write(self, session: Session) -> None:
        assert session.socket is not None
        if session.outbox:
            with contextlib.suppress(BlockingIOError):
                session.outbox = session.outbox[session.socket.send(session.outbox) :]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if session.outbox else 0)
        self.selector.modify(session.socket, events, session)
        if not session.outbox and session in self.unwritten:
            self.unwritten.discard(session)
            if not self.unwritten:
                self.tell(written=time.monotonic())

    def _close(self, session: Session, why: str) -> None:
        assert session.socket is not None
        if session.state is not State.CONNECTING:
            self.tell(lost=session.source, why=why)
            self.told_established = False
        self.selector.unregister(session.socket)
        session.socket.close()
        session.socket, session.state = None, State.CLOSED
        session.due = time.monotonic() + RETRY_S


def make_sessions(load: Load, router: tuple[str, int] = (ROUTER, PORT)) -> list[Session]:
    announced = load.announced()
    return [
        Session(peer, router, PEER_AS, updates(PEER_AS, peer, prefixes), load.hold_s)
        for peer, prefixes in zip(map(load.peer, range(load.peers)), announced, strict=True)
    ]


def serve(load: Load, *, waits: bool) -> None:
    """The process: runs until its standard input ends."""

    def tell(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    feeder = Feeder(make_sessions(load), tell)
    if waits:
        feeder.stay_closed()
    is_over = False

    def command() -> None:
        nonlocal is_over
        line = os.read(sys.stdin.fileno(), 64)
        is_over = not line
        match line.split():
            case [b"go"]:
                feeder.go()
            case [b"drop", count]:
                feeder.drop(int(count))
            case [b"rise"]:
                feeder.rise()

    feeder.selector.register(sys.stdin, selectors.EVENT_READ, command)
    while not is_over:
        feeder.turn(0.1)


# -- the other side: who runs it


class FeedError(Exception):
    """The feeder could not do as it was asked; one line."""


class Feed:
    """A running feeder. `python` and its folder are those that we run from."""

    def __init__(self, host: Namespace, load: Load, folder: str, *, waits: bool = False) -> None:
        """`waits`: with its first connection, until `go`."""
        words = [sys.executable, "-m", "benchmarks.feeder", WAITS if waits else CONNECTS]
        numbers = [str(n) for n in astuple(load)]
        self.process: subprocess.Popen[bytes] = host.popen(
            *words, *numbers, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
        )
        self.lost: list[tuple[str, str]] = []
        """(peer, why) of sessions that ended, since the last command."""
        self._rest = b""

    def established(self, limit_s: float) -> float:
        """Waits until all sessions are; when the last one was."""
        return float(self._await("established", limit_s))

    def go(self) -> float:
        """Send everything now; the moment (CLOCK_MONOTONIC) at which that began."""
        return self._tell(b"go", "sent")

    def drop(self, count: int) -> float:
        """Close so many sessions at once, without a word; the moment."""
        return self._tell(b"drop %d" % count, "dropped")

    def rise(self) -> float:
        """Open them again; the moment."""
        return self._tell(b"rise", "risen")

    def _tell(self, command: bytes, answer: str) -> float:
        assert self.process.stdin is not None
        self.poll()
        self.lost.clear()
        self.process.stdin.write(command + b"\n")
        self.process.stdin.flush()
        return float(self._await(answer, 10))

    def written(self, limit_s: float) -> float:
        """When the last octet was handed to the kernel."""
        return float(self._await("written", limit_s))

    def close(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _await(self, what: str, limit_s: float) -> Any:
        deadline = time.monotonic() + limit_s
        while True:
            line = self._line(deadline - time.monotonic())
            if line is None:
                lost = f"; last lost: {self.lost[-1]}" if self.lost else ""
                raise FeedError(f"not {what} within {limit_s:.0f} s{lost}")
            told = json.loads(line)
            if what in told:
                return told[what]

    def poll(self) -> None:
        """Take in what was told meanwhile."""
        while self._line(0) is not None:
            pass

    def _line(self, limit_s: float) -> bytes | None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise FeedError(f"the feeder ended with status {self.process.wait()}")
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        told = json.loads(line)
        if "lost" in told:
            self.lost.append((told["lost"], told["why"]))
        return line


if __name__ == "__main__":
    serve(Load(*map(int, sys.argv[2:])), waits=sys.argv[1] == WAITS)

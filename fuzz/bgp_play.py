"""Targets: a BGP session, and a neighbour with its connections, played step by step.

An input is a sequence of steps (`Choices`): the peer connects, sends an OPEN, messages or garbage
in pieces, falls silent, goes away; time passes; our side stops, asks for a refresh, has news to
tell.

What must hold after every step:

- nothing is raised, whatever the peer does (a call that the owner must not make is not made);
- one step makes at most `STEP_OCTETS` of output, all of it well-formed messages, first an OPEN;
- a timer that has been handled does not ring again at once, so no owner ever spins;
- events keep their order: an OPEN before Established before an UPDATE, one Down a connection;
- RIB and neighbour agree: what is counted is there, all of it is allowed by the import rules and
  within `max_prefixes`; without a session there are stale paths only, and they go with time;
- connections that are given up do not pile up.

RFC 4271 §8, RFC 4724, RFC 7313.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from msgspec.structs import replace as replaced

from fuzz.bgp_codec import FAMILY_SETS
from fuzz.choices import Choices
from samepath.bgp import message
from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.attributes import AsPath, PathAttributes
from samepath.bgp.capabilities import AddPath, Capabilities, GracefulRestart, LongLived
from samepath.bgp.events import (
    CloseRequested,
    ConnectRequested,
    Down,
    EndOfRib,
    Established,
    Event,
    OpenReceived,
    RefreshRequested,
    UpdateReceived,
)
from samepath.bgp.fsm import State
from samepath.bgp.message import Context, MessageType
from samepath.bgp.negotiation import SessionConfig
from samepath.bgp.peer import Local, Peer
from samepath.bgp.policy import ImportRule, Own
from samepath.bgp.rib import Rib
from samepath.bgp.session import Session
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Family, make_nlri

STEPS = 60
STEP_OCTETS = 3 * message.MAX_MESSAGE
"""OPEN, KEEPALIVE and NOTIFICATION of one connection are much less."""
OUR_AS, THEIR_AS = 65000, 65001
OUR_ID, THEIR_ID = 0x0A000001, 0x0A000002
PEER = bytes((10, 0, 0, 2))
OURS = bytes((10, 0, 0, 1))
_PLAIN = Context(four_octet_as=True, families=frozenset(Family), internal=False)
_PATHS = replace(_PLAIN, add_path_send=frozenset(Family))
WAITS_S = (0.0, 0.01, 1.0, 4.9, 30.0, 100.0, 1000.0)
LONG_S = 20_000.0


def their_open(choices: Choices) -> bytes:
    """An OPEN as a peer sends it: mostly one that we take."""
    bits, restart, more = choices.number(), choices.number(), choices.number()
    asn = OUR_AS if bits & 1 else THEIR_AS
    families = frozenset(f for f, bit in zip(Family, (2, 4), strict=True) if not bits & bit)
    capabilities = Capabilities(
        families=families,
        four_octet_as=None if bits & 8 else asn,
        route_refresh=not bits & 16,
        enhanced_route_refresh=not bits & 32,
        extended_message=bool(bits & 64),
        graceful_restart=None
        if bits & 128
        else GracefulRestart(
            restart_state=bool(restart & 1),
            notification=bool(restart & 2),
            restart_time_s=restart >> 4,
            families=tuple((f, bool(restart & 4)) for f in families),
        ),
        long_lived=tuple(LongLived(f, bool(restart & 8), 5000) for f in families if more & 4),
        add_path=AddPath(FAMILY_SETS[more >> 3 & 3], FAMILY_SETS[more >> 5 & 3]),
        extended_next_hop=bool(more & 128),
    )
    hold_time_s = (0, 3, 9, 90)[more & 3]
    return message.encode(message.Open(asn, hold_time_s, THEIR_ID, capabilities), _PLAIN)


def their_octets(choices: Choices) -> bytes:
    """What a peer may write: a good message, a message of any type and body, or anything."""
    kind = choices.number() % 6
    if kind == 0:
        return their_open(choices)
    if kind == 1:
        return message.encode(message.Keepalive(), _PLAIN)
    if kind == 2:
        return framed(MessageType.UPDATE, choices.block())
    if kind == 3:
        return their_update(choices)
    if kind == 4:
        return framed(choices.number(), choices.block())
    return choices.block()


def framed(kind: int, body: bytes) -> bytes:
    return b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + bytes((kind,)) + body


def their_update(choices: Choices) -> bytes:
    """Some prefixes reached or withdrawn, with few attributes that vary."""
    first, count, bits = choices.number(), choices.number(), choices.number()
    path_id, count = count >> 6, count % 8
    context = _PATHS if path_id else _PLAIN
    family = Family.IPV6 if bits & 1 else Family.IPV4
    nlris = tuple(
        make_nlri(bytes((100, 64 + first % 64, i)).ljust(family.octets, b"\0"), 24)
        for i in range(count + 1)
    )
    hop = PEER if family is Family.IPV4 else bytes.fromhex("fd00000000000000") + bytes(7) + b"\2"
    if bits & 2:
        octets = message.encode_updates((), [message.Withdrawal(family, nlris, path_id)], context)
    elif bits & 4:
        return message.end_of_rib(family)
    else:
        path = AsPath() if bits & 8 else AsPath.of(THEIR_AS)
        attributes = PathAttributes(next_hop=hop, as_path=path, med=bits >> 4)
        reach = message.Reach(family, nlris, attributes, path_id)
        octets = message.encode_updates([reach], (), context)
    return b"".join(octets)


class Line:
    """The far end of one connection: cuts what we write into messages and checks them."""

    def __init__(self) -> None:
        self.messages = 0
        self._rest = b""

    def take(self, octets: bytes, extra: int = 0) -> None:
        assert len(octets) <= STEP_OCTETS + extra, f"{len(octets)} octets in one step"
        data = self._rest + octets
        while (found := message.split(data, message.MAX_EXTENDED_MESSAGE))[1]:
            for kind, _ in found[0]:
                if not self.messages:
                    assert kind in (MessageType.OPEN, MessageType.NOTIFICATION)
                self.messages += 1
            data = data[found[1] :]
        assert not data, "half a message"


class Order:
    """Events of one session, in the order that its owner may rely on."""

    def __init__(self) -> None:
        self._is_open = self._is_up = False

    def take(self, event: Event) -> None:
        match event:
            case OpenReceived():
                assert not self._is_open
                self._is_open = True
            case Established():
                assert self._is_open
                assert not self._is_up
                self._is_up = True
            case UpdateReceived(update):
                assert self._is_up
                assert update.end_of_rib is None
            case EndOfRib() | RefreshRequested():
                assert self._is_up
            case Down(established=established):
                assert established is self._is_up
                assert event.text.isprintable(), ascii(event.text)
                self._is_open = self._is_up = False
            case CloseRequested() | ConnectRequested():
                pass


def ring(
    next_timer: Callable[[], float | None], handle: Callable[[float], None], now: float
) -> None:
    """What is due is handled, and then is not due any more."""
    handle(now)
    due = next_timer()
    assert due is None or due > now, f"rings again {now - due} s late"


# -- One session


def session(data: bytes) -> None:
    choices = Choices(data)
    bits, more = choices.number(), choices.number()
    config = SessionConfig(
        local_as=OUR_AS,
        router_id=OUR_ID,
        remote_as=OUR_AS if bits & 1 else THEIR_AS,
        add_path=AddPath(FAMILY_SETS[more & 3], FAMILY_SETS[more >> 2 & 3]),
        extended_next_hop=bool(more & 16),
        families=tuple(Family) if bits & 2 else (Family.IPV4,),
        hold_time_s=(90, 0, 3, 9)[bits >> 2 & 3],
        passive=bool(bits & 16),
        graceful_restart=None if bits & 32 else GracefulRestart(restart_time_s=120),
    )
    play = _SessionPlay(Session(config))
    for step in choices.steps(STEPS):
        play.step(step % 11, choices)
        play.check()


class _SessionPlay:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.now = 1000.0
        self.line: Line | None = None
        self.order = Order()
        self.wants_connection = False

    def step(self, kind: int, choices: Choices) -> None:
        session, now = self.session, self.now
        if kind == 0 and session.state is State.IDLE:
            session.start(now)
        elif kind == 1:
            self.connect()
        elif kind in (2, 3, 4):
            session.receive_data(their_octets(choices), now)
        elif kind == 5:
            data = their_octets(choices)
            cut = choices.number() % (len(data) + 1)
            session.receive_data(data[:cut], now)
            session.receive_data(data[cut:], now)
        elif kind == 6:
            self.now += choices.pick(WAITS_S)
            ring(session.next_timer, session.handle_timer, self.now)
        elif kind == 7 and self.line is not None:
            session.lost("reset")
        elif kind == 8:
            session.stop(now) if choices.number() & 1 else session.dump(now)
        elif kind == 9:
            session.ask_refresh(choices.pick(tuple(Family)), now)
        elif kind == 10:
            self.drain(1 + choices.number() % 3)
            return
        self.drain()

    def connect(self) -> None:
        """The transport connects when asked to; a passive session waits in Active."""
        waits = self.wants_connection or self.session.state is State.ACTIVE
        if waits and self.line is None and self.session.state in (State.CONNECT, State.ACTIVE):
            self.wants_connection, self.line = False, Line()
            self.session.connected(self.now)

    def drain(self, most: int = 10_000) -> None:
        for _ in range(most):
            event = self.session.next_event(self.now)
            if event is None:
                break
            self.order.take(event)
            if isinstance(event, ConnectRequested):
                self.wants_connection = True
            if isinstance(event, CloseRequested):
                self.write()
                self.line = None
            if isinstance(event, UpdateReceived):
                assert self.session.negotiated is None or repr(event)
        self.write()

    def write(self) -> None:
        octets = self.session.data_to_send()
        if self.line is not None:
            self.line.take(octets)

    def check(self) -> None:
        session = self.session
        if session.state in (State.IDLE, State.CONNECT, State.ACTIVE):
            assert session.negotiated is None
        if session.state is State.ESTABLISHED:
            assert session.negotiated is not None
            assert session.negotiated.families
        due = session.next_timer()
        assert due is None or due <= self.now + LONG_S


# -- One neighbour


ADD_PATH: tuple[Literal["receive", "send", "both"] | None, ...] = (None, "receive", "send", "both")
OTHER = bytes((10, 0, 0, 3))
RULES = Import(services=["100.64.0.0/11"], pods=["100.112.0.0/12"], max_prefixes=12)


def peer(data: bytes) -> None:
    choices = Choices(data)
    play = _PeerPlay(choices.number(), choices.number())
    for step in choices.steps(STEPS):
        play.step(step, choices)
        play.check()
    play.end()


class _PeerPlay:
    def __init__(self, bits: int, more: int) -> None:
        self.now = 1000.0
        self.rib = Rib(Own(OUR_AS, OUR_ID, OUR_ID))
        rules = replaced(RULES, next_hop="peer" if more & 32 else "any")
        neighbor = Neighbor(
            address="10.0.0.2",
            remote_as="external" if more & 64 else OUR_AS if bits & 1 else THEIR_AS,
            passive=bool(bits & 2),
            hold_time_s=(90, 0, 3, 9)[bits >> 2 & 3],
            graceful_restart_s=0 if bits & 16 else 120,
            families=["ipv4"] if bits & 32 else ["ipv4", "ipv6"],
            graceful_restart_notification=bool(more & 1),
            long_lived_stale_s=3600 if more & 2 and not bits & 16 else 0,
            add_path=ADD_PATH[more >> 2 & 3],
            extended_next_hop=bool(more & 16),
            import_=rules,
        )
        local = Local(OUR_AS, OUR_ID, {Family.IPV6: bytes.fromhex("fd00") + bytes(13) + b"\1"})
        self.rule = ImportRule(rules)
        self.peer = Peer(
            PEER, neighbor, local, self.rib, self.rule,
            now=self.now, restarting=bool(bits & 64), released=not bits & 64,
        )  # fmt: skip
        self.lines: dict[Session, Line] = {}
        self.orders: dict[Session, Order] = {}
        self.wanting: list[Session] = []
        self.has_other = False
        self.peer.start(self.now)
        self.pump()

    def step(self, step: int, choices: Choices) -> None:
        peer, now = self.peer, self.now
        match step % 10:
            case 0:
                session = peer.accept(now)
                self.lines[session] = Line()
                peer.connected(session, OURS, now)
            case 1:
                self.connect(step >= 128)
            case 2 | 3 | 4 | 5:
                if self.lines:
                    at = choices.number() % len(self.lines)
                    list(self.lines)[at].receive_data(their_octets(choices), now)
            case 6:
                self.now += choices.pick(WAITS_S)
                ring(peer.next_timer, peer.handle_timer, self.now)
            case 7:
                if self.lines:
                    choices.pick(list(self.lines)).lost("reset")
            case 8:
                peer.set(our_routes(choices.number()))
                peer.release_end_of_rib()
            case 9:
                self.rare(choices)
        self.pump()

    def rare(self, choices: Choices) -> None:
        peer = self.peer
        kind = choices.number() % 5
        if kind == 0:
            peer.stop(self.now)
        elif kind == 1:
            rules = Import(services=["100.64.0.0/10"], max_prefixes=1 + choices.number() % 20)
            self.rule = ImportRule(rules)
            peer.reimport(peer.neighbor, self.rule, self.now)
        elif kind == 2:
            peer.path_lost("BFD", forwarding=bool(choices.number() & 1), now=self.now)
        elif kind == 3:
            self.other(choices)

    def other(self, choices: Choices) -> None:
        """Another neighbour has, or gives up, blocks that this one may want, too."""
        first, bits = choices.number(), choices.number()
        if not self.has_other:
            self.has_other = True
            self.rib.peer_up(OTHER, external=True, router_id=3, rule=self.rule)
        nlris = [make_nlri(bytes((100, 64 + first % 64, i, 0)), 24) for i in range(4)]
        if bits & 1:
            self.rib.withdraw(OTHER, Family.IPV4, nlris)
        else:
            path = PathAttributes(next_hop=OTHER, as_path=AsPath.of(THEIR_AS))
            self.rib.announce(OTHER, Family.IPV4, nlris, path)

    def connect(self, is_refused: bool) -> None:
        if self.wanting:
            session = self.wanting.pop(0)
            if is_refused:
                session.lost("refused")
            else:
                self.lines[session] = Line()
                self.peer.connected(session, OURS, self.now)

    def pump(self) -> None:
        while (item := self.peer.next_event(self.now)) is not None:
            session, event = item
            self.orders.setdefault(session, Order()).take(event)
            if isinstance(event, ConnectRequested):
                self.wanting = [session]
            elif isinstance(event, CloseRequested):
                self.write(session)
                self.lines.pop(session, None)
                self.wanting = [s for s in self.wanting if s is not session]
        while self.peer.has_output:
            session_told = self.peer.pull(self.now)
            if session_told is not None:
                self.write(session_told)
            elif self.peer.established is None:
                break
        for session in list(self.lines):
            self.write(session)
        self.orders = {s: o for s, o in self.orders.items() if s in self.peer.sessions}

    def write(self, session: Session) -> None:
        octets = session.data_to_send()
        if session in self.lines:
            self.lines[session].take(octets, extra=1 << 17)

    def check(self) -> None:
        assert len(self.peer.sessions) <= 3
        assert repr(self.peer.status())
        held = 0
        for family in Family:
            counts = self.rib.counts(PEER, family)
            mine = [
                nlri
                for nlri, paths in self.rib.items(family)
                for path in paths.paths
                if path.peer == PEER
            ]
            assert counts.accepted == len(mine)
            assert 0 <= counts.stale <= counts.accepted
            assert counts.accepted <= self.rule.max_prefixes
            assert all(self.rule.kind(family, nlri) is not None for nlri in mine)
            others = self.rib.counts(OTHER, family).accepted
            assert sum(len(p.paths) for _, p in self.rib.items(family)) == len(mine) + others
            if self.peer.established is None:
                assert counts.stale == counts.accepted
            held += counts.stale
        if held:
            assert self.peer.next_timer() is not None, "stale for ever"

    def end(self) -> None:
        """The peer is gone for good: its paths go, and nothing spins."""
        for session in list(self.lines):
            session.lost("gone")
        self.pump()
        until = self.now + LONG_S
        for _ in range(100_000):
            due = self.peer.next_timer()
            if due is None or due > until:
                break
            self.now = max(self.now, due)
            ring(self.peer.next_timer, self.peer.handle_timer, self.now)
            self.pump()
            while self.wanting:
                self.connect(True)
                self.pump()
            if self.peer.established is None and not any(
                self.rib.counts(PEER, family).accepted for family in Family
            ):
                break
        self.check()
        assert not any(self.rib.counts(PEER, family).accepted for family in Family)


def our_routes(count: int) -> Routes:
    prefixes = [make_nlri(bytes((192, 168, i, 0)), 24) for i in range(count)]
    told = Advertisement(PathAttributes(next_hop=b""))
    return {Family.IPV4: dict.fromkeys(prefixes, told), Family.IPV6: {}}

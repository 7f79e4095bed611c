"""A world of BGP peers without sockets: one clock, one seed, and faults on demand.

Hosts are connected by wires that carry bytes in order, after delays drawn from the seed, in pieces
cut anywhere. A wire can be reset, or fall silent (bytes are held, as TCP would retransmit them);
a host's process can be killed (its wires are closed by its kernel), and come back.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.attributes import PathAttributes
from samepath.bgp.events import CloseRequested, ConnectRequested, Event
from samepath.bgp.fsm import State
from samepath.bgp.peer import Local, Peer
from samepath.bgp.policy import ImportRule, Own
from samepath.bgp.rib import Rib
from samepath.bgp.session import Session
from samepath.model.neighbor import Import, Neighbor
from samepath.model.net import Address, Family, Nlri, address_text, parse_address, parse_prefix

ALLOW_ALL = Import(services=["0.0.0.0/0", "::/0"], max_prefixes=1_000_000)


def nlri(text: str) -> Nlri:
    return parse_prefix(text)[1]


def offer(*prefixes: str, attributes: PathAttributes | None = None) -> Routes:
    """Routes with our own next hop."""
    routes: dict[Family, dict[Nlri, Advertisement]] = {f: {} for f in Family}
    advertisement = Advertisement(attributes or PathAttributes(next_hop=b""))
    for text in prefixes:
        family, octets = parse_prefix(text)
        routes[family][octets] = advertisement
    return routes


@dataclass(eq=False)
class End:
    host: Host
    peer: Peer
    session: Session


@dataclass(eq=False)
class Wire:
    ends: tuple[End, End]
    is_open: bool = True
    last: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """When the latest bytes in each direction arrive: later ones may not overtake them."""

    def side(self, session: Session) -> int:
        return 0 if self.ends[0].session is session else 1


class Host:
    def __init__(self, world: World, number: int, asn: int) -> None:
        self.world = world
        self.address: Address = bytes((192, 0, 2, number))
        self.local = Local(
            asn=asn,
            router_id=number,
            next_hops={
                Family.IPV4: self.address,
                Family.IPV6: parse_address(f"2001:db8::{number}"),
            },
        )
        self.is_alive = False
        self.rib = Rib(Own(asn, number, number))
        self.peers: dict[Address, Peer] = {}
        self.neighbors: list[tuple[Neighbor, Routes]] = []
        self.events: list[tuple[Address, Event]] = []

    def knows(self, other: Host, routes: Routes, **options: object) -> None:
        neighbor = Neighbor(
            address=address_text(other.address),
            remote_as=other.local.asn,
            import_=ALLOW_ALL,
            **options,  # type: ignore[arg-type]
        )
        self.neighbors.append((neighbor, routes))

    def boot(self, *, restarting: bool = False, preserved: bool = False) -> None:
        """The process starts, with nothing but what it is configured."""
        self.is_alive = True
        self.rib = Rib(self.rib.own)
        self.peers = {}
        for neighbor, routes in self.neighbors:
            assert neighbor.address is not None
            address = parse_address(neighbor.address)
            peer = Peer(
                address,
                neighbor,
                self.local,
                self.rib,
                ImportRule(neighbor.import_),
                now=self.world.now,
                restarting=restarting,
                forwarding_preserved=preserved,
                released=not restarting,
                jitter=lambda: self.world.random.uniform(0.75, 1.0),
            )
            peer.set(routes)
            self.peers[address] = peer
            peer.start(self.world.now)
            self.pump(peer)

    def pump(self, peer: Peer) -> None:
        """All that a transport would do now."""
        while (item := peer.next_event(self.world.now)) is not None:
            session, event = item
            self.events.append((peer.address, event))
            if isinstance(event, ConnectRequested):
                self.world.connect(self, peer, session)
            elif isinstance(event, CloseRequested):
                self.world.flush(session)
                self.world.close(session)
        while peer.has_output:
            peer.pull(self.world.now)
        for session in peer.sessions:
            self.world.flush(session)
        due = peer.next_timer()
        if due is not None:
            self.world.at(due, lambda: self._ring(peer))

    def _ring(self, peer: Peer) -> None:
        if self.is_alive and self.peers.get(peer.address) is peer:
            due = peer.next_timer()
            if due is not None and due <= self.world.now:
                peer.handle_timer(self.world.now)
                self.pump(peer)

    def peer(self, other: Host) -> Peer:
        return self.peers[other.address]

    def learned(self, other: Host) -> dict[Family, set[Nlri]]:
        """The prefixes that we have from `other`."""
        return {f: {n for n, paths in self.rib.items(f) if paths.of(other.address)} for f in Family}

    def stale(self, other: Host) -> int:
        return sum(self.rib.counts(other.address, f).stale for f in Family)


class World:
    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.hosts: dict[Address, Host] = {}
        self.silent: set[frozenset[Address]] = set()
        self.held: list[Callable[[], None]] = []
        self._wires: dict[Session, Wire] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def host(self, number: int, asn: int) -> Host:
        host = Host(self, number, asn)
        self.hosts[host.address] = host
        return host

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(time, self.now), next(self._count), action))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until

    def run_until(self, condition: Callable[[], bool], limit: float = 120.0) -> None:
        until = self.now + limit
        while not condition():
            assert self._queue, "nothing left to happen"
            assert self._queue[0][0] <= until, "it did not happen in time"
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def _delay(self) -> float:
        return self.random.uniform(0.0005, 0.02)

    def is_silent(self, a: Host, b: Host) -> bool:
        return frozenset((a.address, b.address)) in self.silent

    # Wires.

    def connect(self, host: Host, peer: Peer, session: Session) -> None:
        def arrive() -> None:
            other = self.hosts[peer.address]
            if host.peers.get(peer.address) is not peer or session.state is not State.CONNECT:
                return
            if self.is_silent(host, other):
                return  # No answer: the ConnectRetryTimer will tell.
            back = other.peers.get(host.address) if other.is_alive else None
            if back is None:
                session.lost("connection refused")
                host.pump(peer)
                return
            accepted = back.accept(self.now)
            wire = Wire((End(host, peer, session), End(other, back, accepted)))
            self._wires[session] = self._wires[accepted] = wire
            peer.connected(session, host.address, self.now)
            back.connected(accepted, other.address, self.now)
            host.pump(peer)
            other.pump(back)

        self.at(self.now + self._delay(), arrive)

    def flush(self, session: Session) -> None:
        data = session.data_to_send()
        wire = self._wires.get(session)
        if not data or wire is None or not wire.is_open:
            return
        side = wire.side(session)
        while data:
            size = self.random.choice((1, 19, 60, 4096, 65536))
            self._send(wire, side, data[:size])
            data = data[size:]

    def _send(self, wire: Wire, side: int, data: bytes) -> None:
        """`data`, or the end of the stream if empty."""
        far = wire.ends[1 - side]

        def arrive() -> None:
            if self._wires.get(far.session) is not wire:
                return
            if self.is_silent(far.host, wire.ends[side].host):
                self.held.append(arrive)
                return
            if data:
                far.session.receive_data(data, self.now)
            else:
                del self._wires[far.session]
                far.session.lost("closed")
            far.host.pump(far.peer)

        when = max(self.now + self._delay(), wire.last[side])
        wire.last[side] = when
        self.at(when, arrive)

    def close(self, session: Session) -> None:
        wire = self._wires.pop(session, None)
        if wire is not None:
            self._send(wire, wire.side(session), b"")

    # Faults.

    def reset(self, a: Host, b: Host) -> None:
        """All TCP connections between the two are reset, both notice at once."""
        pair = {a.address, b.address}
        for session, wire in list(self._wires.items()):
            if {end.host.address for end in wire.ends} == pair:
                end = wire.ends[wire.side(session)]
                del self._wires[session]
                session.lost("reset")
                end.host.pump(end.peer)

    def silence(self, a: Host, b: Host) -> None:
        self.silent.add(frozenset((a.address, b.address)))

    def heal(self) -> None:
        self.silent.clear()
        held, self.held = self.held, []
        for action in held:
            self.at(self.now, action)

    def kill(self, host: Host) -> None:
        """The process dies; its kernel closes its connections without a word of BGP."""
        host.is_alive = False
        host.peers = {}
        for session, wire in list(self._wires.items()):
            if wire.ends[wire.side(session)].host is host:
                self.close(session)


def two(
    seed: int = 0, *, asn: tuple[int, int] = (65001, 65002), **options: object
) -> tuple[World, Host, Host]:
    """Two hosts that know each other, each with two prefixes to offer, not yet booted."""
    world = World(seed)
    a, b = world.host(1, asn[0]), world.host(2, asn[1])
    a.knows(b, offer("10.1.0.0/16", "2001:db8:1::/48"), **options)
    b.knows(a, offer("10.2.0.0/16", "2001:db8:2::/48"), **options)
    return world, a, b


def is_up(a: Host, b: Host) -> bool:
    """Both established, by the same connection, and each has all that the other offers."""
    if b.address not in a.peers or a.address not in b.peers:
        return False
    both = (a.peer(b).established, b.peer(a).established)
    if any(s is None or s.state is not State.ESTABLISHED for s in both):
        return False
    return has_offered(a, b) and has_offered(b, a)


def has_offered(a: Host, b: Host) -> bool:
    """`a` has exactly what `b` offers, none of it stale."""
    text = address_text(a.address)
    (routes,) = (offered for neighbor, offered in b.neighbors if neighbor.address == text)
    wanted = {f: set(routes.get(f, {})) for f in Family}
    return a.learned(b) == wanted and not a.stale(b)

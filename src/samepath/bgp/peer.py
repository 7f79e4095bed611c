"""One neighbour: its connections, its place in the RIB, and what it is told.

Without socket and clock, as the session is. There may be two connections to one neighbour, one that
we opened and one that it did; here the collision is resolved (RFC 4271 §6.8). What becomes of a
neighbour's paths when its session ends is `samepath.bgp.stale`'s to say; BFD that is down, and with
it the neighbour's forwarding, ends the session, and all that is remembered of it (RFC 5882 §4.3).

A neighbour that opens a new connection while its session stands has lost the old one without our
noticing: with graceful restart the new one takes over (RFC 4724 §5).

The owner (`samepath.bgp.transport`) calls `next_event` until None and acts upon `ConnectRequested`
and `CloseRequested` for the session that they name; all else is done here.

RFC 4271 §6.8, §8.2.1; RFC 4724 §4, §5; RFC 5882 §4.3; RFC 6286 §2.3.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samepath.bgp.adjout import AdjRibOut, Export, Routes
from samepath.bgp.errors import Action, Cease, Code, PeerError
from samepath.bgp.events import (
    Down,
    EndOfRib,
    Established,
    Event,
    Negotiated,
    OpenReceived,
    Reason,
    RefreshRequested,
    UpdateReceived,
)
from samepath.bgp.fsm import State
from samepath.bgp.message import RefreshKind
from samepath.bgp.negotiation import SessionConfig, agreed, session_config
from samepath.bgp.policy import ImportRule, PeerKey
from samepath.bgp.rib import Counts, Rib
from samepath.bgp.session import Session, keeps_own
from samepath.bgp.stale import Stale
from samepath.bgp.status import FamilyStatus, PeerStatus
from samepath.bgp.tally import MessageCounts
from samepath.model.neighbor import Neighbor
from samepath.model.net import Address, Family, family_of, parse_address

__all__ = ["FamilyStatus", "Local", "Peer", "PeerStatus"]

COLLISION_S = 5.0
"""Two connections opened within so long are a collision, not a restart that we did not notice."""

_OPENED = (State.OPEN_CONFIRM, State.ESTABLISHED)


@dataclass(frozen=True, slots=True)
class Local:
    """Our side, the same for all neighbours."""

    asn: int
    router_id: int
    next_hops: Mapping[Family, Address]
    """Configured ones; for a family without one the session's local address is taken."""


class Peer:
    def __init__(
        self,
        address: PeerKey,
        neighbor: Neighbor,
        local: Local,
        rib: Rib,
        rule: ImportRule,
        *,
        now: float,
        restarting: bool = False,
        forwarding_preserved: bool = False,
        released: bool = False,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`restarting`, `forwarding_preserved`: what the first OPENs say (RFC 4724 §3).
        `released`: End-of-RIB need not wait for `release_end_of_rib`."""
        self.address = address
        self.neighbor = neighbor
        self.rule = rule
        self.outgoing: Session | None = None
        self.incoming: Session | None = None
        self.last_error = ""
        self.lost_for = ""
        self.flaps = 0
        self._local = local
        self._rib = rib
        self._restarting = restarting
        self._is_released = released
        self._forwarding_preserved = forwarding_preserved
        self._jitter = jitter
        self._routes: Routes | None = None
        self._routes_are_new = False
        self._up: Session | None = None
        """The established one."""
        self._negotiated: Negotiated | None = None
        self._out: AdjRibOut | None = None
        self._ended: set[Family] = set()
        self._stale = Stale(rib, address)
        self._messages = MessageCounts()
        self._malformed: Counter[Action] = Counter()
        self._local_addresses: dict[Session, Address] = {}
        self._connected_at: dict[Session, float] = {}
        self._others: list[Session] = []
        """Incoming ones for which a newer one has come: to be ended, or established as yet."""
        self._handled: deque[tuple[Session, Event]] = deque()
        """Acted upon out of turn, still to be handed out."""
        self._state = State.IDLE
        self._since = now
        self._is_stopped = True

    # Connections.

    def start(self, now: float) -> None:
        self._is_stopped = False
        if self._is_active:
            self.outgoing = self._new_session(passive=False)
            self.outgoing.start(now)
        self._note_state(now)

    def stop(self, now: float, error: PeerError | None = None) -> None:
        """Ends all connections with a NOTIFICATION and stays down; its paths go."""
        self._is_stopped = True
        for session in self.sessions:
            session.stop(now, error)

    @property
    def _is_active(self) -> bool:
        return self.neighbor.address is not None and not self.neighbor.passive

    @property
    def sessions(self) -> tuple[Session, ...]:
        both = (self.outgoing, self.incoming)
        return (*(s for s in both if s is not None), *self._others)

    def accept(self, now: float) -> Session:
        """The neighbour has opened a TCP connection: `connected` must be called next. An earlier
        one of its connections that has not come up is given up for it."""
        if self.incoming is not None and self.incoming is not self._up:
            self.incoming.dump(now)
            self._others.append(self.incoming)
        elif self.incoming is not None:
            # Stands until the new one has shown an OPEN (RFC 4724 §5).
            self._others.append(self.incoming)
        self.incoming = self._new_session(passive=True)
        self.incoming.start(now)
        return self.incoming

    def connected(self, session: Session, local_address: Address, now: float) -> None:
        if session is self.outgoing and any(s.state in _OPENED for s in self.sessions):
            # Before a word is said on it, the other side cannot have chosen it.
            session.dump(now)
            return
        self._local_addresses[session] = local_address
        self._connected_at[session] = now
        session.config = self._session_config(passive=session.config.passive)
        session.connected(now)

    def _new_session(self, *, passive: bool) -> Session:
        config = self._session_config(passive=passive)
        return Session(config, jitter=self._jitter, messages=self._messages)

    def _session_config(self, *, passive: bool) -> SessionConfig:
        return session_config(
            self.neighbor,
            asn=self._local.asn,
            router_id=self._local.router_id,
            passive=passive,
            restarting=self._restarting,
            preserved=self._forwarding_preserved,
        )

    # Time.

    def next_timer(self) -> float | None:
        timers = [s.next_timer() for s in self.sessions]
        return min((t for t in (*timers, self._stale.until) if t is not None), default=None)

    def handle_timer(self, now: float) -> None:
        for session in self.sessions:
            session.handle_timer(now)
        self._stale.handle_timer(now)
        self._note_state(now)

    # Events.

    @property
    def backlog(self) -> int:
        return sum(s.backlog for s in self.sessions)

    def next_event(self, now: float) -> tuple[Session, Event] | None:
        """The next event, already acted upon as far as it concerns us; None: all is handled."""
        if self._handled:
            return self._handled.popleft()
        for session in self.sessions:
            event = session.next_event(now)
            if event is not None:
                self._handle(session, event, now)
                return session, event
        return None

    def _handle(self, session: Session, event: Event, now: float) -> None:
        match event:
            case UpdateReceived(update):
                for withdrawal in update.withdrawals:
                    self._rib.withdraw(
                        self.address, withdrawal.family, withdrawal.nlris, withdrawal.path_id
                    )
                for reach in update.reaches:
                    self._rib.announce(
                        self.address, reach.family, reach.nlris, reach.attributes, reach.path_id
                    )
                if update.problems:
                    self.last_error = f"UPDATE: {update.problems[0]}"
                    self._malformed.update(p.action for p in update.problems)
                return  # The state is the same.
            case EndOfRib(family):
                self._ended.add(family)
                self._rib.end_of_rib(self.address, family)
                self._stale.settle()
            case RefreshRequested(family, kind):
                self._refresh(family, kind, now)
            case OpenReceived():
                self._resolve_collision(session, now)
            case Established(negotiated):
                self._established(session, negotiated, now)
            case Down():
                self._down(session, event, now)
        self._note_state(now)

    def _refresh(self, family: Family, kind: RefreshKind, now: float) -> None:
        if kind is RefreshKind.BEGIN:
            self._rib.begin_refresh(self.address, family)
            self._stale.refreshing(family, self.neighbor, now)
        elif kind is RefreshKind.END:
            self._rib.end_of_rib(self.address, family)
            self._stale.settle()
        elif self._out is not None:
            self._out.refresh(family)

    def _resolve_collision(self, session: Session, now: float) -> None:
        """`session` has shown its OPEN: so we know who it is, on all connections (RFC 4271 §6.8).

        Both sides must choose the same connection: by identifiers, and only between two on which
        the other side has spoken or will speak. It will on one that we opened, and maybe not on
        one that it opened (see `connected`): that one is judged when its own OPEN comes. What is
        established stays: the other side has chosen it."""
        for other in self.sessions:
            if other is session or session.state is State.IDLE:
                continue
            if other.state is State.ESTABLISHED and self._is_replaced(now):
                other.lost("the neighbour opened a new connection")
                while (event := other.next_event(now)) is not None:
                    self._handle(other, event, now)
                    self._handled.append((other, event))
            elif other.state is State.ESTABLISHED:
                session.dump(now)
            elif other.state is State.OPEN_CONFIRM or (
                other.state is State.OPEN_SENT and other is self.outgoing
            ):
                self._loser(session, other, now).dump(now)

    def _loser(self, session: Session, other: Session, now: float) -> Session:
        """Of two that are being opened. One that has waited for its OPEN for long is dead."""
        if now - self._connected_at[other] > COLLISION_S:
            return other
        assert session.negotiated is not None
        peer = session.negotiated.open
        ours, theirs = (self._local.router_id, self._local.asn), (peer.router_id, peer.asn)
        keep = keeps_own(local=ours, remote=theirs)
        return session if (session is self.outgoing) is not keep else other

    def _is_replaced(self, now: float) -> bool:
        """Whether the established session is given up for a new connection. RFC 4724 §5."""
        if self._negotiated is None:
            return False
        restarts = self._negotiated.graceful_restart is not None
        return restarts and now - self._since > COLLISION_S

    def _established(self, session: Session, negotiated: Negotiated, now: float) -> None:
        self._rib.peer_up(
            self.address,
            external=not negotiated.context.internal,
            router_id=negotiated.open.router_id,
            rule=self.rule,
            keep=self._stale.kept_by(negotiated),
            asn=negotiated.open.asn,
        )
        self._up, self._negotiated, self._ended = session, negotiated, set()
        self._forwarding_preserved = True  # From now on we forward; only a new process asks anew.
        self._stale.returned(self.neighbor, now)
        self._out = self._new_adj_rib_out(session, negotiated)
        self._routes_are_new = self._routes is not None
        for other in self.sessions:
            if other is not session:
                other.dump(now)

    def _new_adj_rib_out(self, session: Session, negotiated: Negotiated) -> AdjRibOut:
        export = Export(
            peer=self.address,
            peer_router_id=negotiated.open.router_id,
            local_as=self._local.asn,
            internal=negotiated.context.internal,
            next_hops=self._next_hops(session),
            several=negotiated.context.add_path_send,
            extended_next_hop=negotiated.context.extended_next_hop,
            long_lived=bool(negotiated.long_lived),
        )
        out = AdjRibOut(
            export,
            negotiated.context,
            negotiated.families,
            marks_refresh=negotiated.enhanced_route_refresh,
        )
        if self._is_released:
            out.release_end_of_rib()
        return out

    @property
    def families_without_next_hop(self) -> tuple[Family, ...]:
        """Of which no route with our own next hop can be advertised."""
        out = self._out
        return tuple(f for f in self._families if out is None or not out.export.own_next_hop(f))

    def _next_hops(self, session: Session) -> dict[Family, Address]:
        local = self._local_addresses.get(session)
        own = {family_of(local): local} if local else {}
        towards = {family_of(a): a for a in map(parse_address, self.neighbor.next_hops)}
        return {**own, **self._local.next_hops, **towards}

    def _down(self, session: Session, down: Down, now: float) -> None:
        self._local_addresses.pop(session, None)
        self._connected_at.pop(session, None)
        if down.reason is not Reason.COLLISION:
            self.last_error = down.text or down.reason.value
        if session is self._up:
            assert self._negotiated is not None
            self._stale.lost(down, self._negotiated, self.neighbor, now)
            self.flaps += 1
            self.lost_for = down.text or down.reason.value
            self._up = self._negotiated = self._out = None
            self._ended = set()
        if session is self.incoming:
            self.incoming = None
        elif session in self._others:
            self._others.remove(session)
        if self.outgoing is not None and self._up is None and not self._is_stopped:
            self.outgoing.start_later(now)

    def path_lost(self, why: str, *, forwarding: bool, now: float) -> None:
        """BFD reaches the neighbour no more (RFC 5882 §3.2). `forwarding`: it does not forward
        either, so what it is remembered for goes as well (§4.3); else its session ends as if TCP
        had been closed, and graceful restart decides."""
        if self._up is not None and forwarding:
            error = PeerError(Code.CEASE, Cease.BFD_DOWN, message=f"BFD is down: {why}")
            self._up.drop(now, error, Reason.BFD_DOWN)
        elif self._up is not None:
            self._up.lost(f"BFD is down: {why}")
        elif forwarding and self._stale.until is not None:
            self.last_error = f"BFD is down: {why}"
            self._stale.drop()

    # Routes.

    def set(self, routes: Routes) -> None:
        """All that the neighbour is to be told; must not be changed afterwards."""
        self._routes = routes
        self._routes_are_new = True

    def release_end_of_rib(self) -> None:
        """What was set is complete; sent now and in all later sessions."""
        self._restarting, self._is_released = False, True
        if self._out is not None:
            self._out.release_end_of_rib()

    @property
    def established(self) -> Session | None:
        return self._up

    @property
    def has_output(self) -> bool:
        out = self._out
        return out is not None and (self._routes_are_new or not out.is_idle)

    def pull(self, now: float) -> Session | None:
        """A small step: the session into which it has put UPDATEs, if it came so far."""
        out, session = self._out, self._up
        if out is None or session is None or session.state is not State.ESTABLISHED:
            return None
        if self._routes_are_new and self._routes is not None:
            out.set(self._routes)
            self._routes_are_new = False
        data = out.pull()
        if data:
            session.send(data, now)
        return session if data else None

    # Configuration.

    def reimport(self, neighbor: Neighbor, rule: ImportRule, now: float) -> None:
        """Changed import rules: on what is here at once, on what was refused by a refresh."""
        self.neighbor, self.rule = neighbor, rule
        self._rib.reimport(self.address, rule)
        if self._up is not None:
            for family in self._families:
                self._up.ask_refresh(family, now)

    def take_rule(self, neighbor: Neighbor, rule: ImportRule, now: float) -> None:
        """Changed import rules that change nothing of what is here; a refresh for what was refused,
        if anything was."""
        self.neighbor, self.rule = neighbor, rule
        if self._rib.take_rule(self.address, rule) and self._up is not None:
            for family in self._families:
                self._up.ask_refresh(family, now)

    def relocate(self, neighbor: Neighbor, local: Local) -> None:
        """Changes that touch no session: retry times, our next hops."""
        self.neighbor, self._local = neighbor, local
        for session in self.sessions:
            session.config = self._session_config(passive=session.config.passive)
        if self._out is not None and self._up is not None:
            self._out.export.next_hops = self._next_hops(self._up)
            self._routes_are_new = self._routes is not None

    # Status.

    @property
    def _families(self) -> tuple[Family, ...]:
        return self._negotiated.families if self._negotiated else self.neighbor.address_families

    @property
    def state(self) -> State:
        """The furthest that any of its connections has come."""
        order = list(State)
        idle = State.IDLE if self._is_stopped or self._is_active else State.ACTIVE
        return max((idle, *(s.state for s in self.sessions)), key=order.index)

    @property
    def since(self) -> float:
        """When it came into its state."""
        return self._since

    @property
    def idle_since(self) -> float | None:
        """Since when nothing of it is there, neither connection nor path; None: something is."""
        return None if self.sessions or self._stale.until is not None else self._since

    def _note_state(self, now: float) -> None:
        if self.state is not self._state:
            self._state, self._since = self.state, now

    def status(self) -> PeerStatus:
        negotiated = self._negotiated
        restart = negotiated.graceful_restart if negotiated else None
        return PeerStatus(
            neighbor=self.neighbor.name,
            address=self.address,
            remote_as=negotiated.open.asn if negotiated else self.neighbor.remote_as,
            router_id=negotiated.open.router_id if negotiated else None,
            state=self.state,
            since_s=self._since,
            families={f: self._family_status(f) for f in self._families},
            hold_time_s=negotiated.hold_time_s if negotiated else None,
            restarting=restart.restart_state if restart else False,
            stale_until_s=self._stale.until,
            last_error=self.last_error,
            flaps=self.flaps,
            lost_for=self.lost_for,
            messages_received=self._messages.received,
            messages_sent=self._messages.sent,
            malformed={a.value: n for a, n in self._malformed.items()},
            agreed=agreed(negotiated) if negotiated else (),
            local_address=self._local_addresses.get(self._up) if self._up else None,
        )

    def _family_status(self, family: Family) -> FamilyStatus:
        counts: Counts = self._rib.counts(self.address, family)
        out = self._out
        return FamilyStatus(
            accepted=counts.accepted,
            stale=counts.stale,
            refused=counts.refused,
            advertised=out.advertised(family) if out else 0,
            end_of_rib_received=family in self._ended,
            end_of_rib_sent=out.end_of_rib_sent(family) if out else False,
        )

"""The speaker: sockets and clock for `samepath.bgp.peer`, on asyncio.

Programs make one `Speaker`, read its `rib` when `wake` was called, and `set` what each neighbour is
to be told. It listens, opens connections, moves bytes, and calls timers; what the bytes mean is
decided below, without it.

All work is done in turns of a few milliseconds, neighbour by neighbour, so the event loop is never
held up and no neighbour waits for another's hundred thousand prefixes: reading a socket only puts
messages into an inbox, and a neighbour with a long inbox is not read from until it is shorter.
UPDATEs are made when the socket has room for them, so that a neighbour that does not read costs no
memory; one that reads nothing for minutes is given up.

RFC 4271 §8; RFC 9687 (send hold timer, without its NOTIFICATION: nobody would read it).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.errors import Cease, Code, PeerError
from samepath.bgp.events import (
    CloseRequested,
    ConnectRequested,
    Down,
    Established,
    Event,
    UpdateReceived,
)
from samepath.bgp.link import CLOSE_S, Link
from samepath.bgp.listeners import Listeners
from samepath.bgp.neighbors import Neighbors, local_side, own_identity, terms
from samepath.bgp.peer import FamilyStatus, Peer, PeerStatus
from samepath.bgp.policy import Refusal
from samepath.bgp.rib import Rib
from samepath.bgp.session import Session
from samepath.model.config import Bgp, Neighbor
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    address_text,
)

__all__ = [
    "Advertisement",
    "FamilyStatus",
    "Nlri",
    "PeerStatus",
    "Refusal",
    "Routes",
    "Speaker",
]

log = logging.getLogger("samepath.bgp")

TURN_S = 0.010
"""A turn ends after so long; the rest waits for the next, behind whatever else is due."""
SEND_HOLD_S = 480.0
"""A neighbour that reads nothing for so long is lost. RFC 9687 §3."""
FORGET_S = 600.0
"""A neighbour of a range that is down stays in the status for so long."""


class Speaker:
    def __init__(
        self,
        config: Bgp,
        *,
        wake: Callable[[], None],
        restarted: bool = False,
        forwarding_preserved: bool = False,
        passes_on: bool = True,
    ) -> None:
        """`passes_on`: whether the program advertises what it learned. If not, a path that has been
        in our AS before is no loop: other sites of the AS may be behind the neighbour's.
        `restarted`: this process follows another on the same host, and its OPENs say so until
        `release_end_of_rib`. `forwarding_preserved`: the kernel still forwards as the former
        process had it (RFC 4724 §3)."""
        self.config = config
        self._local = local_side(config)
        self._neighbors = Neighbors(config)
        self._passes_on = passes_on
        self.rib = Rib(own_identity(self._local, passes_on=passes_on))
        self.news = 0
        """Grows with whatever happens to a neighbour, but for UPDATEs."""
        self._wake = wake
        self._restarting = restarted
        self._forwarding_preserved = forwarding_preserved
        self._is_released = False
        self._routes: dict[str, Routes] = {}
        self._peers: dict[Address, Peer] = {}
        self._links: dict[Session, Link] = {}
        self._open_links: set[Link] = set()
        self._attempts: dict[Session, asyncio.Task[None]] = {}
        self._listeners = Listeners(lambda: Link(self))
        self._ready: dict[Peer, None] = {}
        self._timers: dict[Peer, asyncio.TimerHandle] = {}
        self._warned: set[tuple[str, Family]] = set()
        self._is_turn_due = False
        self._has_news = False
        self._is_running = False
        self._jitter = random.Random()

    # What the program calls.

    async def start(self) -> None:
        """Listens and begins to connect. Raises OSError if it cannot listen."""
        self._loop = asyncio.get_running_loop()
        self._is_running = True
        self._listeners.follow(self.config.listen, self.config.listen_port)
        for address, neighbor in self._neighbors.by_address.items():
            self._add_peer(address, neighbor)

    async def stop(self, notify: bool = True) -> None:
        """`notify` False: connections are closed without NOTIFICATION, so that neighbours keep our
        paths for the restart time; for a process that another will follow."""
        self._is_running = False
        self._listeners.close()
        for task in self._attempts.values():
            task.cancel()
        for handle in self._timers.values():
            handle.cancel()
        if notify:
            now = self._loop.time()
            for peer in self._peers.values():
                peer.stop(now)
                self._drain(peer)
        else:
            for link in self._open_links:
                link.abort()
        until = self._loop.time() + CLOSE_S + 1
        while self._open_links and self._loop.time() < until:
            await asyncio.sleep(0.005)

    def set(self, neighbor: str, routes: Routes) -> None:
        """All that the sessions of a neighbour entry are to tell; what is not new costs nothing.

        `routes` must not be changed afterwards. Later sessions begin with it.
        """
        self._routes[neighbor] = routes
        for peer in self._peers_of(neighbor):
            peer.set(routes)
            self.schedule(peer)

    def release_end_of_rib(self) -> None:
        """Our sources are in sync and all that we know was set: End-of-RIB may follow it."""
        if self._is_released:
            return
        self._is_released, self._restarting = True, False
        for peer in self._peers.values():
            peer.release_end_of_rib()
            self.schedule(peer)

    def peers(self) -> tuple[PeerStatus, ...]:
        """Configured neighbours, and those of ranges that are or were connected."""
        return tuple(peer.status() for _, peer in sorted(self._peers.items()))

    def refusals(self) -> tuple[Refusal, ...]:
        return self.rib.refusals()

    def reconfigure(self, config: Bgp) -> None:
        """Sessions whose terms are the same stay as they are. Raises OSError if it cannot listen
        on a new address; then nothing has changed."""
        self._listeners.follow(config.listen, config.listen_port)
        self._apply(config)

    def path_lost(self, address: Address, why: str, *, forwarding: bool) -> None:
        """BFD reaches a neighbour no more; see `Peer.path_lost`."""
        peer = self._peers.get(address)
        if peer is not None:
            log.warning("%s: BFD is down: %s", address_text(address), why)
            peer.path_lost(why, forwarding=forwarding, now=self._loop.time())
            self.schedule(peer)
            self._news()

    # Configuration.

    def _apply(self, config: Bgp) -> None:
        former, self._local = self._local, local_side(config)
        self._neighbors = Neighbors(config, self._neighbors)
        self.config = config
        self.rib.own = own_identity(self._local, passes_on=self._passes_on)
        is_other = own_identity(former) != own_identity(self._local)
        for peer in list(self._peers.values()):
            neighbor = self._neighbors.match(peer.address)
            if neighbor is None:
                self._remove_peer(peer, Cease.PEER_DE_CONFIGURED)
            elif is_other or terms(neighbor) != terms(peer.neighbor):
                self._remove_peer(peer, Cease.OTHER_CONFIGURATION_CHANGE)
            else:
                self._update_peer(peer, neighbor)
        for address, neighbor in self._neighbors.by_address.items():
            if address not in self._peers:
                self._add_peer(address, neighbor)
        self._news()

    def _update_peer(self, peer: Peer, neighbor: Neighbor) -> None:
        changed = peer.neighbor.import_ != neighbor.import_
        peer.relocate(neighbor, self._local)
        if changed:
            peer.reimport(neighbor, self._neighbors.rules[neighbor.name], self._loop.time())
        self.schedule(peer)

    def _add_peer(self, address: Address, neighbor: Neighbor) -> Peer:
        peer = Peer(
            address,
            neighbor,
            self._local,
            self.rib,
            self._neighbors.rules[neighbor.name],
            now=self._loop.time(),
            restarting=self._restarting,
            forwarding_preserved=self._forwarding_preserved,
            released=self._is_released,
            jitter=lambda: self._jitter.uniform(0.75, 1.0),
        )
        routes = self._routes.get(neighbor.name)
        if routes is not None:
            peer.set(routes)
        self._peers[address] = peer
        peer.start(self._loop.time())
        self.schedule(peer)
        return peer

    def _remove_peer(self, peer: Peer, subcode: Cease) -> None:
        peer.stop(self._loop.time(), PeerError(Code.CEASE, subcode))
        self._drain(peer)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self.rib.forget_peer(peer.address)
        del self._peers[peer.address]
        self._ready.pop(peer, None)
        handle = self._timers.pop(peer, None)
        if handle is not None:
            handle.cancel()

    def _peers_of(self, name: str) -> list[Peer]:
        return [p for p in self._peers.values() if p.neighbor.name == name]

    # Sockets.

    @property
    def ports(self) -> dict[str, int]:
        """Where we listen, by address: for those that let the system choose (port 0)."""
        return self._listeners.ports

    async def _connect(self, peer: Peer, session: Session) -> None:
        neighbor = peer.neighbor
        local = (neighbor.local_address, 0) if neighbor.local_address else None
        try:
            await self._loop.create_connection(
                lambda: Link(self, peer, session),
                address_text(peer.address),
                neighbor.port,
                local_addr=local,
            )
        except OSError as error:
            session.lost(f"connect: {error.strerror or error}")
            self.schedule(peer)

    def accepted(self, link: Link, peer: Address, local: Address) -> None:
        """A neighbour has connected to us, or somebody else."""
        neighbor = self._neighbors.match(peer) if self._is_running else None
        known = self._peers.get(peer)
        if neighbor is None:
            log.info("%s: connection refused: no such neighbour", address_text(peer))
            link.abort()
            return
        if known is None:
            if not self._has_room(neighbor):
                log.warning(
                    "%s: connection refused: %s has its %d sessions",
                    address_text(peer), neighbor.name, neighbor.max_sessions,
                )  # fmt: skip
                link.abort()
                return
            known = self._add_peer(peer, neighbor)
        session = known.accept(self._loop.time())
        link.belongs_to(known, session)
        self.opened(link, local)

    def opened(self, link: Link, local: Address) -> None:
        peer, session = link.peer, link.session
        assert peer is not None
        assert session is not None
        self._links[session] = link
        self._open_links.add(link)
        peer.connected(session, local, self._loop.time())
        self.schedule(peer)

    def closed(self, link: Link) -> None:
        self._open_links.discard(link)
        if link.session is not None and self._links.get(link.session) is link:
            del self._links[link.session]

    def _has_room(self, neighbor: Neighbor) -> bool:
        """Room for one more of a range; those long gone make room."""
        now = self._loop.time()
        members = self._peers_of(neighbor.name)
        idle = [p for p in members if not p.sessions]
        for peer in idle:
            status = peer.status()
            is_old = now - status.since_s > FORGET_S or len(members) >= 2 * neighbor.max_sessions
            if is_old and status.stale_until_s is None:
                self._forget(peer)
        return len(members) - len(idle) < neighbor.max_sessions

    # Turns.

    def schedule(self, peer: Peer) -> None:
        """There is something to do for this neighbour."""
        self._ready[peer] = None
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        until = self._loop.time() + TURN_S
        while self._ready and self._loop.time() < until:
            peer = next(iter(self._ready))
            del self._ready[peer]
            if self._work(peer, until):
                self._ready[peer] = None
        if self._ready and self._is_running:
            self._is_turn_due = True
            self._loop.call_soon(self._turn)
        if self._has_news or self.rib.is_changed:
            self._has_news = False
            self._wake()

    def _drain(self, peer: Peer) -> None:
        """All that is left to do for a neighbour that was stopped."""
        while self._work(peer, self._loop.time() + TURN_S):
            pass

    def _work(self, peer: Peer, until: float) -> bool:
        """Events, then output. True: time is up, and there is more to do."""
        now = self._loop.time()
        while (item := peer.next_event(now)) is not None:
            self._act(peer, *item)
            now = self._loop.time()
            if now >= until:
                self._flush(peer)
                return True
        has_more = self._write(peer, until)
        self._flush(peer)
        for session in peer.sessions:
            link = self._links.get(session)
            if link is not None:
                link.resume_reading()
        self._rearm(peer)
        return has_more

    def _flush(self, peer: Peer) -> None:
        """KEEPALIVEs and the like, also while there is more to be read."""
        for session in peer.sessions:
            link = self._links.get(session)
            if link is not None:
                link.write(session.data_to_send())

    def _write(self, peer: Peer, until: float) -> bool:
        while peer.has_output and self._may_write(peer):
            session = peer.pull(self._loop.time())
            if session is not None:
                self._links[session].write(session.data_to_send())
            if self._loop.time() >= until:
                return True
        return False

    def _may_write(self, peer: Peer) -> bool:
        link = self._links.get(peer.established) if peer.established else None
        return link is not None and link.may_write

    def _act(self, peer: Peer, session: Session, event: Event) -> None:
        match event:
            case UpdateReceived():
                return
            case ConnectRequested():
                self._abandon(session)
                if self._is_running:
                    task = self._loop.create_task(self._connect(peer, session))
                    self._attempts[session] = task
            case CloseRequested():
                self._abandon(session)
            case Established():
                self._say_established(peer)
            case Down():
                self._say_down(peer, event)
        self._news()

    def _abandon(self, session: Session) -> None:
        """The session's TCP connection, present or attempted, has no further use."""
        attempt = self._attempts.pop(session, None)
        if attempt is not None:
            attempt.cancel()
        link = self._links.pop(session, None)
        words = session.data_to_send()
        if link is not None:
            link.write(words)
            link.close()

    def _news(self) -> None:
        self._has_news = True
        self.news += 1

    # Time.

    def _rearm(self, peer: Peer) -> None:
        due = peer.next_timer()
        handle = self._timers.get(peer)
        if handle is not None and not handle.cancelled():
            if due is not None and handle.when() <= due:
                return  # It will ring early, look, and wait on.
            handle.cancel()
        if due is not None and self._is_running:
            self._timers[peer] = self._loop.call_at(due, self._ring, peer)

    def _ring(self, peer: Peer) -> None:
        del self._timers[peer]
        now = self._loop.time()
        for session in peer.sessions:
            link = self._links.get(session)
            stuck = link.stuck_since if link is not None else None
            if link is not None and stuck is not None and now - stuck > SEND_HOLD_S:
                link.abort()
        peer.handle_timer(now)
        # In the same breath: a connection that is given up must not be made in between.
        if self._work(peer, now + TURN_S) or self._has_news or self.rib.is_changed:
            self.schedule(peer)

    # Words.

    def _say_established(self, peer: Peer) -> None:
        name = address_text(peer.address)
        log.info("%s: established", name)
        for family in peer.families_without_next_hop:
            if (peer.neighbor.name, family) not in self._warned:
                self._warned.add((peer.neighbor.name, family))
                log.warning(
                    "%s: no own %s next hop (next_hops, or a session over it): routes that need "
                    "it are not advertised", peer.neighbor.name, family.label,
                )  # fmt: skip

    def _say_down(self, peer: Peer, down: Down) -> None:
        level = logging.WARNING if down.established else logging.DEBUG
        text = f": {down.text}" if down.text else ""
        log.log(level, "%s: down: %s%s", address_text(peer.address), down.reason.value, text)

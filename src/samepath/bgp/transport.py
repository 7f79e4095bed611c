"""The speaker: sockets and clock for `samepath.bgp.peer`, on asyncio.

Programs make one `Speaker`, read its `rib` when `wake` was called, and `set` what each neighbour is
to be told. It listens, opens connections, moves bytes, and calls timers; what the bytes mean is
decided below, without it.

All work is done in `turns`, neighbour by neighbour: reading a socket only puts messages into an
inbox, and a neighbour with a long inbox is not read from until it is shorter. UPDATEs are made when
the socket has room for them, so that a neighbour that does not read costs no memory; one that reads
nothing for minutes is given up. What can be seen of the neighbours is `statuses`'.

TCP connections are `connections`', which looks at what others open before anything is made for it;
passwords and distances are the kernel's to check (`sockets`, `tcp_md5`); a neighbour beyond its
limit of prefixes may be left alone for a while (`prefix_limits`).

RFC 4271 §8.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from samepath.bgp.adjout import Advertisement, Routes
from samepath.bgp.admission import TurnedAway
from samepath.bgp.connections import Connections
from samepath.bgp.errors import Cease, Code, PeerError, shutdown
from samepath.bgp.events import (
    CloseRequested,
    ConnectRequested,
    Down,
    Established,
    Event,
    UpdateReceived,
)
from samepath.bgp.hints import drops_text, same_identifiers
from samepath.bgp.link import CLOSE_S
from samepath.bgp.neighbors import Neighbors, local_side, own_identity, terms
from samepath.bgp.peer import FamilyStatus, Peer, PeerStatus
from samepath.bgp.policy import ImportRule, Refusal
from samepath.bgp.prefix_limits import PrefixLimits
from samepath.bgp.rib import Rib
from samepath.bgp.session import Session
from samepath.bgp.sockets import make_room
from samepath.bgp.statuses import Statuses
from samepath.bgp.tcp_md5 import Dropped, Passwords, dropped
from samepath.bgp.turns import SLICE_S, Turns
from samepath.model.config import Bgp
from samepath.model.neighbor import Neighbor
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

Affected = dict[tuple[ImportRule, ImportRule], set[Address] | None]

FORGET_S = 600.0
"""A neighbour of a range that is down stays in the status for so long."""
EVICT_S = 1.0
"""In a range that is full, a connection that is not established after so long makes room."""
PASSWORDS_LOOK_S = 2.0
"""Password files are looked at so often."""


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
        self._local_addresses: set[Address] = set()
        self._passes_on = passes_on
        self.rib = Rib(own_identity(self._local, passes_on=passes_on))
        self._know_ourselves()
        self.news = 0
        """Grows with whatever happens to a neighbour, but for UPDATEs."""
        self._wake = wake
        self._restarting = restarted
        self._forwarding_preserved = forwarding_preserved
        self._is_released = False
        self._routes: dict[str, Routes] = {}
        self._peers: dict[Address, Peer] = {}
        self.connections = Connections(self)
        self.passwords = Passwords(config.neighbors)
        self._limits = PrefixLimits()
        self._dropped_before = dropped()
        self._members: dict[str, dict[Peer, None]] = {}
        """The peers of each neighbour entry."""
        self._turns = Turns(self)
        self._statuses = Statuses(self.rib, self._limits)
        self._warned: set[tuple[str, Family]] = set()
        self._has_news = False
        self._is_running = False
        self._jitter = random.Random()

    # What the program calls.

    async def start(self) -> None:
        """Listens and begins to connect. Raises OSError if it cannot listen."""
        self._loop = asyncio.get_running_loop()
        self._turns.start()
        self._is_running = True
        make_room()
        self.connections.follow(self.config, self._neighbors.keys(self.passwords))
        for address, neighbor in self._neighbors.by_address.items():
            self._add_peer(address, neighbor)
        for text in self.passwords.findings:
            log.warning("%s", text)
        self._loop.call_later(PASSWORDS_LOOK_S, self._look_at_passwords)

    async def stop(self, notify: bool = True, text: str = "") -> None:
        """`notify` False: connections are closed without NOTIFICATION, so that neighbours keep our
        paths for the restart time; for a process that another will follow. `text`: our reason, for
        the operators of the other side (RFC 9003)."""
        self._is_running = False
        self.connections.stop()
        self._turns.stop()
        if notify:
            now = self._loop.time()
            for peer in self._peers.values():
                peer.stop(now, shutdown(text))
                self._turns.drain(peer)
        else:
            for link in self.connections.open:
                link.abort()
        until = self._loop.time() + CLOSE_S + 1
        while self.connections.open and self._loop.time() < until:
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
        if not self._peers:
            return ()
        return self._statuses.of(
            (peer for _, peer in sorted(self._peers.items())),
            local_as=self.config.local_as,
            drops=dropped().since(self._dropped_before),
            now=self._loop.time(),
        )

    def findings(self) -> tuple[str, ...]:
        """What an operator should mend or know, besides what `peers` tells."""
        found = [*self.passwords.findings, *same_identifiers(self.peers())]
        drops = dropped().since(self._dropped_before)
        if drops != Dropped():
            found.append(drops_text(drops))
        return tuple(found)

    @property
    def is_busy(self) -> bool:
        """Something that neighbours have done is still to be worked on."""
        return self._turns.is_busy

    @property
    def turned_away(self) -> Mapping[TurnedAway, int]:
        """Connections that were not taken or kept, since the start."""
        return self.connections.turned_away

    def refusals(self) -> tuple[Refusal, ...]:
        return self.rib.refusals()

    def reconfigure(self, config: Bgp) -> None:
        """Sessions whose terms are the same stay as they are. Raises OSError if it cannot listen
        on a new address; then nothing has changed."""
        passwords = Passwords(config.neighbors, self.passwords)
        neighbors = Neighbors(config, self._neighbors)
        self.connections.follow(config, neighbors.keys(passwords))
        for text in passwords.findings:
            if text not in self.passwords.findings:
                log.warning("%s", text)
        self._apply(config, neighbors, passwords)

    def bind(self, claims: Mapping[tuple[Family, Nlri], Address]) -> None:
        """Whose these pod blocks are; see `Rib.bind`."""
        self.rib.bind(claims)
        if self.rib.is_changed:
            self._wake()

    def path_lost(self, address: Address, why: str, *, forwarding: bool) -> None:
        """BFD reaches a neighbour no more; see `Peer.path_lost`."""
        peer = self._peers.get(address)
        if peer is not None:
            if peer.established is None:
                log.warning("%s: BFD is down: %s", address_text(address), why)
            peer.path_lost(why, forwarding=forwarding, now=self._loop.time())
            self.schedule(peer)
            self._news()

    # Configuration.

    def _look_at_passwords(self) -> None:
        if not self._is_running:
            return
        self._loop.call_later(PASSWORDS_LOOK_S, self._look_at_passwords)
        if self.passwords.are_stale:
            try:
                self.reconfigure(self.config)
            except OSError as error:
                log.error("passwords: %s", error.strerror or error)

    def _apply(self, config: Bgp, neighbors: Neighbors, passwords: Passwords) -> None:
        former, self._local = self._local, local_side(config)
        before, self.passwords = self.passwords, passwords
        self._neighbors, self.config = neighbors, config
        is_other = (former.asn, former.router_id) != (self._local.asn, self._local.router_id)
        self._know_ourselves()
        affected: Affected = {}
        for peer in list(self._peers.values()):
            neighbor = self._neighbors.match(peer.address)
            if neighbor is None:
                self._remove_peer(peer, Cease.PEER_DE_CONFIGURED)
            elif is_other or terms(neighbor) != terms(peer.neighbor):
                self._remove_peer(peer, Cease.OTHER_CONFIGURATION_CHANGE)
            elif before.of(peer.neighbor) != passwords.of(neighbor):
                log.info("%s: another password: a new session", address_text(peer.address))
                self._remove_peer(peer, Cease.OTHER_CONFIGURATION_CHANGE)
            else:
                self._update_peer(peer, neighbor, affected)
        for address, neighbor in self._neighbors.by_address.items():
            if address not in self._peers:
                self._add_peer(address, neighbor)
        self._news()

    def _update_peer(self, peer: Peer, neighbor: Neighbor, affected: Affected) -> None:
        """`affected`: whose paths a change of rules concerns, as far as that is known: a thousand
        neighbours may have the same one, and looking for their paths takes a while for each."""
        changed = peer.neighbor.import_ != neighbor.import_
        peer.relocate(neighbor, self._local)
        if changed:
            old, new = peer.rule, self._neighbors.rules[neighbor.name]
            if (old, new) not in affected:
                affected[old, new] = self.rib.affected(old, new)
            concerned = affected[old, new]
            if concerned is None or peer.address in concerned:
                peer.reimport(neighbor, new, self._loop.time())
            else:
                peer.take_rule(neighbor, new, self._loop.time())
            if self._limits.waits_until(peer.address, self._loop.time()) is not None:
                self._limits.forget(peer.address)
                peer.start(self._loop.time())
        self.schedule(peer)

    def _know_ourselves(self) -> None:
        """Our addresses: what is configured, and the local ones of our sessions."""
        own = own_identity(self._local, passes_on=self._passes_on)
        known = self._neighbors.own_addresses | self._local_addresses
        self.rib.own = replace(own, addresses=known)

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
        self._members.setdefault(neighbor.name, {})[peer] = None
        peer.start(self._loop.time())
        self.schedule(peer)
        return peer

    def _remove_peer(self, peer: Peer, subcode: Cease) -> None:
        peer.stop(self._loop.time(), PeerError(Code.CEASE, subcode))
        self._turns.drain(peer)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self.rib.forget_peer(peer.address)
        del self._peers[peer.address]
        self._members[peer.neighbor.name].pop(peer, None)
        self._limits.forget(peer.address)
        self._turns.forget(peer)
        self._statuses.outdated(peer)

    def _peers_of(self, name: str) -> list[Peer]:
        return list(self._members.get(name, ()))

    # What the connections ask.

    @property
    def ports(self) -> dict[str, int]:
        """Where we listen, by address: for those that let the system choose (port 0)."""
        return self.connections.ports

    def neighbor_at(self, address: Address) -> Neighbor | None:
        return self._neighbors.match(address) if self._is_running else None

    def must_wait(self, address: Address) -> bool:
        return self._limits.waits_until(address, self._loop.time()) is not None

    def spoke_from(self, local: Address) -> None:
        if local not in self._local_addresses:
            self._local_addresses.add(local)
            self._know_ourselves()

    def admit(self, address: Address, neighbor: Neighbor) -> Peer | None:
        """Those of a range that are long gone make room, and those that linger."""
        known = self._peers.get(address)
        members = self._members.get(neighbor.name, {})
        is_there = known is not None and known.sessions
        if not is_there and len(members) >= neighbor.max_sessions:
            self._forget_idle(neighbor)
            active = [p for p in members if p.sessions]
            if len(active) >= neighbor.max_sessions and not self._make_room(active):
                return None
            known = self._peers.get(address)
        return known or self._add_peer(address, neighbor)

    def _forget_idle(self, neighbor: Neighbor) -> None:
        now, members = self._loop.time(), self._members[neighbor.name]
        for peer in list(members):
            since = peer.idle_since
            is_crowded = len(members) >= 2 * neighbor.max_sessions
            if since is not None and (now - since > FORGET_S or is_crowded):
                self._forget(peer)

    def _make_room(self, active: list[Peer]) -> bool:
        now = self._loop.time()
        for peer in active:
            if peer.established is None and now - peer.since > EVICT_S:
                self.connections.make_room(peer)
                self._turns.work(peer, now + SLICE_S)
                return True
        return False

    # What the turns ask.

    def schedule(self, peer: Peer) -> None:
        """There is something to do for this neighbour."""
        self._turns.schedule(peer)

    @property
    def is_running(self) -> bool:
        return self._is_running

    def begins(self, peer: Peer) -> None:
        self._statuses.outdated(peer)

    @property
    def has_news(self) -> bool:
        return self._has_news or self.rib.is_changed

    def tell_news(self) -> None:
        self._has_news = False
        self._wake()

    def is_handled(self, peer: Peer) -> None:
        """Look at its limits of prefixes."""
        session = peer.established
        if session is None or session.negotiated is None:
            return
        limits, now = peer.neighbor.import_, self._loop.time()
        counts = {f: self.rib.counts(peer.address, f) for f in session.negotiated.families}
        for near in self._limits.near(peer.address, counts, limits):
            log.warning("%s: %s", address_text(peer.address), near.text(limits))
        if limits.beyond == "refuse":
            return
        over = self._limits.beyond(counts, self.rib.refused_for(peer.address), limits)
        if over is not None:
            error = self._limits.end(peer.address, limits, over, now)
            peer.stop(now, error)
            self._turns.drain(peer)
            self._loop.call_later(limits.restart_s, self._try_again, peer)

    def _try_again(self, peer: Peer) -> None:
        """The wait for a neighbour that was beyond its limit is over, if it has not been before."""
        is_known = self._is_running and self._peers.get(peer.address) is peer
        if is_known and self._limits.waits_until(peer.address, self._loop.time()) is None:
            peer.start(self._loop.time())
            self.schedule(peer)

    def act(self, peer: Peer, session: Session, event: Event) -> None:
        match event:
            case UpdateReceived():
                return
            case ConnectRequested():
                if self._is_running:
                    self.connections.make(peer, session)
            case CloseRequested():
                self.connections.abandon(session)
            case Established():
                self.connections.is_established(session)
                self._say_established(peer)
            case Down():
                self._say_down(peer, event)
        self._news()

    def _news(self) -> None:
        self._has_news = True
        self.news += 1

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

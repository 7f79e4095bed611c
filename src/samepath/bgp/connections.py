"""The TCP connections of the speaker: made, taken, turned away, closed.

Owned by `samepath.bgp.transport`, which says who may have a session; here it is done, and the
number of those who have none yet is kept within bounds. A session has at most one connection here,
its `Link`; one that the session has no more use for may linger to say its last words.

RFC 4271 §8.2.1; what the kernel checks is `samepath.bgp.sockets`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from samepath.bgp.admission import Admission, TurnedAway
from samepath.bgp.link import Link
from samepath.bgp.listeners import Keys, Listeners
from samepath.bgp.peer import Peer
from samepath.bgp.session import Session
from samepath.bgp.sockets import (
    connecting_socket,
    destination,
    distance,
    keep_distance,
    ttl_of_syn,
    turn_away,
)
from samepath.bgp.tcp_md5 import Passwords
from samepath.model.config import Bgp
from samepath.model.neighbor import Neighbor
from samepath.model.net import Address, address_text

log = logging.getLogger("samepath.bgp")

CLOSING_MOST = 256
"""Connections that linger for their last words; the oldest of more is closed at once."""


class Host(Protocol):
    """The speaker, as its connections see it."""

    config: Bgp
    passwords: Passwords

    def neighbor_at(self, address: Address) -> Neighbor | None:
        """Whose address it is; None: a stranger's, or we are about to end."""

    def must_wait(self, address: Address) -> bool:
        """Its session was ended for a time."""

    def admit(self, address: Address, neighbor: Neighbor) -> Peer | None:
        """The peer of a connection that was taken; None: there is no room for it."""

    def spoke_from(self, local: Address) -> None:
        """A local address of ours."""

    def schedule(self, peer: Peer) -> None: ...


class Connections:
    def __init__(self, host: Host) -> None:
        self.open: set[Link] = set()
        """All of them, those that are being closed included."""
        self._host = host
        self._links: dict[Session, Link] = {}
        self._attempts: dict[Session, asyncio.Task[None]] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        self._closing: dict[Link, None] = {}
        self._listeners = Listeners(self._take)
        self._admission: Admission[Link] = Admission()

    # What the speaker calls.

    def follow(self, config: Bgp, keys: Keys) -> None:
        """Listen as configured. Raises OSError; then we listen where we did."""
        self._listeners.follow(config.listen, config.listen_port, keys)

    @property
    def ports(self) -> dict[str, int]:
        return self._listeners.ports

    @property
    def turned_away(self) -> Mapping[TurnedAway, int]:
        return self._admission.counts

    def of(self, session: Session | None) -> Link | None:
        return self._links.get(session) if session is not None else None

    def make(self, peer: Peer, session: Session) -> None:
        """Connect to the neighbour, for this session; an attempt under way is dropped."""
        self.abandon(session)
        task = asyncio.get_running_loop().create_task(self._connect(peer, session))
        self._attempts[session] = task

    def abandon(self, session: Session) -> None:
        """The session's TCP connection, present or attempted, has no further use."""
        attempt = self._attempts.pop(session, None)
        if attempt is not None:
            attempt.cancel()
        link = self._links.pop(session, None)
        words = session.data_to_send()
        if link is not None:
            link.write(words)
            link.close()
            self._closing[link] = None
            if len(self._closing) > CLOSING_MOST:
                oldest = next(iter(self._closing))
                del self._closing[oldest]
                oldest.abort()

    def is_established(self, session: Session) -> None:
        """Its connection is no longer one of those that may have to make room."""
        link = self._links.get(session)
        if link is not None:
            self._admission.is_over(link)

    def make_room(self, peer: Peer) -> None:
        """A neighbour's connections are given up for those of others."""
        self._say_turned_away(peer.address, TurnedAway.MADE_ROOM)
        for session in peer.sessions:
            link = self._links.get(session)
            if link is not None:
                link.fail(TurnedAway.MADE_ROOM.value)

    def stop(self) -> None:
        """No more new ones."""
        self._listeners.close()
        for task in (*self._attempts.values(), *self._accepting):
            task.cancel()

    # We connect.

    async def _connect(self, peer: Peer, session: Session) -> None:
        neighbor, passwords = peer.neighbor, self._host.passwords
        loop = asyncio.get_running_loop()
        try:
            why_not = passwords.why_not(neighbor)
            if why_not:
                raise OSError(why_not)
            far = distance(neighbor, self._host.config.local_as)
            with ExitStack() as unless_taken:
                key = passwords.of(neighbor)
                sock = connecting_socket(peer.address, neighbor.local_address, far, key)
                unless_taken.callback(sock.close)
                await loop.sock_connect(sock, destination(peer.address, neighbor.port))
                await loop.create_connection(lambda: Link(self, peer, session), sock=sock)
                unless_taken.pop_all()
        except OSError as error:
            text = os.strerror(error.errno) if error.errno else str(error)
            session.lost(f"connect: {text}")
            self.schedule(peer)

    # Others connect.

    def _take(self, sock: socket.socket, address: Address) -> None:
        """Somebody has connected to us."""
        neighbor = self._host.neighbor_at(address)
        why_not = self._why_turned_away(sock, address, neighbor)
        if why_not is not None or neighbor is None:
            self._say_turned_away(address, why_not or TurnedAway.STRANGER)
            turn_away(sock)
            return
        keep_distance(sock, distance(neighbor, self._host.config.local_as))
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with ExitStack() as unless_taken:
            unless_taken.callback(sock.close)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: Link(self), sock)
            unless_taken.pop_all()

    def _why_turned_away(
        self, sock: socket.socket, address: Address, neighbor: Neighbor | None
    ) -> TurnedAway | None:
        if neighbor is None:
            return TurnedAway.STRANGER
        if self._admission.is_too_often(address, _now()):
            return TurnedAway.TOO_OFTEN
        if self._host.passwords.why_not(neighbor):
            return TurnedAway.NO_PASSWORD
        if self._host.must_wait(address):
            return TurnedAway.WAITS
        least = distance(neighbor, self._host.config.local_as).least_ttl
        ttl = ttl_of_syn(sock) if least else None
        return TurnedAway.TOO_FAR if ttl is not None and ttl < least else None

    def _say_turned_away(self, address: Address, why: TurnedAway) -> None:
        if self._admission.count(why, _now()):
            log.info("%s: connection turned away: %s", address_text(address), why.value)

    # What a link calls.

    def accepted(self, link: Link, peer: Address, local: Address) -> None:
        neighbor = self._host.neighbor_at(peer)
        known = self._host.admit(peer, neighbor) if neighbor is not None else None
        if known is None:
            why = TurnedAway.RANGE_FULL if neighbor is not None else TurnedAway.STRANGER
            self._say_turned_away(peer, why)
            link.abort()
            return
        session = known.accept(_now())
        link.belongs_to(known, session)
        self.opened(link, local)
        oldest = self._admission.is_opening(link)
        if oldest is not None and oldest.peer is not None:
            self._say_turned_away(oldest.peer.address, TurnedAway.MADE_ROOM)
            self._admission.is_over(oldest)
            oldest.fail(TurnedAway.MADE_ROOM.value)

    def opened(self, link: Link, local: Address) -> None:
        peer, session = link.peer, link.session
        assert peer is not None
        assert session is not None
        self._links[session] = link
        self.open.add(link)
        self._host.spoke_from(local)
        peer.connected(session, local, _now())
        self.schedule(peer)

    def closed(self, link: Link) -> None:
        self.open.discard(link)
        self._closing.pop(link, None)
        self._admission.is_over(link)
        if link.session is not None and self._links.get(link.session) is link:
            del self._links[link.session]

    def schedule(self, peer: Peer) -> None:
        self._host.schedule(peer)


def _now() -> float:
    return asyncio.get_running_loop().time()

"""Whose turn it is: the speaker's work, neighbour by neighbour, and when each is to be looked at.

Whatever happens to a neighbour (octets, a timer, other routes to tell) only schedules it. Work is
done in turns of a few milliseconds, so the event loop is never held up and no neighbour waits for
another's hundred thousand prefixes: one that has more to do lets the next go on after a slice.

Owned by `samepath.bgp.transport`, which acts upon the events that come of it; what is written goes
to the links of `connections`. One timer of the event loop is armed for each neighbour, at the
earliest of what its sessions wait for.

RFC 4271 §8.1.3 (timers); RFC 9687 (send hold timer, without its NOTIFICATION: nobody would read
it).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from samepath.bgp.connections import Connections
from samepath.bgp.events import Event
from samepath.bgp.peer import Peer
from samepath.bgp.session import Session
from samepath.bgp.sockets import SEND_HOLD_S

TURN_S = 0.010
"""A turn ends after so long; the rest waits for the next, behind whatever else is due."""
SLICE_S = 0.002
"""In a turn a neighbour that has more to do lets the next one go on after so long."""


class Owner(Protocol):
    """The speaker, as its turns see it."""

    connections: Connections

    @property
    def is_running(self) -> bool: ...

    def begins(self, peer: Peer) -> None:
        """Work for this neighbour: what is known of it may be otherwise from now on."""

    def act(self, peer: Peer, session: Session, event: Event) -> None: ...

    def is_handled(self, peer: Peer) -> None:
        """Of what the neighbour has sent, some or all is in the RIB."""

    @property
    def has_news(self) -> bool:
        """For the program."""

    def tell_news(self) -> None: ...


class Turns:
    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._ready: dict[Peer, None] = {}
        self._timers: dict[Peer, asyncio.TimerHandle] = {}
        self._is_due = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """No timers any more; whoever is stopped is worked for by `drain`."""
        for handle in self._timers.values():
            handle.cancel()

    @property
    def is_busy(self) -> bool:
        """Somebody waits for a turn."""
        return bool(self._ready)

    def schedule(self, peer: Peer) -> None:
        """There is something to do for this neighbour."""
        self._owner.begins(peer)
        self._ready[peer] = None
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def forget(self, peer: Peer) -> None:
        self._ready.pop(peer, None)
        handle = self._timers.pop(peer, None)
        if handle is not None:
            handle.cancel()

    def _turn(self) -> None:
        self._is_due = False
        until = self._loop.time() + TURN_S
        while self._ready and self._loop.time() < until:
            peer = next(iter(self._ready))
            del self._ready[peer]
            if self.work(peer, min(until, self._loop.time() + SLICE_S)):
                self._ready[peer] = None
        if self._ready and self._owner.is_running:
            self._is_due = True
            self._loop.call_soon(self._turn)
        if self._owner.has_news:
            self._owner.tell_news()

    def drain(self, peer: Peer) -> None:
        """All that is left to do for a neighbour that was stopped."""
        while self.work(peer, self._loop.time() + TURN_S):
            pass

    def work(self, peer: Peer, until: float) -> bool:
        """Events, then output. True: time is up, and there is more to do."""
        owner, now = self._owner, self._loop.time()
        owner.begins(peer)
        while (item := peer.next_event(now)) is not None:
            owner.act(peer, *item)
            now = self._loop.time()
            if now >= until:
                self._flush(peer)
                owner.is_handled(peer)
                return True
        owner.is_handled(peer)
        has_more = self._write(peer, until)
        self._flush(peer)
        for session in peer.sessions:
            link = owner.connections.of(session)
            if link is not None:
                link.resume_reading()
        self._rearm(peer)
        return has_more

    # Output.

    def _flush(self, peer: Peer) -> None:
        """KEEPALIVEs and the like, also while there is more to be read."""
        for session in peer.sessions:
            link = self._owner.connections.of(session)
            if link is not None:
                link.write(session.data_to_send())

    def _write(self, peer: Peer, until: float) -> bool:
        while peer.has_output and self._may_write(peer):
            session = peer.pull(self._loop.time())
            link = self._owner.connections.of(session)
            if session is not None and link is not None:
                link.write(session.data_to_send())
            if self._loop.time() >= until:
                return True
        return False

    def _may_write(self, peer: Peer) -> bool:
        link = self._owner.connections.of(peer.established)
        return link is not None and link.may_write

    # Time.

    def _rearm(self, peer: Peer) -> None:
        due = min((t for t in (peer.next_timer(), self._send_hold(peer)) if t), default=None)
        handle = self._timers.get(peer)
        if handle is not None and not handle.cancelled():
            if due is not None and handle.when() <= due:
                return  # It will ring early, look, and wait on.
            handle.cancel()
        if due is not None and self._owner.is_running:
            self._timers[peer] = self._loop.call_at(due, self._ring, peer)

    def _send_hold(self, peer: Peer) -> float | None:
        """When a neighbour that reads nothing will be lost. RFC 9687 §3."""
        link = self._owner.connections.of(peer.established)
        if link is None or link.stuck_since is None:
            return None
        return link.stuck_since + SEND_HOLD_S

    def _ring(self, peer: Peer) -> None:
        del self._timers[peer]
        now = self._loop.time()
        stuck_until, link = self._send_hold(peer), self._owner.connections.of(peer.established)
        if link is not None and stuck_until is not None and stuck_until <= now:
            link.fail("send hold timer expired: the neighbour reads nothing")
        peer.handle_timer(now)
        # In the same breath: a connection that is given up must not be made in between.
        if self.work(peer, now + TURN_S) or self._owner.has_news:
            self.schedule(peer)

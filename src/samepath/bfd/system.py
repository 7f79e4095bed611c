"""All BFD sessions of a host, without socket and clock: which packet is whose, and who is due.

The owner (`samepath.programs.bfd`, or a test) says which sessions are wanted, brings the packets
that arrive with their source and TTL, and calls `handle_timer` when `next_timer()` has come. After
each call `packets_to_send()` and `changes()` say what there is to do.

A packet finds its session by the discriminator that it names, which is ours; if it names none, by
its source. A source is an address, on one link if the address is link-local, and single hop or
multihop, which come to different ports.

RFC 5880 §6.3 (demultiplexing), §6.8.6; RFC 5881 §3, §5 (TTL); RFC 5883 §4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

from samepath.bfd.packet import Discard, decode
from samepath.bfd.session import Change, Session, Standing, Terms

TOGETHER_S = 0.010
TOGETHER_PART = 20
"""What is due so soon goes out together: within the shorter of this time and this part of the
shortest interval."""


class Source(NamedTuple):
    """Whom a session is with."""

    address: str
    """As inet_ntop writes it."""
    scope: int = 0
    """The interface's index, if the address is link-local."""
    multihop: bool = False


class System:
    def __init__(self, *, random: Callable[[], float]) -> None:
        """`random` gives numbers from 0 to 1, evenly: for jitter and discriminators."""
        self.sessions: dict[Source, Session] = {}
        self.discarded: Counter[Discard] = Counter()
        self.together_s = TOGETHER_S
        """Packets due so soon are sent with those due now; it follows the shortest interval."""
        self._random = random
        self._by_discriminator: dict[int, Source] = {}
        self._out: list[tuple[Source, bytes]] = []
        self._changes: list[tuple[Source, Change]] = []
        self._touched: dict[Source, None] = {}
        self._due: list[tuple[float, Source]] = []
        """A heap; an entry may ring too early, when its session has been heard meanwhile."""
        self._rings_at: dict[Source, float] = {}

    # What is wanted.

    def set(
        self, source: Source, terms: Terms, now: float, standing: Standing | None = None
    ) -> None:
        """A session is wanted, on these terms. `standing`: where a former process was with it."""
        shortest_s = min(terms.transmit_us, terms.receive_us) / 1e6
        self.together_s = min(self.together_s, shortest_s / TOGETHER_PART)
        session = self.sessions.get(source)
        if session is not None:
            session.configure(terms, now)
        else:
            if standing is None or standing.local_discriminator in self._by_discriminator:
                standing = Standing(self._new_discriminator())
            session = Session(terms, standing, now=now, jitter=self._random)
            self.sessions[source] = session
            self._by_discriminator[standing.local_discriminator] = source
        self._settle(source, session)

    def remove(self, source: Source) -> None:
        """Without a word: whoever wants one first says that it is not `enabled`."""
        session = self.sessions.pop(source, None)
        if session is not None:
            del self._by_discriminator[session.standing.local_discriminator]
            self._rings_at.pop(source, None)
            self._touched.pop(source, None)

    def _new_discriminator(self) -> int:
        while True:
            number = int(self._random() * 0xFFFFFFFF) + 1
            if number <= 0xFFFFFFFF and number not in self._by_discriminator:
                return number

    # What happens.

    def receive(self, data: bytes, source: Source, ttl: int, now: float) -> Discard | None:
        """A packet has arrived at our port: why it was not taken, or None."""
        why = self._receive(data, source, ttl, now)
        if why is not None:
            self.discarded[why] += 1
        return why

    def _receive(self, data: bytes, source: Source, ttl: int, now: float) -> Discard | None:
        packet = decode(data)
        if isinstance(packet, Discard):
            return packet
        named = packet.your_discriminator
        if named:
            owner = self._by_discriminator.get(named)
            if owner is None:
                return Discard.UNKNOWN_DISCRIMINATOR
            if owner != source:
                return Discard.OTHER_SOURCE
        session = self.sessions.get(source)
        if session is None:
            return Discard.UNKNOWN_SOURCE
        if ttl < session.terms.minimum_ttl:
            return Discard.TTL
        why = session.receive(packet, now)
        self._settle(source, session)
        return why

    def next_timer(self) -> float | None:
        return self._due[0][0] if self._due else None

    def handle_timer(self, now: float) -> None:
        """What has arrived must have been received before."""
        ringing = []
        while self._due and self._due[0][0] <= now + self.together_s:
            at, source = heappop(self._due)
            if self._rings_at.get(source) == at:  # else it was put anew, or is no more
                del self._rings_at[source]
                ringing.append(source)
        for source in ringing:
            session = self.sessions[source]
            session.handle_timer(now, early_s=self.together_s)
            self._settle(source, session)

    def packets_to_send(self) -> list[tuple[Source, bytes]]:
        out, self._out = self._out, []
        return out

    def changes(self) -> list[tuple[Source, Change]]:
        changes, self._changes = self._changes, []
        return changes

    def take_touched(self) -> list[Source]:
        """Sessions of which something to be seen has changed since last asked."""
        touched, self._touched = self._touched, {}
        return list(touched)

    def _settle(self, source: Source, session: Session) -> None:
        """Its packets and changes are ours to hand out, and it is woken in time."""
        for packet in session.packets_to_send():
            self._out.append((source, packet))
        for change in session.changes():
            self._changes.append((source, change))
        if session.is_touched:
            session.is_touched = False
            self._touched[source] = None
        timer = session.next_timer()
        rings_at = self._rings_at.get(source)
        if timer is not None and (rings_at is None or timer < rings_at):
            self._rings_at[source] = timer
            heappush(self._due, (timer, source))

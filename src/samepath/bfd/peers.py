"""The sessions that are wanted, by the names that the program gives them, and their sockets.

Used by `samepath.programs.bfd` alone, which owns the loop. A session that is wanted no more stays
for a while as administratively down, so that its peer hears that this is a wish and says nothing
about the path.

RFC 5880 §6.8.16; RFC 5882 §4.2.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from samepath.bfd.session import PAUSE_S, Terms
from samepath.bfd.sockets import SOURCE_PORTS, Place, Receiver, Sender
from samepath.bfd.system import Source, System
from samepath.bfd.wire import Carried, Want

GOODBYES = 3
GOODBYE_PAUSE_S = 0.05
LEAVING_S = 3.0
"""So long a peer is told that its session is wanted no more."""
_DOWN = Terms(enabled=False)


class Peers:
    """The sessions that are wanted, by the names that the program gives them; their sockets."""

    def __init__(self, *, random: Callable[[], float]) -> None:
        self.system = System(random=random)
        self.wanted: dict[str, Want] = {}
        self.sources: dict[str, Source] = {}
        self.names: dict[Source, str] = {}
        self.senders: dict[Source, Sender] = {}
        self.receivers: dict[Place, Receiver] = {}
        self.errors: dict[Place, str] = {}
        """Places where we cannot listen."""
        self.poll = select.epoll()
        self._random = random
        self._by_descriptor: dict[int, Receiver] = {}
        self._leaving: dict[str, float] = {}
        """Those wanted no more, and until when they are told so."""

    def want(self, name: str, want: Want, carried: Carried | None, now: float) -> None:
        former = self.wanted.get(name)
        if former is not None and (former.local, former.multihop) != (want.local, want.multihop):
            self._forget(name)
        self._leaving.pop(name, None)
        self.wanted[name] = want
        self._find(name, carried, now)

    def drop(self, name: str, now: float) -> None:
        source = self.sources.get(name)
        if source is not None and name not in self._leaving:
            self.system.set(source, _DOWN, now)
            self._leaving[name] = now + LEAVING_S
        elif source is None:
            self._forget(name)

    def is_wanted(self, name: str) -> bool:
        return name in self.wanted and name not in self._leaving

    def _forget(self, name: str) -> None:
        self._leaving.pop(name, None)
        self.wanted.pop(name, None)
        source = self.sources.pop(name, None)
        if source is not None:
            self.system.remove(source)
            del self.names[source]
            self.senders.pop(source).close()

    def _find(self, name: str, carried: Carried | None, now: float) -> None:
        """The session of a name. One by a link that is not there waits for it."""
        want = self.wanted[name]
        source = _source(name, want.multihop)
        former = self.sources.get(name)
        if former is not None and former != source:  # its link was taken away
            self._forget(name)
            self.wanted[name] = want
        if source is None:
            return
        if source not in self.senders:
            any_port = SOURCE_PORTS[int(self._random() * len(SOURCE_PORTS))]
            port = carried.port if carried and carried.port in SOURCE_PORTS else any_port
            self.senders[source] = Sender(source, want.local, port)
            self.sources[name], self.names[source] = source, name
        self.system.set(source, want.terms, now, carried.standing if carried else None)

    def look(self, now: float) -> None:
        """Links and ports may have come and gone, and some have heard our goodbye."""
        over = [name for name, until in self._leaving.items() if until <= now]
        for name in over:
            self._forget(name)
        known = dict(self.sources)
        for name in list(self.wanted):
            if "%" in name and name not in self._leaving:
                self._find(name, None, now)
        if self.errors or over or known != self.sources:
            self.listen()

    def listen(self) -> None:
        """The receiving sockets that the sessions need, and no others."""
        users: dict[Place, list[str]] = {}
        for name, source in self.sources.items():
            local = self.wanted[name].local or ""
            if local and source.scope:
                local = f"{local}%{source.scope}"
            place = Place(":" in source.address, source.multihop, local)
            users.setdefault(place, []).append(name)
        for place in list(users):
            anywhere = place._replace(address="")
            if place != anywhere and anywhere in users:
                users[anywhere] += users.pop(place)
        for place in self.receivers.keys() - users.keys():
            self._close(place)
        self.errors = {}
        for place, names in users.items():
            self._listen(place, names)

    def _listen(self, place: Place, names: list[str]) -> None:
        try:
            receiver = self.receivers.get(place)
            if receiver is None:
                receiver = self.receivers[place] = Receiver(place)
                self._by_descriptor[receiver.fileno()] = receiver
                self.poll.register(receiver.fileno(), select.EPOLLIN)
            ttl = min(self.wanted[name].terms.minimum_ttl for name in names)
            sources = [self.sources[name] for name in names]
            discriminators = [
                self.system.sessions[source].standing.local_discriminator for source in sources
            ]
            receiver.only(ttl, {source.address for source in sources}, discriminators)
        except OSError as error:
            self.errors[place] = f"{place.address or 'any address'}: {error.strerror or error}"

    def _close(self, place: Place) -> None:
        receiver = self.receivers.pop(place)
        del self._by_descriptor[receiver.fileno()]
        self.poll.unregister(receiver.fileno())
        receiver.close()

    def arrived(self, descriptor: int) -> None:
        receiver = self._by_descriptor.get(descriptor)
        if receiver is not None:
            receive = self.system.receive
            for data, source, ttl in receiver.read():
                receive(data, source, ttl, time.monotonic())

    def send(self) -> None:
        for source, data in self.system.packets_to_send():
            sender = self.senders.get(source)
            if sender is not None:
                sender.send(data)

    def goodbye(self) -> None:
        """AdminDown to all, often enough that one arrives."""
        for source in self.senders:
            self.system.set(source, _DOWN, time.monotonic())
        time.sleep(PAUSE_S)
        self.system.handle_timer(time.monotonic())
        packets = dict(self.system.packets_to_send())
        for _ in range(GOODBYES):
            for source, data in packets.items():
                self.senders[source].send(data)
            time.sleep(GOODBYE_PAUSE_S)


def _source(name: str, multihop: bool) -> Source | None:
    address, _, link = name.partition("%")
    try:
        return Source(address, socket.if_nametoindex(link) if link else 0, multihop)
    except OSError:
        return None

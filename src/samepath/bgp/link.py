"""One TCP connection of a session: asyncio's side of it.

Made by `samepath.bgp.transport` for each connection, opened or accepted. It carries bytes between
the socket and its `Session`, and tells the speaker when there is something to do; it decides
nothing.

RFC 4271 §4 (over TCP); RFC 9687 is the speaker's, by `stuck_since`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from samepath.bgp.peer import Peer
from samepath.bgp.session import Session
from samepath.model.net import Address, parse_address

READ_OCTETS = 65_536
BACKLOG_MESSAGES = 2_000
BACKLOG_OCTETS = 262_144
"""A neighbour with so many messages or octets unhandled is not read from."""
WRITE_OCTETS = 131_072
"""With so much unwritten, no further UPDATEs are made."""
CLOSE_S = 2.0
"""So long a closing connection may take to say its last words."""

_buffer = memoryview(bytearray(READ_OCTETS))
"""Shared by all links: a read and the call that takes its bytes follow each other directly."""


class Owner(Protocol):
    """The speaker, as a link sees it."""

    def accepted(self, link: Link, peer: Address, local: Address) -> None: ...

    def opened(self, link: Link, local: Address) -> None: ...

    def schedule(self, peer: Peer) -> None: ...

    def closed(self, link: Link) -> None: ...


class Link(asyncio.BufferedProtocol):
    def __init__(
        self, owner: Owner, peer: Peer | None = None, session: Session | None = None
    ) -> None:
        """Without `peer` and `session`: accepted; the owner calls `belongs_to`."""
        self.peer = peer
        self.session = session
        self.stuck_since: float | None = None
        """Since when the neighbour reads nothing, though there is something to read."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._is_reading = True
        self._is_closing = False
        self._unhandled = 0
        """Octets read since all messages were handled."""

    def belongs_to(self, peer: Peer, session: Session) -> None:
        self.peer, self.session = peer, session

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_OCTETS)
        names = (transport.get_extra_info(n) for n in ("peername", "sockname"))
        peer, local = (parse_address(name[0]) if name else b"" for name in names)
        if self.session is not None:
            self._owner.opened(self, local)
        elif peer:
            self._owner.accepted(self, peer, local)
        else:
            self.abort()  # It was gone before we looked.

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_closing or self.session is None or self.peer is None:
            return
        self.session.receive_data(bytes(_buffer[:nbytes]), self._loop.time())
        self._unhandled += nbytes
        is_far = self.session.backlog > BACKLOG_MESSAGES or self._unhandled > BACKLOG_OCTETS
        if is_far and self._is_reading:
            self._is_reading = False
            assert self._transport is not None
            self._transport.pause_reading()
        self._owner.schedule(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.session is not None and self.peer is not None and not self._is_closing:
            self.session.lost(_text(exc))
            self._owner.schedule(self.peer)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self.stuck_since = self._loop.time()

    def resume_writing(self) -> None:
        self.stuck_since = None
        if self.peer is not None:
            self._owner.schedule(self.peer)

    # What the speaker calls.

    @property
    def may_write(self) -> bool:
        return self.stuck_since is None and not self._is_closing and self._transport is not None

    def write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._is_closing:
            self._transport.write(data)

    def resume_reading(self) -> None:
        """All that was read is handled."""
        self._unhandled = 0
        if not self._is_reading and self._transport is not None and not self._is_closing:
            self._is_reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        """After what is written. The neighbour closes its side first, if it does so in time: to
        close with bytes unread would reset the connection, and destroy a NOTIFICATION on its way.
        """
        if self._is_closing or self._transport is None:
            return
        self.resume_reading()
        self._is_closing = True
        if self._transport.can_write_eof() and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # reset by the neighbour, and asyncio has not heard of it yet
                self._transport.abort()
                return
        self._loop.call_later(CLOSE_S, self.abort)

    def fail(self, text: str) -> None:
        """Give the connection up: to its session it is lost."""
        if self.session is not None and self.peer is not None and not self._is_closing:
            self.session.lost(text)
            self._owner.schedule(self.peer)
        self.abort()

    def abort(self) -> None:
        """At once, and without telling the session."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()


def _text(exc: Exception | None) -> str:
    if exc is None:
        return "closed by the neighbour"
    return f"{exc.strerror or exc}" if isinstance(exc, OSError) else str(exc)

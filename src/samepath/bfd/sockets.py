"""UDP for BFD: the sockets that receive, one a family or an address, and one a session to send.

Used by `samepath.programs.bfd` alone. Receiving sockets are bound to our addresses if every session
names its own, else to the wildcard; a filter in the kernel lets only our peers' packets through.
Each session sends from a port of its own.

RFC 5881 §4 (ports), §5 (TTL 255); RFC 5883 §5 (4784 over several hops).
"""

from __future__ import annotations

import array
import errno
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from samepath.bfd.filter import peers_only
from samepath.bfd.system import Source

SINGLE_HOP_PORT = 3784
MULTIHOP_PORT = 4784
SOURCE_PORTS = range(49152, 65536)

_RECEIVE_OCTETS = 4 << 20
"""Room for some 5,000 packets: those of a second in which we did not run."""
_TRAFFIC_CLASS = 0xC0
"""CS6, network control, as routers mark what they must not lose."""
_READ_S = 0.1
"""Reading goes on for so long before it is time for what is due."""

# Linux; the first and the fourth group of numbers are not in `socket`.
_IP_RECVTTL, _IP_TTL = 12, socket.IP_TTL
_IPV6_HOPLIMIT = socket.IPV6_HOPLIMIT
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78


class Arrived(NamedTuple):
    data: bytes
    source: Source
    ttl: int


class Place(NamedTuple):
    """Where packets come to."""

    is_v6: bool
    multihop: bool
    address: str
    """One of ours, with `%scope` if link-local; empty: any."""


class Receiver:
    """One receiving socket. Raises OSError if it cannot be had."""

    def __init__(self, place: Place) -> None:
        self.place = place
        family = socket.AF_INET6 if place.is_v6 else socket.AF_INET
        self._socket = sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _give_room(sock)
            if place.is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            port = MULTIHOP_PORT if place.multihop else SINGLE_HOP_PORT
            sock.bind(_endpoint(place.address, port, place.is_v6))
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def only(self, minimum_ttl: int, peers: Iterable[str], discriminators: Collection[int]) -> None:
        """Others' packets do not reach us any more, nor those for sessions that we do not have."""
        family, version = self._socket.family, 6 if self.place.is_v6 else 4
        packed = [socket.inet_pton(family, peer) for peer in peers]
        try:
            self._attach(peers_only(version, minimum_ttl, packed, discriminators))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            # More than net.core.optmem_max has room for: the distance alone.
            self._attach(peers_only(version, minimum_ttl, packed, discriminators, most=0))

    def _attach(self, octets: bytes) -> None:
        program = array.array("B", octets)
        address, count = program.buffer_info()
        fprog = struct.pack("@HP", count // 8, address)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)

    def read(self) -> Iterator[Arrived]:
        """All that is there. In a flood it ends before, and lets others have the processor."""
        until = time.monotonic() + _READ_S
        multihop = self.place.multihop
        while True:
            try:
                data, control, _, source = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                return
            ttl = 0
            for _, kind, value in control:
                if kind in (_IP_TTL, _IPV6_HOPLIMIT):
                    ttl = int.from_bytes(value[:4], sys.byteorder)
            scope = source[3] if len(source) > 2 else 0
            yield Arrived(data, Source(source[0].partition("%")[0], scope, multihop), ttl)
            if time.monotonic() > until:
                time.sleep(0.001)
                return


def _give_room(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_OCTETS)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_OCTETS)


class Sender:
    """The way to one peer. It is made when there is something to send, and anew when it fails."""

    def __init__(self, source: Source, local: str | None, port: int) -> None:
        """`port`: the one to send from, or the next one that is free."""
        self.port = port
        self.error = ""
        """Why the last packet could not be sent."""
        self._peer = source
        self._local = local
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = self._open()
            try:
                self._socket.send(data)
            except ConnectionRefusedError:
                # About a packet sent before, to which there was no answer: nobody listens there
                # yet. This one has not been sent.
                self._socket.send(data)
            self.error = ""
        except OSError as error:
            self.error = error.strerror or str(error)
            if error.errno != errno.ECONNREFUSED:
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        is_v6 = ":" in self._peer.address
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TRAFFIC_CLASS)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TRAFFIC_CLASS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nothing is to come here
            self._bind(sock, is_v6)
            port = MULTIHOP_PORT if self._peer.multihop else SINGLE_HOP_PORT
            peer = (self._peer.address, port)
            sock.connect((*peer, 0, self._peer.scope) if is_v6 else peer)
        except OSError:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket, is_v6: bool) -> None:
        first = self.port - SOURCE_PORTS.start
        for step in range(len(SOURCE_PORTS)):
            port = SOURCE_PORTS[(first + step) % len(SOURCE_PORTS)]
            try:
                sock.bind(_endpoint(self._local or "", port, is_v6, self._peer.scope))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.port = port
                return
        raise OSError(errno.EADDRINUSE, "no source port is free")


def _endpoint(
    address: str, port: int, is_v6: bool, scope: int = 0
) -> tuple[str, int] | tuple[str, int, int, int]:
    if not is_v6:
        return address, port
    plain, _, named = address.partition("%")
    is_local = plain.lower().startswith("fe80:")
    return plain or "::", port, 0, (int(named) if named else scope) if is_local else 0

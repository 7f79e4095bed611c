"""The sockets on which neighbours connect to us.

Owned by the speaker, which is asked for each connection before anything is made for it. An address
may be listened on before any interface has it, so that the order in which a machine comes up does
not matter. Passwords of neighbours (RFC 2385) are the listening sockets' own: a connection that is
not signed as it must be never comes to us.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Mapping

from samepath.bgp.sockets import listening_socket
from samepath.bgp.tcp_md5 import Password, set_key
from samepath.model.net import Address, Family, Nlri, family_of, nlri_address, parse_address

log = logging.getLogger("samepath.bgp")

ACCEPTS = 16
"""Connections that are taken from a socket before others are served."""
REST_S = 1.0
"""After the system had no room for a further connection."""

Keys = Mapping[tuple[Family, Nlri], Password]
"""Of the addresses and prefixes of neighbours."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listeners:
    def __init__(self, take: Callable[[socket.socket, Address], None]) -> None:
        """`take` gets every connection, with the address of its other side, and has to close it."""
        self._take = take
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._keys: dict[tuple[str, int], dict[tuple[Family, Nlri], Password]] = {}

    def follow(self, addresses: Iterable[str], port: int, keys: Keys | None = None) -> None:
        """Listen on these and on no others. Raises OSError; then we listen where we did."""
        wanted = [(text, port) for text in addresses]
        added: dict[tuple[str, int], socket.socket] = {}
        try:
            for text, _ in wanted:
                if (text, port) not in self._sockets:
                    added[text, port] = listening_socket(text, port)
                    self._set_keys((text, port), added[text, port], keys or {})
            for key in self._sockets.keys() & set(wanted):
                self._set_keys(key, self._sockets[key], keys or {})
        except OSError:
            for key, sock in added.items():
                self._keys.pop(key, None)
                sock.close()
            raise
        for key in self._sockets.keys() - set(wanted):
            self._close(key)
        for key, sock in added.items():
            self._sockets[key] = sock
            self._listen(sock)

    def _set_keys(self, key: tuple[str, int], sock: socket.socket, keys: Keys) -> None:
        family = family_of(parse_address(key[0]))
        wanted = {where: password for where, password in keys.items() if where[0] is family}
        present = self._keys.setdefault(key, {})
        for where in present.keys() - wanted.keys():
            set_key(sock, nlri_address(*where), where[1][0], None)
            del present[where]
        for where, password in wanted.items():
            if present.get(where) != password:
                set_key(sock, nlri_address(*where), where[1][0], password)
                present[where] = password

    @property
    def ports(self) -> dict[str, int]:
        """Where we listen, by address: for those that let the system choose (port 0)."""
        return {text: sock.getsockname()[1] for (text, _), sock in self._sockets.items()}

    def close(self) -> None:
        for key in list(self._sockets):
            self._close(key)

    def _listen(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def _close(self, key: tuple[str, int]) -> None:
        sock = self._sockets.pop(key)
        self._keys.pop(key, None)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, peer = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._rest(sock, error)
                    return
                continue  # That one was gone before we came to it.
            accepted.setblocking(False)
            self._take(accepted, parse_address(peer[0].partition("%")[0]))

    def _rest(self, sock: socket.socket, error: OSError) -> None:
        log.error("no room for further connections: %s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        loop.call_later(REST_S, self._listen, sock)

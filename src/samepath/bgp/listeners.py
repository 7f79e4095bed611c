"""The sockets on which neighbours connect to us.

Owned by the speaker. An address may be listened on before any interface has it, so that the order
in which a machine comes up does not matter.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from samepath.model.net import parse_address

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
"""Linux, ip(7) and ipv6(7)."""


class Listeners:
    def __init__(self, accept: Callable[[], asyncio.BaseProtocol]) -> None:
        """`accept` makes the protocol of an accepted connection."""
        self._accept = accept
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, addresses: Iterable[str], port: int) -> None:
        """Listen on these and on no others. Raises OSError; then nothing has changed."""
        wanted = [(text, port) for text in addresses]
        added: dict[tuple[str, int], socket.socket] = {}
        try:
            for text, _ in wanted:
                if (text, port) not in self._sockets:
                    added[text, port] = _listening_socket(text, port)
        except OSError:
            for sock in added.values():
                sock.close()
            raise
        for key in self._sockets.keys() - set(wanted):
            self._close(key)
        for key, sock in added.items():
            self._sockets[key] = sock
            task = asyncio.get_running_loop().create_task(self._serve(key, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, key: tuple[str, int], sock: socket.socket) -> None:
        if self._sockets.get(key) is sock:
            server = await asyncio.get_running_loop().create_server(self._accept, sock=sock)
            if self._sockets.get(key) is sock:
                self._servers[key] = server
            else:
                server.close()

    @property
    def ports(self) -> dict[str, int]:
        """Where we listen, by address: for those that let the system choose (port 0)."""
        return {text: sock.getsockname()[1] for (text, _), sock in self._sockets.items()}

    def close(self) -> None:
        for key in list(self._sockets):
            self._close(key)

    def _close(self, key: tuple[str, int]) -> None:
        sock = self._sockets.pop(key)
        server = self._servers.pop(key, None)
        if server is not None:
            server.close()
        else:
            sock.close()


def _listening_socket(text: str, port: int) -> socket.socket:
    is_v6 = len(parse_address(text)) == 16
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((text, port))
        sock.listen(256)
    except OSError:
        sock.close()
        raise
    return sock

"""The BFD process's end of the line to its program: a unix socket, one connection at a time.

Used by `samepath.programs.bfd` alone, in its loop. The newest connection is the one that counts: a
program that was killed may leave an old one behind.
"""

from __future__ import annotations

import select
import socket


class Program:
    """The connection to the program that we serve. At most one; the newest is the one."""

    def __init__(self, listener: socket.socket, poll: select.epoll) -> None:
        self._listener = listener
        self._poll = poll
        self._connection: socket.socket | None = None
        self._in = b""
        self._out = b""
        listener.setblocking(False)
        poll.register(listener, select.EPOLLIN)

    @property
    def is_there(self) -> bool:
        return self._connection is not None

    @property
    def may_be_told(self) -> bool:
        """What is not read does not pile up here: it waits in its sessions."""
        return self._connection is not None and not self._out

    def accept(self, descriptor: int) -> bool:
        """True: somebody new is there."""
        if descriptor != self._listener.fileno():
            return False
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return False
        self.close()
        connection.setblocking(False)
        self._connection = connection
        self._poll.register(connection, select.EPOLLIN)
        return True

    def close(self) -> None:
        if self._connection is not None:
            self._poll.unregister(self._connection)
            self._connection.close()
            self._connection, self._in, self._out = None, b"", b""

    def lines(self, descriptor: int) -> list[bytes]:
        connection = self._connection
        if connection is None or descriptor != connection.fileno():
            return []
        try:
            data = connection.recv(1 << 20)
        except BlockingIOError:
            self.tell(b"")
            return []
        except OSError:
            data = b""
        if not data:
            self.close()
            return []
        *whole, self._in = (self._in + data).split(b"\n")
        self.tell(b"")
        return whole

    def tell(self, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        had, self._out = bool(self._out), self._out + data
        try:
            self._out = self._out[connection.send(self._out) :] if self._out else b""
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if had != bool(self._out):
            more = select.EPOLLOUT if self._out else 0
            self._poll.modify(connection, select.EPOLLIN | more)

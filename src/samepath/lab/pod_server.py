"""What runs in a pod of the lab: answers each request with its own name.

Started as a script by `lab.traffic` (standard library only, `python -I -S`, so that a dozen of them
cost little). A request is 32 octets, its answer 72:

    pod name (16) | token (8) | octets received (8) | closing (1) | zero (7) | the request (32)

The token is drawn at accept, so a client notices when anybody else, even another connection of the
same pod, answers. On SIGTERM the pod is terminating, as Kubernetes means it: each connection
gets its next answer with `closing` set and then FIN; those with nothing to say get FIN at two
thirds of the grace; the process ends with its last connection, or with the grace.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import struct
import time

REQUEST = 32
ANSWER = struct.Struct("!16s8sQB7x32s")
BACKLOG = 4096


class Connection:
    __slots__ = ("buffer", "closing", "out", "received", "socket", "token")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.token = os.urandom(8)
        self.received = 0
        self.buffer = b""
        self.out = b""
        self.closing = False
        """FIN is sent, or will be after `out`."""


class Server:
    """One epoll loop over one listener, both families."""

    def __init__(self, name: str, port: int, grace_s: float) -> None:
        self.name = name.encode().ljust(16, b"\0")[:16]
        self.grace_s = grace_s
        self.listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.terminating_at: float | None = None
        self.nudged = False

    def terminate(self, *_: object) -> None:
        if self.terminating_at is None:
            self.terminating_at = time.monotonic()

    def run(self) -> None:
        while not self.finished():
            patience = -1.0 if self.terminating_at is None else 0.05
            for descriptor, events in self.epoll.poll(patience):
                if descriptor == self.listener.fileno():
                    self.accept()
                elif connection := self.connections.get(descriptor):
                    self.serve(connection, events)
                elif descriptor not in self.connections:
                    with contextlib.suppress(BlockingIOError):
                        os.read(descriptor, 64)  # the wake-up of a signal

    def finished(self) -> bool:
        if self.terminating_at is None:
            return False
        since = time.monotonic() - self.terminating_at
        if not self.nudged and since > self.grace_s * 2 / 3:
            self.nudged = True
            for connection in list(self.connections.values()):
                connection.closing = True
                self.flush(connection)
        return since > self.grace_s or not (self.connections or since < self.grace_s / 4)

    def accept(self) -> None:
        for _ in range(256):
            try:
                accepted, _address = self.listener.accept()
            except OSError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[accepted.fileno()] = Connection(accepted)
            self.epoll.register(accepted.fileno(), select.EPOLLIN)

    def serve(self, connection: Connection, events: int) -> None:
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = connection.socket.recv(65536)
                if not data:
                    self.drop(connection)
                    return
                connection.received += len(data)
                connection.buffer += data
                self.answer(connection)
            self.flush(connection)
        except BlockingIOError:
            return
        except OSError:
            self.drop(connection)

    def answer(self, connection: Connection) -> None:
        whole = len(connection.buffer) // REQUEST * REQUEST
        before = connection.received - len(connection.buffer)
        closing = self.terminating_at is not None
        for start in range(0, whole, REQUEST):
            request = connection.buffer[start : start + REQUEST]
            connection.out += ANSWER.pack(
                self.name, connection.token, before + start + REQUEST, closing, request
            )
            connection.closing = connection.closing or closing
        connection.buffer = connection.buffer[whole:]

    def flush(self, connection: Connection) -> None:
        try:
            if connection.out:
                sent = connection.socket.send(connection.out)
                connection.out = connection.out[sent:]
                wanted = select.EPOLLIN | (select.EPOLLOUT if connection.out else 0)
                self.epoll.modify(connection.socket.fileno(), wanted)
            if connection.closing and not connection.out:
                connection.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        self.connections.pop(connection.socket.fileno(), None)
        connection.socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grace", type=float, default=10.0)
    options = parser.parse_args()
    server = Server(options.name, options.port, options.grace)
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    server.epoll.register(readable, select.EPOLLIN)
    signal.signal(signal.SIGTERM, server.terminate)
    server.run()


if __name__ == "__main__":
    main()

"""healthCheckNodePort: a small HTTP server on each such port of the node, for load balancers.

Held by `programs.serving`, only where the service rules are ours: `want` says what is to be told
on which port (`plan.health_checks`), opens what is new and closes what is gone. 200 as long as the
node is to get flows of the service, else 503; the words are kube-proxy's, so that whatever reads
them there reads them here. A port that somebody else has is an error, and tried again.

Whoever can reach the node can reach these ports, so everything has a limit: a request has so many
octets and so much time, one answer ends a connection, and of too many connections the oldest goes.

One socket a port, for both families. What is written here is not worth a web framework: the agent
would need 13 MB more for it.

Standards: RFC 9110, RFC 9112; Kubernetes' `pkg/proxy/healthcheck`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from samepath.plan.health_checks import Check

CONNECTIONS = 256
"""At once, over all ports."""
REQUEST_OCTETS = 8192
REQUEST_S = 10.0
"""From the connection's first moment to its end."""
BACKLOG = 64
DESCRIPTORS_LEFT = 512
"""What the rest of the agent needs: so many ports less are opened."""
WEIGHT = "X-Load-Balancing-Endpoint-Weight"


class HealthChecks:
    """The ports, and what is said on them."""

    def __init__(self) -> None:
        self.checks: Mapping[int, Check] = {}
        self.rules_stand = False
        """Whether the rules are in place that the answers promise."""
        self.errors: dict[int, str] = {}
        """Ports that could not be opened."""
        self.conflicts: tuple[str, ...] = ()
        """Services whose port is another's already."""
        self._servers: dict[int, asyncio.Server] = {}
        self._connections: dict[_Connection, int] = {}
        """With their port, the oldest first."""

    async def want(self, checks: Mapping[int, Check]) -> bool:
        """Whether all these ports, and no others, are open now."""
        self.checks = dict(checks)
        self.errors = {}
        for port in self._servers.keys() - checks.keys():
            self._close(port)
        for port in sorted(checks.keys() - self._servers.keys()):
            try:
                self._servers[port] = await self._open(port)
            except OSError as error:
                text = os.strerror(error.errno) if error.errno else str(error)
                self.errors[port] = text
        return not self.errors

    async def _open(self, port: int) -> asyncio.Server:
        if len(self._servers) >= _descriptors() - DESCRIPTORS_LEFT:
            raise OSError(errno.EMFILE, "")
        listener = listen(port)
        try:
            loop = asyncio.get_running_loop()
            return await loop.create_server(
                lambda: _Connection(port, self), sock=listener, backlog=BACKLOG
            )
        except OSError:
            listener.close()
            raise

    def _close(self, port: int) -> None:
        self._servers.pop(port).close()
        for connection in [c for c, p in self._connections.items() if p == port]:
            connection.abort()

    def close(self) -> None:
        for port in list(self._servers):
            self._close(port)

    def view(self) -> dict[str, Any]:
        """For `samepath status`."""
        ports = [
            {
                "port": port,
                "service": f"{check.namespace}/{check.name}",
                "endpoints": check.endpoints,
                "answer": int(self.status(check)) if port in self._servers else 0,
                "error": self.errors.get(port, ""),
            }
            for port, check in sorted(self.checks.items())
        ]
        return {"ports": ports, "conflicts": list(self.conflicts)}

    # for the connections

    def made(self, connection: _Connection, port: int) -> None:
        while len(self._connections) >= CONNECTIONS:
            next(iter(self._connections)).abort()
        self._connections[connection] = port

    def lost(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)

    def status(self, check: Check) -> HTTPStatus:
        is_fit = check.is_fit and self.rules_stand
        return HTTPStatus.OK if is_fit else HTTPStatus.SERVICE_UNAVAILABLE

    def answer(self, port: int, request: bytes) -> bytes:
        """To the head of a request, whole and no longer than it may be."""
        line, _, _ = request.partition(b"\n")
        words = line.split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return response(HTTPStatus.BAD_REQUEST)
        if words[0] not in (b"GET", b"HEAD"):
            return response(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        check = self.checks.get(port)
        if check is None:
            return response(HTTPStatus.SERVICE_UNAVAILABLE)
        said = {
            "service": {"namespace": check.namespace, "name": check.name},
            "localEndpoints": check.endpoints,
            "serviceProxyHealthy": self.rules_stand,
        }
        status = self.status(check)
        weight = check.endpoints if status is HTTPStatus.OK else 0
        whole = response(status, {WEIGHT: str(weight)}, json.dumps(said).encode() + b"\n")
        return whole if words[0] == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, port: int, checks: HealthChecks) -> None:
        self._port = port
        self._checks = checks
        self._read = bytearray()
        self._cancel: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._checks.made(self, self._port)
        loop = asyncio.get_running_loop()
        self._cancel = loop.call_later(REQUEST_S, transport.abort).cancel

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._read += data
        end = _end_of_head(self._read)
        if 0 <= end <= REQUEST_OCTETS:
            self._say(self._checks.answer(self._port, bytes(self._read[:end])))
        elif len(self._read) > REQUEST_OCTETS:
            self._say(response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))

    def _say(self, text: bytes) -> None:
        self._transport.write(text)
        self._transport.close()

    def abort(self) -> None:
        """At once, and no longer counted."""
        self._checks.lost(self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self._checks.lost(self)


def _end_of_head(read: bytearray) -> int:
    """Where the empty line is; -1: not yet. A bare LF is taken as well (RFC 9112 §2.2)."""
    ends = [at for at in (read.find(b"\r\n\r\n"), read.find(b"\n\n")) if at >= 0]
    return min(ends, default=-1)


def response(
    status: HTTPStatus, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """RFC 9112 §4."""
    fields = {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        **(headers or {}),
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode() + body


def listen(port: int) -> socket.socket:
    """On all addresses of both families; of IPv4 where the kernel has no other."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)


def _descriptors() -> int:
    """How many we may have; as many as we are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft >= 0 else wanted

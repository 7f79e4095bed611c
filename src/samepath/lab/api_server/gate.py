"""What a request must pass before it is looked at: latency, a pause and the faults that a test has
ordered. Who asks, and whether they may, is the matter of `access`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from samepath.lab.api_server import status as st
from samepath.lab.api_server.status import StatusError


@dataclass(slots=True)
class Fault:
    """Every `each`-th request of a matching method and path is answered with `code`."""

    code: int
    each: int = 1
    left: int | None = None
    """How many more; None: until it is taken away."""
    method: str = ""
    path: str = ""
    seen: int = 0

    def strikes(self, request: web.Request) -> bool:
        if self.method and request.method != self.method:
            return False
        if self.path and self.path not in request.path_qs:
            return False
        if self.left == 0:
            return False
        self.seen += 1
        if self.seen % self.each:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def error(self) -> StatusError:
        if self.code == 429:
            return st.too_many_requests()
        if self.code == 401:
            return st.unauthorized()
        if self.code == 500:
            return st.internal_error("ordered by a test")
        return StatusError(self.code, "ServiceUnavailable", "ordered by a test")


class Gate:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.latency_s = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.requests = 0
        self.log: list[str] = []
        """Method and path of each request, while a test listens."""
        self.is_logging = False
        self._watching: set[asyncio.Transport] = set()

    async def enter(self, request: web.Request) -> None:
        self.requests += 1
        if self.is_logging:
            self.log.append(f"{request.method} {request.path_qs}")
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self.open.wait()
        for fault in self.faults:
            if fault.strikes(request):
                raise fault.error()

    async def pass_on(self) -> None:
        """Also what a watch has to say waits while the server is paused."""
        await self.open.wait()

    @contextmanager
    def watching(self, request: web.Request) -> Iterator[None]:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._watching.add(transport)
        try:
            yield
        finally:
            self._watching.discard(transport)

    def cut(self) -> None:
        """The connections of all watches break, in the middle of whatever they say."""
        for transport in tuple(self._watching):
            transport.abort()

    @property
    def watches(self) -> int:
        return len(self._watching)

"""What a request must pass before it is looked at: the faults that a test has ordered, then who
asks and whether they may.

Kubernetes: bearer tokens, `Unauthorized`; RBAC is in `rbac`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.requests import Target
from samepath.lab.api_server.status import Json, StatusError


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


ADMIN = User("admin", ("system:masters", "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


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
        self.tokens: dict[str, User] = {}
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

    # -- Who asks -----------------------------------------------------------------------------

    def user_of(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            return ADMIN
        user = self.tokens.get(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise st.unauthorized()
        return user

    def allow(self, request: web.Request, target: Target, verb: str) -> None:
        self.user_of(request)

    def allow_path(self, request: web.Request) -> None:
        self.user_of(request)

    def issue(self, request: web.Request, target: Target, content: Any) -> Json:
        raise st.no_such_path()

    def review(self, request: web.Request, kind: Kind, content: Any) -> Json:
        raise st.no_such_path()

    def new_token(self, user: User) -> str:
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user
        return token

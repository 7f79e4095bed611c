"""HTTP to the API server: one request out, octets or an `ApiError` back.

Used by `samepath.kube.api` alone. Here is the only import of aiohttp.

The server is not trusted with our memory or our time: an answer has a largest size, and everything
has a timeout. Redirects are not followed, and no cookie is kept: both would carry credentials to
where they do not belong. Answers are asked for without compression, proxies of the environment are
not used. A request that was refused for being too many (429) is tried again when the server says;
one that was refused for its credentials (401) once more with such as are read anew.

Standards: RFC 9110, RFC 6585 §4 (429), RFC 1122 §4.2.3.6 (keep-alive of TCP).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from samepath.kube.api_errors import ApiError, Asked, Unreachable, refusal
from samepath.kube.credentials import Access, Credentials, CredentialsError
from samepath.kube.wire import Lines, WireError

ANSWER_LIMIT = 16 << 20
"""Octets of one object."""
REFUSAL_LIMIT = 64 << 10
CONNECT_S = 10.0
REQUEST_S = 30.0
"""From the request to the end of the answer, unless the caller says how long a pause may be."""
CONNECTIONS = 64
TRIES = 3
RETRY_MOST_S = 10.0
"""A longer `Retry-After` is the caller's to wait for."""
KEEPALIVE_S = 20
"""A connection that is silent for so long is probed, every 10 s; after 3 probes it is lost."""


class Silent(Exception):
    """A watch that was open has brought nothing for too long."""


class Http:
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def octets(
        self,
        method: str,
        asked: Asked,
        query: Mapping[str, str],
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
        pause_s: float | None = None,
        limit: int = ANSWER_LIMIT,
    ) -> bytes:
        """The answer. `pause_s`: it may take any time, but not pause for so long. Raises
        ApiError."""
        async with self._response(
            method, asked, query, pause_s=pause_s, body=body, content_type=content_type
        ) as response:
            with _words(asked):
                return await _read(response, limit)

    async def lines(
        self, asked: Asked, query: Mapping[str, str], *, pause_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        """The answer's lines, as many at a time as have arrived, until it ends; first of all an
        empty list: the server has begun to answer. Raises ApiError, WireError, and `Silent`."""
        async with self._response("GET", asked, query, pause_s=pause_s) as response:
            yield []
            lines = Lines()
            chunks = response.content.iter_any()
            while True:
                with _words(asked):
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
                    except TimeoutError as error:
                        raise Silent from error
                if found := lines.feed(chunk):
                    yield found

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        asked: Asked,
        query: Mapping[str, str],
        *,
        pause_s: float | None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is a success. Raises ApiError."""
        total_s = REQUEST_S if pause_s is None else None
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S, sock_read=pause_s)
        for tries_left in reversed(range(TRIES)):
            try:
                access = await self.credentials.access()
            except CredentialsError as error:
                raise Unreachable(0, "", f"{asked}: {error}") from error
            with _words(asked):
                response = await self._send(
                    access, method, asked, query, timeout, body, content_type
                )
            async with response:
                if response.status < 300:
                    yield response
                    return
                with _words(asked):
                    text = await _read(response, REFUSAL_LIMIT, cut=True)
            refused = refusal(asked, response.status, text, response.headers.get("Retry-After"))
            wait_s = self._again_after(refused, tries_left)
            if wait_s is None:
                raise refused
            await asyncio.sleep(wait_s)

    def _again_after(self, error: ApiError, tries_left: int) -> float | None:
        """Seconds until the same request makes sense again; None: it does not."""
        if error.code == 401:
            self.credentials.refused()
            return 0.0 if tries_left == TRIES - 1 else None
        wait_s = error.retry_after_s
        if error.code == 429 and tries_left and wait_s is not None and wait_s <= RETRY_MOST_S:
            return wait_s
        return None

    async def _send(
        self,
        access: Access,
        method: str,
        asked: Asked,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        body: bytes | None,
        content_type: str,
    ) -> aiohttp.ClientResponse:
        headers = {} if body is None else {"Content-Type": content_type}
        if access.authorization is not None:
            headers["Authorization"] = access.authorization
        url = URL(access.server + asked.path, encoded=True).with_query(dict(query))
        return await self._open_session().request(
            method,
            url,
            data=body,
            headers=headers,
            timeout=timeout,
            ssl=access.tls if access.tls is not None else True,
            server_hostname=access.server_name,
            proxy=access.proxy,
            allow_redirects=False,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "samepath",
                },
                trust_env=False,
            )
        return self._session


def _socket(about: aiohttp.AddrInfoType) -> socket.socket:
    """A peer that is gone without a word is noticed in a minute, not in two hours."""
    family, kind, protocol, *_ = about
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, (KEEPALIVE_S + 30) * 1000)
    return made


class _words:
    """What goes wrong on the way, as `Unreachable`."""

    __slots__ = ("_asked",)

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if kind is None:
            return
        if issubclass(kind, TimeoutError):
            text = "no answer in time"
        elif issubclass(kind, aiohttp.ClientConnectorCertificateError):
            text = f"its certificate is not to be trusted: {error.certificate_error}"
        elif issubclass(kind, aiohttp.ClientConnectorError):
            text = f"cannot connect to {error.host}:{error.port}: {error.os_error}"
        elif issubclass(kind, (aiohttp.ClientError, OSError, WireError)):
            text = str(error) or kind.__name__
        else:
            return
        raise Unreachable(0, "", f"{self._asked}: {text}") from error


async def _read(response: aiohttp.ClientResponse, limit: int, *, cut: bool = False) -> bytes:
    """The body. Raises WireError if it is longer than `limit`, or cuts it there."""
    parts = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            if cut:
                break
            raise WireError(f"an answer of more than {limit} octets")
        parts.append(part)
    return b"".join(parts)

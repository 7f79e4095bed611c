"""A server that answers as a test says, request by request: for what no real API server does at
will. What it was asked is in `asked`."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from samepath.kube.api import Api
from samepath.kube.kubeconfig import Kubeconfig

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Scripted:
    answer: Answer
    port: int = 0
    tls: ssl.SSLContext | None = None
    asked: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.asked.append(request)
        return await self.answer(request)


@asynccontextmanager
async def serve(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    scripted = Scripted(answer, tls=tls)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", scripted._take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    scripted.port = runner.addresses[0][1]
    try:
        yield scripted
    finally:
        await runner.cleanup()


@asynccontextmanager
async def api_of(scripted: Scripted, folder: Path) -> AsyncIterator[Api]:
    """A client by way of a kubeconfig."""
    api = Api(Kubeconfig(write_kubeconfig(folder, scripted.url)))
    try:
        yield api
    finally:
        await api.close()


def write_kubeconfig(
    folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any
) -> str:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": user or {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return str(path)


def status(code: int, reason: str, message: str, **more: Any) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    body |= {"reason": reason, "message": message, **more}
    return web.json_response(body, status=code)


async def eventually(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)

"""HTTP: a request is let in, understood and given to `reading` or `writing`; what the server says
of itself is answered here.

`server` owns the listening socket and the knobs; what a request must pass before it is looked at
is `gate` (faults, latency, a pause) and `access` (who asks, and may they).

Kubernetes API: the REST verbs of the apiserver, its parameters and content types.
"""

from __future__ import annotations

from aiohttp import web

from samepath.lab.api_server import answers, discovery, openapi
from samepath.lab.api_server import requests as rq
from samepath.lab.api_server import status as st
from samepath.lab.api_server.access import Access
from samepath.lab.api_server.gate import Gate
from samepath.lab.api_server.objects import Objects
from samepath.lab.api_server.ownership import Ownership
from samepath.lab.api_server.reading import Reading
from samepath.lab.api_server.status import StatusError
from samepath.lab.api_server.store import encode
from samepath.lab.api_server.writing import Writing

BODY_LIMIT = 3 * 1024 * 1024


class Serving:
    def __init__(self, objects: Objects, gate: Gate, access: Access) -> None:
        self._registry = objects.registry
        self._gate = gate
        self._access = access
        self.reading = Reading(objects, gate)
        self._writing = Writing(objects, access, Ownership(objects))

    def app(self) -> web.Application:
        """A new one for each start: aiohttp does not start one twice."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            await self._gate.enter(request)
            return await self._route(request)
        except StatusError as error:
            headers = {}
            if wait := error.details.get("retryAfterSeconds"):
                headers["Retry-After"] = str(wait)
            return answers.json(error.body(), error.code, headers)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        parts = path.split("/")
        is_api = (parts[0] == "api" and len(parts) > 2) or (parts[0] == "apis" and len(parts) > 3)
        if not is_api:
            self._access.check_path(request)
            return self._document(request, path, parts)
        target = rq.target(self._registry, parts)
        query = request.query
        self._access.check(request, target, target.verb(request.method, rq.flag(query, "watch")))
        if request.method in ("GET", "HEAD"):
            return await self.reading.answer(request, target)
        content = rq.body(request.headers.get("Content-Type", ""), await request.read())
        if request.method == "POST":
            return self._writing.create(request, target, content)
        if request.method == "PUT":
            return self._writing.update(request, target, content)
        if request.method == "PATCH":
            return self._writing.patch(request, target, content)
        if request.method == "DELETE":
            return self._writing.delete(request, target, content)
        raise st.method_not_allowed()

    def _document(self, request: web.Request, path: str, parts: list[str]) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            raise st.method_not_allowed()
        registry = self._registry
        if path in ("api", "apis") and discovery.wants_aggregated(
            request.headers.get("Accept", "")
        ):
            found = encode(discovery.aggregated(registry, path == "api"))
            return web.Response(body=found, headers={"Content-Type": discovery.AGGREGATED_TYPE})
        if path in ("healthz", "livez", "readyz"):
            return web.Response(text="ok")
        if path == "version":
            return answers.json(discovery.VERSION)
        if path == "api":
            return answers.json(discovery.core_versions(request.host))
        if path == "apis":
            return answers.json(discovery.group_list(registry))
        if path == "api/v1":
            return answers.json(discovery.resources(registry, "", "v1"))
        if path == "openapi/v3":
            return answers.json(openapi.index(registry))
        if path.startswith("openapi/v3/"):
            return answers.json(openapi.group_version(registry, path.removeprefix("openapi/v3/")))
        if parts[0] == "apis" and len(parts) == 2:
            return answers.json(discovery.group(registry, parts[1]))
        if parts[0] == "apis" and len(parts) == 3:
            return answers.json(discovery.resources(registry, parts[1], parts[2]))
        raise st.no_such_path()

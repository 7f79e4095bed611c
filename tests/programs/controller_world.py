"""Services in a server that loses and delays what it is asked, and a watch that is late: the double
of `kube.api.Api` for the controller's writing. Synchronous inside: a seed is a history."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from samepath.kube.api import ApiError, Unreachable
from samepath.kube.objects import parse_object
from samepath.kube.resources import SERVICES, Resource
from samepath.model.cluster import Service
from samepath.model.documents import Document

Json = dict[str, Any]


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


class Server:
    """`trouble`: which share of requests go wrong, in one of the ways in which they can."""

    def __init__(self, random_: random.Random, trouble: float = 0.0) -> None:
        self.random = random_
        self.trouble = trouble
        self.version = 10
        self.services: dict[str, Json] = {}
        self.history: list[dict[str, Json]] = [{}]
        self.late: list[Callable[[], None]] = []
        """Requests that were sent, and have not arrived yet."""
        self.changed: Callable[[], None] = lambda: None
        self.writes = 0
        self.way: int | None = None
        """In which way they go wrong; None: any."""

    # what people do

    def put(self, name: str, **spec: Any) -> None:
        key = f"default/{name}"
        about = {"name": name, "namespace": "default", "uid": f"u{self.version}"}
        before = self.services.get(key)
        if before is None:
            about["creationTimestamp"] = f"2024-01-01T00:00:{self.version % 60:02}Z"
            before = {"apiVersion": "v1", "kind": "Service", "metadata": about}
        annotations = spec.pop("annotations", None)
        body = copy.deepcopy(before)
        body["spec"] = {"type": "LoadBalancer", "clusterIP": "10.96.0.1", **spec}
        if annotations is not None:
            body["metadata"]["annotations"] = {
                **body["metadata"].get("annotations", {}), **annotations
            }  # fmt: skip
        self._store(key, body)

    def delete(self, name: str) -> None:
        if self.services.pop(f"default/{name}", None) is not None:
            self.version += 1
            self.history.append(dict(self.services))

    def _store(self, key: str, body: Json) -> Json:
        self.version += 1
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.services[key] = body
        self.history.append(dict(self.services))
        self.changed()
        return body

    def parsed(self, services: dict[str, Json] | None = None) -> dict[str, Service]:
        found = {}
        for body in (self.services if services is None else services).values():
            service = parse_object(Document("", 0, body, {}))
            assert isinstance(service, Service)
            found[service.key] = service
        return found

    # the double of Api

    async def get(self, resource: Resource, name: str, namespace: str) -> Json:
        assert resource is SERVICES
        if self.way is None:
            self._lose()
        return self._found(f"{namespace}/{name}")

    async def list(self, resource: Resource) -> tuple[list[Json], str]:
        assert resource is SERVICES
        if self.way is None:
            self._lose()
        return copy.deepcopy(list(self.services.values())), str(self.version)

    async def patch(
        self, resource: Resource, name: str, patch: Json, namespace: str, *, subresource: str = ""
    ) -> Json:
        assert resource is SERVICES
        patch = copy.deepcopy(patch)

        def act() -> Json:
            return self._patch(f"{namespace}/{name}", patch, subresource)

        self.writes += 1
        if self.random.random() < self.trouble:
            way = self.way if self.way is not None else self.random.randrange(5)
            if way == 0:
                raise Unreachable(0, "", "lost on the way")
            if way == 1:
                act()
                raise Unreachable(0, "", "the answer was lost")
            if way == 2:
                act()
                raise ApiError(504, "Timeout", "etcd has not answered in time")
            self.late.append(act)
            raise Unreachable(0, "", "still on its way")
        return act()

    def _lose(self) -> None:
        if self.random.random() < self.trouble:
            raise Unreachable(0, "", "lost")

    def _found(self, key: str) -> Json:
        if key not in self.services:
            raise ApiError(404, "NotFound", f"{key} not found")
        return copy.deepcopy(self.services[key])

    def _patch(self, key: str, patch: Json, subresource: str) -> Json:
        before = self._found(key)
        wanted = patch["metadata"].pop("resourceVersion", None)
        if wanted is not None and wanted != before["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        body = merge(before, patch)
        if subresource == "status":
            body = {**before, "status": body.get("status", {})}
        else:
            body["status"] = before.get("status", {})
        if body == before:
            return before
        return copy.deepcopy(self._store(key, body))

    def arrive(self) -> None:
        """One of the requests that are on their way."""
        if self.late:
            act = self.late.pop(self.random.randrange(len(self.late)))
            try:
                act()
            except ApiError:
                return


class Watch:
    """What one controller sees: never newer than the server, never going back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.at = 0

    def advance(self, to_the_end: bool = False) -> None:
        last = len(self.server.history) - 1
        self.at = last if to_the_end else self.server.random.randint(self.at, last)

    def services(self) -> dict[str, Service]:
        return self.server.parsed(self.server.history[self.at])

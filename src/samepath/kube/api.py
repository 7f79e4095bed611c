"""The API server: objects as plain data, and the octets of lists and watches.

Imported only where Kubernetes is configured: aiohttp takes 14 MiB. Used by `samepath.kube.watch`,
which reads octets (`pages`, `watch`), and by programs that write (`create`, `patch`, ...). What
goes wrong is an `ApiError`; `Unreachable` is one without an answer.

Standards: Kubernetes API conventions (verbs, patch types, server-side apply, preconditions), and
API concepts (chunks of a list).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

import msgspec

from samepath.kube.api_errors import ApiError, Asked, Unreachable
from samepath.kube.credentials import Credentials, ServiceAccount
from samepath.kube.http import Http
from samepath.kube.kubeconfig import Kubeconfig
from samepath.kube.resources import Resource
from samepath.kube.wire import Page, WireError, decode_object, decode_page
from samepath.model.config import Kubernetes

PAGE_LIMIT = 512 << 20
"""Octets of one page of a list. A server may ignore `limit` when it answers from its cache."""
PAGES_MOST = 5_000
"""Of one list; with 500 objects each that is far more than etcd holds."""
PAUSE_S = 60.0
"""How long a list may pause while it arrives."""
FIELD_MANAGER = "samepath"

How = Literal["merge", "json", "apply", "strategic"]
_PATCHES: dict[How, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
    "strategic": "application/strategic-merge-patch+json",
}

Json = dict[str, Any]
Items = list[Json]
Operations = list[Any]
"""Of a JSON patch (RFC 6902)."""
Batch = list[bytes]


class Api:
    """One API server. Nothing is read or connected before the first request."""

    def __init__(self, credentials: Credentials) -> None:
        self._http = Http(credentials)

    @classmethod
    def connect(cls, config: Kubernetes) -> Api:
        """What is wrong with the credentials comes to light with the first request."""
        paths = config.kubeconfig
        if paths is None and not os.environ.get("KUBERNETES_SERVICE_HOST"):
            paths = os.environ.get("KUBECONFIG") or None
        if paths is not None:
            return cls(Kubeconfig(paths, config.context))
        return cls(ServiceAccount())

    @property
    def where(self) -> str:
        return self._http.credentials.where

    async def close(self) -> None:
        await self._http.close()

    # objects as plain data

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        return await self._call("GET", Asked("get", resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> tuple[Items, str]:
        """All objects as they are now, and the list's resource version."""
        query = selectors(label_selector, field_selector)
        for tries_left in (1, 0):
            items: Items = []
            version = ""
            try:
                async for page in self.pages(resource, namespace, query, limit=limit):
                    items += [self._item(resource, raw) for raw in page.items or []]
                    version = page.metadata.resource_version
                return items, version
            except ApiError as error:
                # Paging took longer than the server remembers: all of it at once, then.
                if not (error.is_expired and tries_left):
                    raise
                limit = 0
        raise AssertionError("unreachable")

    def _item(self, resource: Resource, raw: msgspec.Raw) -> Json:
        try:
            thing = decode_object(raw)
        except WireError as error:
            raise Unreachable(0, "", f"{Asked('list', resource)}: {error}") from error
        return {"apiVersion": resource.api_version, "kind": resource.kind, **thing}

    async def create(self, resource: Resource, body: Json, namespace: str | None = None) -> Json:
        namespace = namespace or body.get("metadata", {}).get("namespace")
        asked = Asked("create", resource, namespace)
        return await self._call("POST", asked, body, query={"fieldManager": FIELD_MANAGER})

    async def replace(self, resource: Resource, body: Json, *, subresource: str = "") -> Json:
        """Refused (`is_conflict`) if `metadata.resourceVersion` is not the present one."""
        about = body["metadata"]
        asked = Asked("update", resource, about.get("namespace"), about["name"], subresource)
        return await self._call("PUT", asked, body, query={"fieldManager": FIELD_MANAGER})

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Json | Operations,
        namespace: str | None = None,
        *,
        how: How = "merge",
        subresource: str = "",
    ) -> Json:
        """`apply` (server-side apply) takes fields from other managers."""
        asked = Asked("patch", resource, namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER, **({"force": "true"} if how == "apply" else {})}
        return await self._call("PATCH", asked, patch, query=query, content_type=_PATCHES[how])

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None:
        """Only the one with this uid, or of this version, if given; else `is_conflict`."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions := {name: value for name, value in wanted.items() if value is not None}:
            body["preconditions"] = preconditions
        await self._call("DELETE", Asked("delete", resource, namespace, name), body)

    # octets

    async def pages(
        self,
        resource: Resource,
        namespace: str | None,
        query: Mapping[str, str],
        *,
        limit: int = 500,
        pause_s: float = PAUSE_S,
    ) -> AsyncGenerator[Page, None]:
        """A list, page by page. ApiError 410 in the middle: it has taken too long, begin again."""
        asked = Asked("list", resource, namespace)
        terms = {**query, **({"limit": str(limit)} if limit else {})}
        for _ in range(PAGES_MOST):
            octets = await self._http.octets("GET", asked, terms, pause_s=pause_s, limit=PAGE_LIMIT)
            try:
                # In a thread: taking apart megabytes must not hold up a session.
                page = await asyncio.to_thread(decode_page, octets)
            except WireError as error:
                raise Unreachable(0, "", f"{asked}: {error}") from error
            del octets
            yield page
            if not page.metadata.continue_:
                return
            # The continue token names the version: a server refuses both together.
            terms = {**terms, "continue": page.metadata.continue_}
            terms.pop("resourceVersion", None)
            terms.pop("resourceVersionMatch", None)
        raise Unreachable(0, "", f"{asked}: a list without end ({PAGES_MOST} pages)")

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        query: Mapping[str, str],
        *,
        silence_s: float,
    ) -> AsyncGenerator[Batch, None]:
        """Lines of a watch, as many at a time as have arrived, until the server ends it; first of
        all none. Raises ApiError, WireError, and `http.Silent` after `silence_s` without any."""
        asked = Asked("watch", resource, namespace)
        return self._http.lines(asked, {**query, "watch": "true"}, pause_s=silence_s)

    async def _call(
        self,
        method: str,
        asked: Asked,
        body: Json | Operations | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        octets = await self._http.octets(
            method,
            asked,
            query or {},
            body=None if body is None else msgspec.json.encode(body),
            content_type=content_type,
        )
        try:
            return decode_object(octets)
        except WireError as error:
            raise Unreachable(0, "", f"{asked}: {error}") from error


def selectors(label_selector: str = "", field_selector: str = "") -> dict[str, str]:
    """As terms of a query; an empty one is left out."""
    terms = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in terms.items() if value}


__all__ = ["Api", "ApiError", "Unreachable", "selectors"]

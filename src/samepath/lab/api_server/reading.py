"""GET: one object, a list, a watch.

Called by `serving`. Kubernetes API concepts: retrieving resources, watch, alternate
representations.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from samepath.lab.api_server import answers, lists, watches
from samepath.lab.api_server import requests as rq
from samepath.lab.api_server import status as st
from samepath.lab.api_server.gate import Gate
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects
from samepath.lab.api_server.requests import Shape, Target
from samepath.lab.api_server.selectors import Selects, selection
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored, encode, event_line
from samepath.lab.api_server.views import metadata_only, table

WATCH_S = 2400.0


class Reading:
    def __init__(self, objects: Objects, gate: Gate) -> None:
        self._objects = objects
        self._gate = gate
        self.bookmark_s = 60.0
        self.initial_events = "served"
        """Or `forbidden` (before 1.32), or `old-etcd`: an ERROR event 500 over HTTP 200."""

    async def answer(self, request: web.Request, target: Target) -> web.StreamResponse:
        query, kind = request.query, target.kind
        if kind.create_only:
            raise st.method_not_allowed()
        if target.name and not rq.flag(query, "watch"):
            thing = self._objects.get(kind, target.namespace, target.name)
            if target.subresource == "scale":
                return answers.json(answers.scale_of(thing))
            return answers.one(request, kind, thing, self._objects.now())
        fields = query.get("fieldSelector", "")
        if target.name:
            fields = f"metadata.name={target.name}"
        selects = selection(kind, query.get("labelSelector", ""), fields)
        collection = self._objects.store.collection(kind.key)
        if rq.flag(query, "watch"):
            return await self._watch(request, target, selects)
        asked = lists.Asked(
            namespace=target.namespace,
            version=query.get("resourceVersion", ""),
            match=query.get("resourceVersionMatch", ""),
            limit=rq.count(query, "limit"),
            token=query.get("continue", ""),
            selects=selects,
        )
        page = lists.read(self._objects.store, collection, asked)
        metadata: Json = {"resourceVersion": str(page.version)}
        if page.token:
            metadata["continue"] = page.token
            if page.remaining is not None:
                metadata["remainingItemCount"] = page.remaining
        return answers.many(request, kind, page.items, metadata, self._objects.now())

    async def _watch(
        self, request: web.Request, target: Target, selects: Selects | None
    ) -> web.StreamResponse:
        query, kind = request.query, target.kind
        initial = query.get("sendInitialEvents")
        if initial is not None:
            self._check_initial_events(query)
        asked = watches.Asked(
            kind=kind,
            namespace=target.namespace,
            version=query.get("resourceVersion", ""),
            selects=selects,
            bookmarks=rq.flag(query, "allowWatchBookmarks"),
            initial_events=None if initial is None else rq.flag(query, "sendInitialEvents"),
            timeout_s=float(rq.count(query, "timeoutSeconds") or WATCH_S),
            form=self._form(request, kind),
        )
        response = web.StreamResponse()
        response.content_type = "application/json"
        response.enable_chunked_encoding()
        watch = watches.Watch(
            self._objects.store,
            self._objects.store.collection(kind.key),
            asked,
            self.bookmark_s,
        )
        try:
            await response.prepare(request)
            if initial is not None and self.initial_events == "old-etcd":
                text = (
                    "a watch stream was requested by the client but the required storage feature "
                    "RequestWatchProgress is disabled"
                )
                error = st.internal_error(text).body()
                await response.write(event_line("ERROR", encode(error)))
                return response
            with self._gate.watching(request):
                async for chunk in watch.chunks():
                    await self._gate.pass_on()
                    await response.write(chunk)
        except ConnectionError:
            pass  # the client has gone
        finally:
            watch.close()
        return response

    def _check_initial_events(self, query: Mapping[str, str]) -> None:
        causes = []
        if self.initial_events == "forbidden":
            text = (
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is "
                "enabled"
            )
            causes.append(st.forbidden_field("sendInitialEvents", text))
        elif query.get("resourceVersionMatch") != "NotOlderThan":
            text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            causes.append(st.forbidden_field("resourceVersionMatch", text))
        if causes:
            raise st.invalid("meta.k8s.io", "ListOptions", "", causes)

    def _form(self, request: web.Request, kind: Kind) -> watches.Form | None:
        shape = rq.shape(request.headers.get("Accept", ""))
        if shape is Shape.OBJECT:
            return None
        query, is_first = request.query, True

        def form(type: str, thing: Stored) -> bytes:
            nonlocal is_first
            if shape is Shape.METADATA:
                body = metadata_only(thing)
            elif type == "BOOKMARK":
                return event_line(type, thing.full(kind))
            else:
                metadata = {"resourceVersion": str(thing.version)}
                body = table(kind, [thing], metadata, query, self._objects.now())
                if not is_first:
                    body["columnDefinitions"] = None  # said once
                is_first = False
            return event_line(type, encode(body))

        return form

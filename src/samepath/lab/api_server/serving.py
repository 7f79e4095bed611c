"""HTTP: a request is let in, understood, asked of `objects`, `lists` or `watches`, and answered.

`server` owns the listening socket and the knobs; what a request must pass before it is looked at
(faults, latency, who asks and may they) is `gate`.

Kubernetes API: the REST verbs of the apiserver, its parameters and content types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from samepath.lab.api_server import discovery, lists, openapi, watches
from samepath.lab.api_server import requests as rq
from samepath.lab.api_server import status as st
from samepath.lab.api_server.access import Access
from samepath.lab.api_server.gate import Gate
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options, Preconditions
from samepath.lab.api_server.patches import json_patch, merge, strategic_merge
from samepath.lab.api_server.requests import Shape, Target
from samepath.lab.api_server.selectors import selection
from samepath.lab.api_server.status import Json, StatusError
from samepath.lab.api_server.store import Stored, encode, event_line
from samepath.lab.api_server.views import metadata_only, table

WATCH_S = 2400.0
BODY_LIMIT = 3 * 1024 * 1024


class Serving:
    def __init__(self, objects: Objects, gate: Gate, access: Access) -> None:
        self._objects = objects
        self._registry = objects.registry
        self._gate = gate
        self._access = access
        self.bookmark_s = 60.0
        self.initial_events = "served"
        """Or `forbidden` (before 1.32), or `old-etcd`: an ERROR event 500 over HTTP 200."""
        self.app = web.Application(client_max_size=BODY_LIMIT)
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            await self._gate.enter(request)
            return await self._route(request)
        except StatusError as error:
            headers = {}
            if wait := error.details.get("retryAfterSeconds"):
                headers["Retry-After"] = str(wait)
            return _json(error.body(), error.code, headers)

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
            return await self._read(request, target)
        content = rq.body(request.headers.get("Content-Type", ""), await request.read())
        if request.method == "POST":
            return self._create(request, target, content)
        if request.method == "PUT":
            return self._update(request, target, content)
        if request.method == "PATCH":
            return self._patch(request, target, content)
        if request.method == "DELETE":
            return self._delete(request, target, content)
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
            return _json(discovery.VERSION)
        if path == "api":
            return _json(discovery.core_versions(request.host))
        if path == "apis":
            return _json(discovery.group_list(registry))
        if path == "api/v1":
            return _json(discovery.resources(registry, "", "v1"))
        if path == "openapi/v3":
            return _json(openapi.index(registry))
        if path.startswith("openapi/v3/"):
            return _json(openapi.group_version(registry, path.removeprefix("openapi/v3/")))
        if parts[0] == "apis" and len(parts) == 2:
            return _json(discovery.group(registry, parts[1]))
        if parts[0] == "apis" and len(parts) == 3:
            return _json(discovery.resources(registry, parts[1], parts[2]))
        raise st.no_such_path()

    # -- Read ---------------------------------------------------------------------------------

    async def _read(self, request: web.Request, target: Target) -> web.StreamResponse:
        query, kind = request.query, target.kind
        if kind.create_only:
            raise st.method_not_allowed()
        shape = rq.shape(request.headers.get("Accept", ""))
        if target.name and not rq.flag(query, "watch"):
            thing = self._objects.get(kind, target.namespace, target.name)
            if target.subresource == "scale":
                return _json(scale_of(thing))
            return self._one(request, kind, thing)
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
        if shape is Shape.TABLE:
            body = table(kind, page.items, metadata, query, self._objects.now())
            return _json(body)
        if shape is Shape.METADATA:
            return _json(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": [metadata_only(thing) for thing in page.items],
                }
            )
        return web.Response(body=_list(kind, page.items, metadata), content_type="application/json")

    async def _watch(
        self, request: web.Request, target: Target, selects: Any
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

    def _one(
        self, request: web.Request, kind: Kind, thing: Stored, code: int = 200
    ) -> web.Response:
        shape = rq.shape(request.headers.get("Accept", ""))
        if shape is Shape.TABLE:
            metadata = {"resourceVersion": str(thing.version)}
            return _json(table(kind, [thing], metadata, request.query, self._objects.now()), code)
        if shape is Shape.METADATA:
            return _json(metadata_only(thing), code)
        return web.Response(body=thing.full(kind), status=code, content_type="application/json")

    # -- Write --------------------------------------------------------------------------------

    def _options(self, request: web.Request) -> Options:
        query = request.query
        validation = query.get("fieldValidation", "Warn")
        if validation not in ("Ignore", "Warn", "Strict"):
            known = ["Ignore", "Strict", "Warn"]
            cause = st.unsupported("fieldValidation", validation, known)
            raise st.invalid("meta.k8s.io", "CreateOptions", "", [cause])
        dry_run = query.getall("dryRun", [])
        if dry_run and dry_run != ["All"]:
            cause = st.unsupported("dryRun", dry_run, ["All"])
            raise st.invalid("meta.k8s.io", "CreateOptions", "", [cause])
        agent = request.headers.get("User-Agent", "").partition("/")[0]
        return Options(
            dry_run=bool(dry_run),
            field_validation=validation,
            field_manager=query.get("fieldManager") or agent or "unknown",
            force=rq.flag(query, "force"),
        )

    def _create(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind = target.kind
        if target.subresource == "token":
            return _json(self._access.issue(target, content), 201)
        if kind.create_only:
            return _json(self._access.review(request, kind, content), 201)
        if target.name:
            raise st.method_not_allowed()
        options = self._options(request)
        namespace = target.namespace
        stored = self._objects.create(kind, namespace, content, options)
        return self._written(request, kind, stored, options, 201)

    def _update(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind, options = target.kind, self._options(request)
        if not target.name:
            raise st.method_not_allowed()
        if target.subresource == "scale":
            replicas = (content.get("spec") or {}).get("replicas", 0)
            change = {"spec": {"replicas": replicas}}
            return self._scaled(target, lambda body: merge(body, change), options)
        stored, created = self._objects.update(
            kind, target.namespace, target.name, content, target.subresource, options
        )
        return self._written(request, kind, stored, options, 201 if created else 200)

    def _patch(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind, options = target.kind, self._options(request)
        how = rq.patch_type(request.headers.get("Content-Type", ""))
        if how == "strategic" and kind.custom:
            raise st.unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, "
                "application/apply-patch+yaml"
            )
        change: Callable[[Json], Json]
        if how == "json":
            change = lambda body: json_patch(body, content)  # noqa: E731
        elif how == "merge":
            change = lambda body: merge(body, content)  # noqa: E731
        else:
            change = lambda body: strategic_merge(body, content)  # noqa: E731
        if target.subresource == "scale":
            return self._scaled(target, change, options)
        stored = self._objects.modify(
            kind, target.namespace, target.name, change, target.subresource, options
        )
        return self._written(request, kind, stored, options, 200)

    def _scaled(
        self, target: Target, change: Callable[[Json], Json], options: Options
    ) -> web.Response:
        def scaled(body: Json) -> Json:
            wanted = change(scale_of(Stored(body, 0)))
            merged: Json = merge(body, {"spec": {"replicas": wanted["spec"]["replicas"]}})
            return merged

        stored = self._objects.modify(
            target.kind, target.namespace, target.name, scaled, options=options
        )
        return _json(scale_of(stored))

    def _written(
        self, request: web.Request, kind: Kind, stored: Stored, options: Options, code: int
    ) -> web.Response:
        response = self._one(request, kind, stored, code)
        for text in options.warnings:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    def _delete(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind, asked = target.kind, content or {}
        options = self._options(request)
        if asked.get("dryRun"):
            options.dry_run = True
        found = asked.get("preconditions") or {}
        preconditions = Preconditions(found.get("uid"), found.get("resourceVersion"))
        propagation = asked.get("propagationPolicy") or request.query.get("propagationPolicy", "")
        if not target.name:
            return self._delete_all(request, target, propagation, options)
        thing, gone = self._objects.delete(
            kind, target.namespace, target.name, preconditions, propagation, options
        )
        if not gone or kind.plural in ("services", "pods"):
            return self._one(request, kind, thing)
        details = {"name": target.name, "kind": kind.plural, "uid": thing.metadata["uid"]}
        if kind.group:
            details["group"] = kind.group
        return _json(st.success(details))

    def _delete_all(
        self, request: web.Request, target: Target, propagation: str, options: Options
    ) -> web.Response:
        kind, query = target.kind, request.query
        selects = selection(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        collection = self._objects.store.collection(kind.key)
        found = [
            (key, thing)
            for key, thing in collection.in_order(target.namespace)
            if selects is None or selects(thing)
        ]
        for key, _ in found:
            self._objects.delete(kind, *key, None, propagation, options)
        metadata = {"resourceVersion": str(self._objects.store.version)}
        body = _list(kind, [thing for _, thing in found], metadata)
        return web.Response(body=body, content_type="application/json")


def scale_of(thing: Stored) -> Json:
    metadata = {
        name: thing.metadata[name]
        for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if name in thing.metadata
    }
    spec = thing.body.get("spec") or {}
    status: Json = {"replicas": (thing.body.get("status") or {}).get("replicas", 0)}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    if labels:
        status["selector"] = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": status,
    }


def _list(kind: Kind, items: list[Stored], metadata: Json) -> bytes:
    """Items of a built-in kind come without their kind, those of a custom one with it."""
    head = {"kind": kind.many, "apiVersion": kind.api_version, "metadata": metadata}
    each = [thing.full(kind) if kind.custom else thing.bare for thing in items]
    return encode(head)[:-1] + b',"items":[' + b",".join(each) + b"]}"


def _json(body: Any, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    if isinstance(body, str):
        return web.Response(text=body, status=code, headers=headers)
    return web.Response(
        body=encode(body), status=code, headers=headers, content_type="application/json"
    )

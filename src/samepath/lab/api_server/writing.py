"""POST, PUT, PATCH and DELETE of objects and collections.

Called by `serving`, after the request was let in. Kubernetes API: CreateOptions, UpdateOptions,
PatchOptions, DeleteOptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from samepath.lab.api_server import answers
from samepath.lab.api_server import requests as rq
from samepath.lab.api_server import status as st
from samepath.lab.api_server.access import Access
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options, Preconditions
from samepath.lab.api_server.ownership import Ownership
from samepath.lab.api_server.patches import json_patch, merge, strategic_merge
from samepath.lab.api_server.requests import Target
from samepath.lab.api_server.selectors import selection
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored


class Writing:
    def __init__(self, objects: Objects, access: Access, ownership: Ownership) -> None:
        self._objects = objects
        self._access = access
        self._ownership = ownership

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

    def create(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind = target.kind
        if target.subresource == "token":
            return answers.json(self._access.issue(target, content), 201)
        if kind.create_only:
            return answers.json(self._access.review(request, kind, content), 201)
        if target.name:
            raise st.method_not_allowed()
        options = self._options(request)
        namespace = target.namespace
        stored = self._objects.create(kind, namespace, content, options)
        return self._written(request, kind, stored, options, 201)

    def update(self, request: web.Request, target: Target, content: Any) -> web.Response:
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

    def patch(self, request: web.Request, target: Target, content: Any) -> web.Response:
        kind, options = target.kind, self._options(request)
        how = rq.patch_type(request.headers.get("Content-Type", ""))
        if how == "strategic" and kind.custom:
            raise st.unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, "
                "application/apply-patch+yaml"
            )
        change: Callable[[Json], Json]
        if how == "apply":
            return self._apply(request, target, content, options)
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

    def _apply(
        self, request: web.Request, target: Target, content: Any, options: Options
    ) -> web.Response:
        """Server-side apply, which creates what is not there."""
        if not request.query.get("fieldManager"):
            cause = st.required("fieldManager", "is required for apply patch")
            raise st.invalid("meta.k8s.io", "PatchOptions", "", [cause])
        if not isinstance(content, dict):
            raise st.bad_request("error decoding YAML: an object is expected")
        if (content.get("metadata") or {}).get("managedFields"):
            raise st.bad_request("metadata.managedFields must be nil")
        kind, key = target.kind, (target.namespace, target.name)
        subresource = target.subresource

        def change(body: Json) -> Json:
            return self._ownership.apply(kind, body, content, subresource, options)

        if self._objects.store.get(kind.key, key) is None and not subresource:
            empty: Json = {"metadata": {"name": target.name}}
            applied = {**change(empty), "apiVersion": content.get("apiVersion", kind.api_version)}
            stored = self._objects.create(kind, target.namespace, applied, options)
            return self._written(request, kind, stored, options, 201)
        stored = self._objects.modify(kind, *key, change, subresource, options)
        return self._written(request, kind, stored, options, 200)

    def _scaled(
        self, target: Target, change: Callable[[Json], Json], options: Options
    ) -> web.Response:
        def scaled(body: Json) -> Json:
            wanted = change(answers.scale_of(Stored(body, 0)))
            merged: Json = merge(body, {"spec": {"replicas": wanted["spec"]["replicas"]}})
            return merged

        stored = self._objects.modify(
            target.kind, target.namespace, target.name, scaled, options=options
        )
        return answers.json(answers.scale_of(stored))

    def _written(
        self, request: web.Request, kind: Kind, stored: Stored, options: Options, code: int
    ) -> web.Response:
        response = answers.one(request, kind, stored, self._objects.now(), code)
        for text in options.warnings:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    def delete(self, request: web.Request, target: Target, content: Any) -> web.Response:
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
            return answers.one(request, kind, thing, self._objects.now())
        details = {"name": target.name, "kind": kind.plural, "uid": thing.metadata["uid"]}
        if kind.group:
            details["group"] = kind.group
        return answers.json(st.success(details))

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
        things = [thing for _, thing in found]
        return answers.many(request, kind, things, metadata, self._objects.now())

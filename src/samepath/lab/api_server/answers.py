"""What goes back over HTTP: an object, a list, a Status, each in the shape that was asked for."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from samepath.lab.api_server import requests as rq
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.requests import Shape
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored, encode
from samepath.lab.api_server.views import metadata_only, table


def one(request: web.Request, kind: Kind, thing: Stored, now: str, code: int = 200) -> web.Response:
    shape = rq.shape(request.headers.get("Accept", ""))
    if shape is Shape.TABLE:
        metadata = {"resourceVersion": str(thing.version)}
        return json(table(kind, [thing], metadata, request.query, now), code)
    if shape is Shape.METADATA:
        return json(metadata_only(thing), code)
    return web.Response(body=thing.full(kind), status=code, content_type="application/json")


def many(
    request: web.Request, kind: Kind, items: list[Stored], metadata: Json, now: str
) -> web.Response:
    """Items of a built-in kind come without their kind, those of a custom one with it."""
    shape = rq.shape(request.headers.get("Accept", ""))
    if shape is Shape.TABLE:
        return json(table(kind, items, metadata, request.query, now))
    if shape is Shape.METADATA:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return json({**head, "metadata": metadata, "items": [metadata_only(one) for one in items]})
    head = {"kind": kind.many, "apiVersion": kind.api_version}
    each = [thing.full(kind) if kind.custom else thing.bare for thing in items]
    whole = encode({**head, "metadata": metadata})[:-1] + b',"items":[' + b",".join(each) + b"]}"
    return web.Response(body=whole, content_type="application/json")


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


def json(body: Any, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=encode(body), status=code, headers=headers, content_type="application/json"
    )

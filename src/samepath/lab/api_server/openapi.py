"""OpenAPI, as far as `kubectl` asks for it: which requests validate fields, and what `kubectl
explain` shows.

Kubernetes API: OpenAPI v3 (KEP-2896); schemas of built-in kinds are of `shapes`. OpenAPI v2 is not
served: kubectl asks for it only where v3 is absent.
"""

from __future__ import annotations

from samepath.lab.api_server import shapes
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.registry import Registry
from samepath.lab.api_server.status import Json, no_such_path


def index(registry: Registry) -> Json:
    paths: dict[str, Json] = {}
    for kind in registry.all():
        path = f"apis/{kind.api_version}" if kind.group else f"api/{kind.version}"
        # The hash is part of the cache's key: it follows what is served.
        url = f"/openapi/v3/{path}?hash={registry.revision:016X}"
        paths[path] = {"serverRelativeURL": url}
    return {"paths": paths}


def group_version(registry: Registry, path: str) -> Json:
    root, _, rest = path.partition("/")
    kinds = [kind for kind in registry.all() if kind.api_version == rest]
    if not kinds or (root == "api") is not (kinds[0].group == ""):
        raise no_such_path()
    paths: Json = {}
    schemas: Json = {}
    for kind in kinds:
        name = _name(kind)
        paths[_path(kind, path)] = _operations(kind, name)
        schemas[name] = _schema(kind, schemas)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _path(kind: Kind, root: str) -> str:
    place = "namespaces/{namespace}/" if kind.namespaced else ""
    return f"/{root}/{place}{kind.plural}/{{name}}"


def _name(kind: Kind) -> str:
    group = ".".join(reversed((kind.group or "core.api.k8s.io").split(".")))
    return f"{group}.{kind.version}.{kind.kind}"


def _of(kind: Kind) -> Json:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _operations(kind: Kind, schema: str) -> Json:
    def operation(action: str, parameters: tuple[str, ...]) -> Json:
        answer = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
        return {
            "parameters": [
                {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
                for name in parameters
            ],
            "responses": {"200": {"description": "OK", "content": {"application/json": answer}}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _of(kind),
        }

    written = ("dryRun", "fieldManager", "fieldValidation")
    return {
        "get": operation("get", ("pretty",)),
        "put": operation("put", written),
        "patch": operation("patch", (*written, "force")),
        "delete": operation("delete", ("dryRun", "propagationPolicy")),
    }


def _schema(kind: Kind, schemas: Json) -> Json:
    """Puts what it is made of beside it."""
    schema = dict(kind.schema or {"type": "object"})
    if not kind.custom and (found := shapes.schema_of(kind)) is not None:
        for name in sorted(shapes.names_within(shapes.name_of(kind))):
            schemas.setdefault(_of_shape(name), _referring(shapes.resolve(name)))
        schema = _referring(found)
    properties = dict(schema.get("properties") or {})
    for name in ("apiVersion", "kind"):
        properties[name] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    return {
        **schema,
        "properties": properties,
        "x-kubernetes-group-version-kind": [_of(kind)],
    }


def _referring(schema: Json) -> Json:
    """The same with references as OpenAPI writes them."""
    found: Json = {}
    for name, value in schema.items():
        # A schema of schemas has a field of that name, which is a schema.
        if name == "$ref" and isinstance(value, str):
            found[name] = f"#/components/schemas/{_of_shape(value)}"
        elif isinstance(value, dict):
            found[name] = _referring(value)
        else:
            found[name] = value
    return found


def _of_shape(name: str) -> str:
    """kubectl shows what is behind the last dot."""
    return f"io.k8s.api.v1.{name.removeprefix('V1')}"

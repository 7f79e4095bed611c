"""What a request asks for: its path, its parameters, its body and the shape of the answer.

Kubernetes API concepts: API URIs, alternate representations (Table, PartialObjectMetadata).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from samepath.lab.api_server import protobuf
from samepath.lab.api_server.kinds import NAMESPACES, Kind
from samepath.lab.api_server.registry import Registry
from samepath.lab.api_server.status import bad_request, no_such_path, unsupported_media_type

_TYPES = "application/json, application/yaml"
_PATCHES = (
    "application/json-patch+json, application/merge-patch+json, "
    "application/strategic-merge-patch+json, application/apply-patch+yaml"
)


class Shape(enum.Enum):
    OBJECT = "object"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


@dataclass(frozen=True, slots=True)
class Target:
    """`subresource` "" is the object itself; `name` "" is the collection."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def verb(self, method: str, watch: bool) -> str:
        if method in ("GET", "HEAD"):
            return "get" if self.name else "watch" if watch else "list"
        if method == "DELETE":
            return "delete" if self.name else "deletecollection"
        return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


def target(registry: Registry, parts: list[str]) -> Target:
    """Of the path behind `/api` or `/apis`. Raises StatusError 404."""
    if parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    else:
        group, version, rest = parts[1], parts[2], parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    kind = registry.find(group, version, rest[0])
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    offered = (*kind.subresources, "token") + (("finalize",) if kind == NAMESPACES else ())
    if len(rest) > 3 or (subresource and subresource not in offered):
        raise no_such_path()
    if namespace and not kind.namespaced:
        raise no_such_path()
    if name and kind.namespaced and not namespace:
        raise no_such_path()
    return Target(kind, namespace, name, subresource)


def shape(accept: str) -> Shape:
    """The first that we know of what is accepted."""
    for part in accept.split(","):
        if found := re.search(r"as=(\w+)", part):
            if "g=meta.k8s.io" in part.replace(" ", ""):
                if found[1] == "Table":
                    return Shape.TABLE
                if found[1].startswith("PartialObjectMetadata"):
                    return Shape.METADATA
        elif "json" in part or "*/*" in part:
            return Shape.OBJECT
    return Shape.OBJECT


def body(content_type: str, data: bytes) -> Any:
    """Raises StatusError."""
    type = content_type.partition(";")[0].strip()
    if not data:
        return None
    if type in ("application/yaml", "application/apply-patch+yaml"):
        return _yaml(data)
    if type in ("", "*/*") or type.endswith("json"):
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    if type == "application/vnd.kubernetes.protobuf":
        return protobuf.decode(data)
    raise unsupported_media_type(_TYPES)


def _yaml(data: bytes) -> Any:
    try:
        if data[:1] in b"{[":
            return msgspec.json.decode(data)
        return yaml.load(data, Loader=_Loader)
    except (yaml.YAMLError, msgspec.DecodeError) as error:
        raise bad_request(f"error decoding YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Times stay text, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [one for one in found if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def patch_type(content_type: str) -> str:
    """merge, json, strategic or apply."""
    type = content_type.partition(";")[0].strip()
    found = {
        "application/merge-patch+json": "merge",
        "application/json-patch+json": "json",
        "application/strategic-merge-patch+json": "strategic",
        "application/apply-patch+yaml": "apply",
    }.get(type)
    if found is None:
        raise unsupported_media_type(_PATCHES)
    return found


def flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true", "t")


def count(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    try:
        return int(text or 0)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None

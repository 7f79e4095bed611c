"""Patches: RFC 7386 (merge) and RFC 6902 (JSON patch, with RFC 6901's pointers), and Kubernetes'
strategic merge, in which lists of named things are merged by key.

All take and give plain data, and change nothing in place.

Not done of the strategic merge: `$retainKeys` beyond removing the directive itself.
"""

from __future__ import annotations

from typing import Any

from samepath.lab.api_server.status import Json, StatusError, bad_request
from samepath.lab.api_server.store import clone


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


# -- RFC 6902 ---------------------------------------------------------------------------------


class _Missing(Exception):
    pass


def json_patch(target: Any, operations: Any) -> Any:
    """Raises StatusError: 400 for what is no patch, 422 for one that does not fit."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value")
    result = clone(target)
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or "path" not in operation:
            raise bad_request("error decoding patch: an operation has op and path")
        try:
            result = _apply(result, operation)
        except (_Missing, LookupError, ValueError) as error:
            raise _unfit(operation, str(error)) from error
    return result


def _unfit(operation: Json, why: str) -> StatusError:
    op, path = operation["op"], operation["path"]
    texts = {
        "test": f"testing value {path} failed: test failed",
        "remove": f"remove operation does not apply: doc is missing key: {path}: missing value",
        "replace": f"replace operation does not apply: doc is missing key: {path}: missing value",
        "add": f"add operation does not apply: doc is missing path: {path!r}: missing value",
    }
    text = texts.get(op, f"Unexpected kind: {op}: {why}")
    return StatusError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {text}"
    )


def _apply(document: Any, operation: Json) -> Any:
    op, path = operation["op"], _pointer(operation["path"])
    if op in ("add", "replace", "test") and "value" not in operation:
        raise ValueError("no value")
    if op == "test":
        if _at(document, path) != operation["value"]:
            raise _Missing(operation["path"])
    elif op == "add":
        document = _put(document, path, clone(operation["value"]), insert=True)
    elif op == "replace":
        _at(document, path)
        document = _put(document, path, clone(operation["value"]), insert=False)
    elif op == "remove":
        _remove(document, path)
    elif op in ("move", "copy"):
        source = _pointer(operation["from"])
        value = clone(_at(document, source))
        if op == "move":
            _remove(document, source)
        document = _put(document, path, value, insert=True)
    else:
        raise ValueError(op)
    return document


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(f"no pointer: {text}")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(part: str, items: list[Any], *, insert: bool = False) -> int:
    """`-` is behind the last, where only something new can be."""
    end = len(items) if insert else len(items) - 1
    index = end if insert and part == "-" else int(part)
    if not 0 <= index <= end:
        raise IndexError(part)
    return index


def _at(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, list):
            document = document[_index(part, document)]
        elif isinstance(document, dict):
            document = document[part]
        else:
            raise _Missing(part)
    return document


def _put(document: Any, path: list[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        index = _index(path[-1], parent, insert=insert)
        if insert:
            parent.insert(index, value)
        else:
            parent[index] = value
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise _Missing(path[-1])
    return document


def _remove(document: Any, path: list[str]) -> None:
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        del parent[_index(path[-1], parent)]
    elif isinstance(parent, dict):
        del parent[path[-1]]
    else:
        raise _Missing(path[-1])


# -- Strategic merge --------------------------------------------------------------------------

MERGE_KEYS: dict[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
    "addresses": "type",
    "taints": "key",
    "ownerReferences": "uid",
    "secrets": "name",
    "podIPs": "ip",
}
"""Lists that are merged by a key (patchMergeKey of the Go types), by the field's name; `ports` by
what holds it. `addresses` of an EndpointSlice's endpoints are strings, and replaced."""

MERGED_SETS = frozenset({"finalizers", "podCIDRs"})
"""Lists of scalars that are merged as sets."""


def merge_key(path: tuple[str, ...]) -> str | None:
    name = path[-1] if path else ""
    if name == "taints":
        return None  # replaced: its Go type has no patchStrategy
    if name == "ports":
        return "containerPort" if "containers" in path or "initContainers" in path else "port"
    return MERGE_KEYS.get(name)


def strategic_merge(target: Any, patch: Json, path: tuple[str, ...] = ()) -> Any:
    """With its directives: $patch, $deleteFromPrimitiveList/..., $setElementOrder/..."""
    directive = patch.get("$patch")
    if directive == "replace":
        return clone({k: v for k, v in patch.items() if k != "$patch"})
    if directive == "delete":
        return {}
    result: Json = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [one for one in result.get(field) or [] if one not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = strategic_merge(result.get(name), value, (*path, name))
        elif isinstance(value, list):
            result[name] = _merge_lists(result.get(name) or [], value, (*path, name))
        else:
            result[name] = value
    for name, order in patch.items():
        field = name.removeprefix("$setElementOrder/")
        if field != name and isinstance(result.get(field), list):
            result[field] = _ordered(result[field], order, merge_key((*path, field)))
    return result


def _merge_lists(present: list[Any], patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    key = merge_key(path)
    if path[-1] in MERGED_SETS:
        return [*present, *(one for one in patch if one not in present)]
    if key is None or not all(isinstance(one, dict) for one in (*present, *patch)):
        return list(clone(patch))
    if any(one == {"$patch": "replace"} for one in patch):
        return [clone(one) for one in patch if "$patch" not in one]
    result = list(present)
    for one in patch:
        if key not in one:
            raise bad_request(f"map: {one} does not contain declared merge key: {key}")
        places = [i for i, other in enumerate(result) if other.get(key) == one[key]]
        if one.get("$patch") == "delete":
            result = [other for other in result if other.get(key) != one[key]]
        elif places:
            result[places[0]] = strategic_merge(result[places[0]], one, path)
        else:
            result.append(strategic_merge({}, one, path))
    return result


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """As the directive says; what it does not name keeps its place behind."""
    wanted = [one.get(key) if key and isinstance(one, dict) else one for one in order]

    def rank(item: Any) -> int:
        named = item.get(key) if key and isinstance(item, dict) else item
        return wanted.index(named) if named in wanted else len(wanted)

    return sorted(items, key=rank)

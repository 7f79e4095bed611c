"""Server-side apply: which manager has said which field, conflicts, and what goes when its only
owner no longer says it. Field sets are sets of paths; `metadata.managedFields` holds them.

`Ownership` notes who has changed what with every other write, too.

Simplified: ownership is not carried from one version of a kind to another; a manager keeps one time
for all its fields; atomic structs are known by `_ATOMIC` alone for built-in kinds.

Kubernetes: server-side apply (KEP-555), structured-merge-diff, FieldsV1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options
from samepath.lab.api_server.status import Json, StatusError
from samepath.lab.api_server.store import Stored, clone

Path = tuple[str, ...]
"""Steps as in FieldsV1: `f:spec`, `k:{"port":80}`, `v:"text"`."""

_NOT_OWNED = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
_LIST_KEYS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("spec", "ports"): ("port", "protocol"),
    ("containers", "ports"): ("containerPort", "protocol"),
    ("containers",): ("name",),
    ("initContainers",): ("name",),
    ("env",): ("name",),
    ("volumes",): ("name",),
    ("volumeMounts",): ("mountPath",),
    ("imagePullSecrets",): ("name",),
    ("conditions",): ("type",),
    ("status", "addresses"): ("type",),
    ("ownerReferences",): ("uid",),
}
_SETS = (("metadata", "finalizers"), ("spec", "podCIDRs"))
_ATOMIC = frozenset(
    {"selector", "nodeSelector", "roleRef", "secretRef", "fieldRef", "resourceFieldRef"}
)
_DEFAULT_KEYS = {"protocol": "TCP"}


@dataclass(frozen=True, slots=True)
class Manager:
    name: str
    operation: str
    api_version: str
    subresource: str = ""


Sets = dict[Manager, set[Path]]


class Ownership:
    def __init__(self, objects: Objects) -> None:
        self._now = objects.now
        objects.registry.tracking = self._track

    def _track(
        self, kind: Kind, old: Stored | None, new: Json, subresource: str, options: Options
    ) -> None:
        """What this write has changed is its manager's now."""
        metadata = new["metadata"]
        if options.applied or not options.field_manager:
            return
        if metadata.get("managedFields") in ([], [{}]):
            metadata.pop("managedFields")
            return
        manager = Manager(options.field_manager, "Update", kind.api_version, subresource)
        sets = decode(metadata.get("managedFields"))
        before = {} if old is None else values(kind, old.body)
        now = values(kind, new)
        changed = {path for path, value in now.items() if before.get(path, _NOTHING) != value}
        removed = before.keys() - now.keys()
        if not changed and not removed:
            return
        for other, paths in sets.items():
            paths -= removed
            if other != manager:
                paths -= changed
        sets.setdefault(manager, set()).update(changed)
        metadata["managedFields"] = encode(sets, metadata.get("managedFields"), self._now())

    def apply(
        self, kind: Kind, live: Json, applied: Json, subresource: str, options: Options
    ) -> Json:
        """The live object with what this manager now says. Raises StatusError 409."""
        options.applied = True
        metadata = live["metadata"]
        manager = Manager(options.field_manager, "Apply", kind.api_version, subresource)
        sets = decode(metadata.get("managedFields"))
        said, present = values(kind, applied), values(kind, live)
        foreign = {other: paths for other, paths in sets.items() if other != manager}
        conflicts = [
            (other, path)
            for other, paths in foreign.items()
            for path in sorted(paths & said.keys())
            if path in present and present[path] != said[path]
        ]
        if conflicts and not options.force:
            raise _conflict(conflicts)
        for other, path in conflicts:
            sets[other].discard(path)
        result = _merged(kind, live, applied)
        kept = set().union(*foreign.values()) if foreign else set()
        dropped = sets.get(manager, set()) - said.keys() - kept
        # Items of lists first, while they still have the fields that tell them apart.
        for path in sorted(dropped, key=lambda path: (path[-1] != ".", path)):
            _remove(result, path, kept)
        was = metadata.get("managedFields")
        sets[manager] = set(said)
        result["metadata"]["managedFields"] = encode(sets, was, self._now())
        return result


_NOTHING = object()


def values(kind: Kind, body: Json) -> dict[Path, Any]:
    """Every field that can be owned, and what it says."""
    found: dict[Path, Any] = {}
    for path, value in _walk(kind, body, (), (), kind.schema):
        found[path] = value
    return found


def _walk(
    kind: Kind, value: Any, path: Path, names: tuple[str, ...], schema: Json | None
) -> Iterator[tuple[Path, Any]]:
    schema = schema or {}
    if isinstance(value, dict) and not _is_atomic(kind, names, schema) and (value or not names):
        properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, one in value.items():
            if (not names and name in ("apiVersion", "kind")) or (
                names == ("metadata",) and name in _NOT_OWNED
            ):
                continue
            part = properties.get(name) or (rest if isinstance(rest, dict) else None)
            yield from _walk(kind, one, (*path, f"f:{name}"), (*names, name), part)
        return
    keys = _keys(kind, names, schema) if isinstance(value, list) else None
    if keys is None:
        yield path, value
        return
    for one in value:
        step = _item(one, keys)
        if not keys:
            yield (*path, step), one
            continue
        yield (*path, step, "."), True
        items = schema.get("items")
        yield from _walk(kind, one, (*path, step), names, items)


def _is_atomic(kind: Kind, names: tuple[str, ...], schema: Json) -> bool:
    if kind.custom:
        return schema.get("x-kubernetes-map-type") == "atomic"
    return bool(names) and names[-1] in _ATOMIC and names[:1] != ("metadata",)


def _keys(kind: Kind, names: tuple[str, ...], schema: Json) -> tuple[str, ...] | None:
    """Of a list: None atomic, () a set, else the keys of its items."""
    if kind.custom and names[:1] != ("metadata",):
        type = schema.get("x-kubernetes-list-type")
        if type == "map":
            return tuple(schema.get("x-kubernetes-list-map-keys") or ())
        return () if type == "set" else None
    if names in _SETS:
        return ()
    return _LIST_KEYS.get(names[-2:]) or _LIST_KEYS.get(names[-1:])


def _item(one: Any, keys: tuple[str, ...]) -> str:
    if not keys:
        return "v:" + json.dumps(one, separators=(",", ":"))
    found = {key: one.get(key, _DEFAULT_KEYS.get(key)) for key in keys}
    return "k:" + json.dumps(found, separators=(",", ":"), sort_keys=True)


# -- FieldsV1 ---------------------------------------------------------------------------------


def decode(managed: list[Json] | None) -> Sets:
    found: Sets = {}
    for entry in managed or ():
        manager = Manager(
            entry.get("manager", ""),
            entry.get("operation", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        found.setdefault(manager, set()).update(_paths(entry.get("fieldsV1") or {}, ()))
    return found


def _paths(fields: Json, path: Path) -> Iterator[Path]:
    for step, below in fields.items():
        if step == ".":
            yield (*path, ".")
        elif below:
            yield from _paths(below, (*path, step))
        else:
            yield (*path, step)


def encode(sets: Sets, was: list[Json] | None, now: str) -> list[Json]:
    times = {}
    for entry in was or ():
        key = entry.get("manager"), entry.get("operation"), entry.get("subresource", "")
        times[key] = entry.get("time"), entry.get("fieldsV1")
    found = []
    for manager, paths in sets.items():
        if not paths:
            continue
        fields: Json = {}
        for path in sorted(paths):
            here = fields
            for step in path:
                here = here.setdefault(step, {})
        time, before = times.get(
            (manager.name, manager.operation, manager.subresource), (now, None)
        )
        entry = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": time if before == fields else now,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        found.append(entry)
    return found


# -- Merge ------------------------------------------------------------------------------------


def _merged(kind: Kind, live: Json, applied: Json) -> Json:
    said = {k: v for k, v in applied.items() if k not in ("apiVersion", "kind")}
    result = clone(live)
    metadata = {k: v for k, v in (said.pop("metadata", None) or {}).items() if k not in _NOT_OWNED}
    parts: tuple[tuple[Json, Json, tuple[str, ...]], ...] = (
        (result, said, ()),
        (result["metadata"], metadata, ("metadata",)),
    )
    for target, part, names in parts:
        _merge_into(kind, target, part, names, kind.schema if not names else None)
    return dict(result)


def _merge_into(
    kind: Kind, target: Json, said: Json, names: tuple[str, ...], schema: Json | None
) -> None:
    properties = (schema or {}).get("properties") or {}
    for name, value in said.items():
        below, part = (*names, name), properties.get(name) or {}
        present = target.get(name)
        is_map = isinstance(value, dict) and not _is_atomic(kind, below, part)
        if is_map and isinstance(present, dict):
            _merge_into(kind, present, value, below, part)
            continue
        keys = _keys(kind, below, part) if isinstance(value, list) else None
        if keys is None or not isinstance(present, list):
            target[name] = clone(value)
        else:
            _merge_list(kind, present, value, keys, below, part.get("items"))


def _merge_list(
    kind: Kind,
    present: list[Any],
    said: list[Any],
    keys: tuple[str, ...],
    names: tuple[str, ...],
    schema: Json | None,
) -> None:
    places = {_item(one, keys): index for index, one in enumerate(present)}
    for one in said:
        index = places.get(_item(one, keys))
        if index is None:
            present.append(clone(one))
        elif keys:
            _merge_into(kind, present[index], one, names, schema)


def _remove(body: Json, path: Path, kept: set[Path]) -> None:
    """A field that nobody says any more; what it leaves empty goes as well. The item of a list goes
    with all in it, unless another has said a part of it."""
    here: Any = body
    trail: list[tuple[Any, Any]] = []
    steps = path[:-1] if path[-1] == "." else path
    if steps != path and any(other[: len(steps)] == steps for other in kept):
        return
    for step in steps:
        place = _place(here, step)
        if place is None:
            return
        trail.append((here, place))
        here = here[place]
    for holder, place in reversed(trail):
        if holder is not trail[-1][0] and holder[place] not in ({}, []):
            return
        del holder[place]


def _place(here: Any, step: str) -> Any:
    if step.startswith("f:"):
        name = step[2:]
        return name if isinstance(here, dict) and name in here else None
    if not isinstance(here, list):
        return None
    wanted = json.loads(step[2:])
    for index, one in enumerate(here):
        if step.startswith("v:"):
            same = one == wanted
        else:
            same = all(one.get(k, _DEFAULT_KEYS.get(k)) == v for k, v in wanted.items())
        if same:
            return index
    return None


# -- Conflicts --------------------------------------------------------------------------------


def _conflict(conflicts: list[tuple[Manager, Path]]) -> StatusError:
    by_manager: dict[Manager, list[str]] = {}
    for manager, path in conflicts:
        by_manager.setdefault(manager, []).append(_shown(path))
    causes, texts = [], []
    for manager, fields in sorted(by_manager.items(), key=lambda item: item[0].name):
        sub = f" with subresource {json.dumps(manager.subresource)}" if manager.subresource else ""
        who = f'"{manager.name}"{sub} using {manager.api_version}'
        if len(fields) == 1:
            texts.append(f"conflict with {who}: {fields[0]}")
        else:
            texts.append(f"conflicts with {who}:\n" + "\n".join(f"- {one}" for one in fields))
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": one}
            for one in fields
        ]
    many = "conflict" if len(conflicts) == 1 else "conflicts"
    text = f"Apply failed with {len(conflicts)} {many}: " + "\n".join(texts)
    return StatusError(409, "Conflict", text, {"causes": causes})


def _shown(path: Path) -> str:
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        elif step.startswith("k:"):
            pairs = json.loads(step[2:]).items()
            text += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in pairs) + "]"
        elif step.startswith("v:"):
            text += f"[={step[2:]}]"
    return text

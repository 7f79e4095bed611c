"""The server's state in a file: every object and the version, as JSON, written as a whole.

For a process that is to come back with the same state, or with an older one (a copy of the file
from before): `python -m samepath.lab.api_server --state FILE`.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Snapshot, Stored


class _Resource(msgspec.Struct):
    group: str
    plural: str
    objects: list[Json]


class _State(msgspec.Struct):
    version: int
    resources: list[_Resource]


def write(path: Path, snapshot: Snapshot) -> None:
    version, collections = snapshot
    resources = [
        _Resource(group, plural, [objects[key].body for key in sorted(objects)])
        for (group, plural), objects in collections.items()
    ]
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(_State(version, resources)))
    new.replace(path)


def read(path: Path) -> Snapshot:
    """Raises OSError, ValueError."""
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    collections = {}
    for resource in state.resources:
        objects = {}
        for body in resource.objects:
            metadata = body["metadata"]
            key = metadata.get("namespace", ""), metadata["name"]
            objects[key] = Stored(body, int(metadata["resourceVersion"]))
        collections[resource.group, resource.plural] = objects
    return state.version, collections

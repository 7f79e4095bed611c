"""Objects in memory, the version of each, and the log of changes from which lists of old versions
and watches are served.

What is stored is never changed in place: a writer hands over a new body, readers may keep the old.
Bodies are without `kind` and `apiVersion`, which are the reader's (a CustomResourceDefinition
serves one object in several versions). JSON is encoded once for each version of an object and once
for each event, however many read it.

Not done: durability (`snapshot` gives what `persistence` writes), versions of the log by time: it
is cut by `compact`, or when it outgrows `LOG_LIMIT`.

Kubernetes API concepts: resource versions, efficient detection of changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, dropwhile
from typing import Any

import msgspec

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.status import Json

Key = tuple[str, str]
"""Namespace ("" for what has none) and name: lists are in this order."""

LOG_LIMIT = 200_000
FIRST_VERSION = 1000

encode = msgspec.json.Encoder().encode


def clone(value: Any) -> Any:
    """A deep copy of plain data."""
    if isinstance(value, dict):
        return {name: clone(one) for name, one in value.items()}
    return [clone(one) for one in value] if isinstance(value, list) else value


class Stored:
    """One version of one object."""

    __slots__ = ("_bare", "body", "version")

    def __init__(self, body: Json, version: int) -> None:
        self.body = body
        self.version = version
        self._bare: bytes | None = None

    @property
    def bare(self) -> bytes:
        """JSON without kind and apiVersion, as in the list of a built-in kind."""
        if self._bare is None:
            self._bare = encode(self.body)
        return self._bare

    @property
    def metadata(self) -> Json:
        found: Json = self.body["metadata"]
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.get("labels") or {}

    def of(self, kind: Kind) -> Json:
        return {"kind": kind.kind, "apiVersion": kind.api_version, **self.body}

    def full(self, kind: Kind) -> bytes:
        return kind.head + self.bare[1:]


@dataclass(slots=True)
class Event:
    """A change: `old` is None for a creation, `new` for a deletion."""

    version: int
    key: Key
    old: Stored | None
    new: Stored | None
    encoded: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """Lines of watches, by event type and apiVersion."""

    def line(self, type: str, kind: Kind) -> bytes:
        key = type, kind.api_version
        found = self.encoded.get(key)
        if found is None:
            thing = self.gone() if type == "DELETED" else self.new
            assert thing is not None
            found = self.encoded[key] = event_line(type, thing.full(kind))
        return found

    def gone(self) -> Stored:
        """Deleted, or no longer selected: as it was, in the version of its end."""
        assert self.old is not None
        return restamped(self.old, self.version)


def event_line(type: str, json: bytes) -> bytes:
    return b'{"type":"' + type.encode() + b'","object":' + json + b"}\n"


def restamped(thing: Stored, version: int) -> Stored:
    metadata = {**thing.metadata, "resourceVersion": str(version)}
    return Stored({**thing.body, "metadata": metadata}, version)


class Collection:
    """All objects of a resource."""

    def __init__(self) -> None:
        self.objects: dict[Key, Stored] = {}
        self.keys: list[Key] = []
        self.log: deque[Event] = deque()
        self.forgotten = 0
        """No event up to this version is in the log any more."""
        self.watchers: set[Callable[[Event | None], None]] = set()
        """Told of each event; None: the watch has to end."""

    def record(self, event: Event) -> None:
        present = event.key in self.objects
        if event.new is not None:
            self.objects[event.key] = event.new
            if not present:
                insort(self.keys, event.key)
        elif present:
            del self.objects[event.key]
            del self.keys[bisect_left(self.keys, event.key)]
        self.log.append(event)
        while len(self.log) > LOG_LIMIT:
            self.forgotten = self.log.popleft().version
        for tell in tuple(self.watchers):
            tell(event)

    def forget(self, version: int) -> None:
        while self.log and self.log[0].version <= version:
            self.log.popleft()
        self.forgotten = max(self.forgotten, version)

    def since(self, version: int) -> Iterator[Event]:
        return dropwhile(lambda event: event.version <= version, self.log)

    def in_order(self, namespace: str = "") -> Iterator[tuple[Key, Stored]]:
        if not namespace:
            return ((key, self.objects[key]) for key in self.keys)
        first = bisect_left(self.keys, (namespace, ""))
        last = bisect_left(self.keys, (namespace + "\0", ""))
        return ((key, self.objects[key]) for key in self.keys[first:last])

    def at(self, version: int, namespace: str = "") -> Iterable[tuple[Key, Stored]]:
        """As it was: what came later is taken back. The caller has asked `forgotten`."""
        undone: dict[Key, Stored | None] = {}
        for event in reversed(self.log):
            if event.version <= version:
                break
            undone[event.key] = event.old
        if not undone:
            return self.in_order(namespace)
        then = {key: thing for key, thing in self.in_order(namespace) if key not in undone}
        for key, thing in undone.items():
            if thing is not None and (not namespace or key[0] == namespace):
                then[key] = thing
        return sorted(then.items())


Snapshot = tuple[int, dict[tuple[str, str], dict[Key, Stored]]]


class Store:
    """Every collection, under one counter of versions."""

    def __init__(self) -> None:
        self.version = FIRST_VERSION
        self.compacted = 0
        self._collections: dict[tuple[str, str], Collection] = {}

    def collection(self, key: tuple[str, str]) -> Collection:
        found = self._collections.get(key)
        if found is None:
            found = self._collections[key] = Collection()
            found.forgotten = self.compacted
        return found

    def all(self) -> Mapping[tuple[str, str], Collection]:
        return self._collections

    def drop(self, key: tuple[str, str]) -> None:
        """The resource is served no more."""
        for tell in tuple(self.collection(key).watchers):
            tell(None)
        del self._collections[key]

    def get(self, resource: tuple[str, str], key: Key) -> Stored | None:
        found = self._collections.get(resource)
        return found.objects.get(key) if found else None

    def put(self, resource: tuple[str, str], key: Key, body: Json) -> Stored:
        """Stamps the body's metadata with the new version."""
        collection = self.collection(resource)
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        new = Stored(body, self.version)
        collection.record(Event(self.version, key, collection.objects.get(key), new))
        return new

    def delete(self, resource: tuple[str, str], key: Key) -> Stored:
        collection = self.collection(resource)
        old = collection.objects[key]
        self.version += 1
        collection.record(Event(self.version, key, old, None))
        return restamped(old, self.version)

    def compact(self) -> None:
        """Every old version expires."""
        self.compacted = self.version
        for collection in self._collections.values():
            collection.forget(self.version)

    def end_watches(self) -> None:
        for tell in chain.from_iterable(tuple(c.watchers) for c in self._collections.values()):
            tell(None)

    def snapshot(self) -> Snapshot:
        return self.version, {k: dict(c.objects) for k, c in self._collections.items()}

    def restore(self, snapshot: Snapshot) -> None:
        """As after a restart: the objects and the version of then, and no log."""
        self.end_watches()
        self.version, collections = snapshot
        self.compacted = self.version
        self._collections = {}
        for resource, objects in collections.items():
            collection = self.collection(resource)
            collection.objects = dict(objects)
            collection.keys = sorted(objects)

"""What a built-in kind makes of an object before it is stored, and what follows from a change:
namespaces (phase, contents, default service account), secrets, nodes, owners.

Services have `services`, CustomResourceDefinitions `crds`.

Kubernetes API: the kinds' strategies (`pkg/registry`), the namespace and garbage collectors.
"""

from __future__ import annotations

import base64

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Key, Stored, clone


class Strategies:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        objects.registry.admissions.append(self._admit)
        objects.registry.reactions.append(self._changed)
        objects.registry.endings.append(self._ending)
        objects.registry.dependents = self._has_dependents
        self._owned: dict[str, set[tuple[tuple[str, str], Key]]] = {}
        """By the uid of an owner."""

    def note_all(self) -> None:
        """As after a restart, from what is stored."""
        self._owned.clear()
        for resource, collection in self._objects.store.all().items():
            kind = self._objects.registry.of_resource(resource)
            for thing in collection.objects.values():
                self._note_owners(kind, None, thing)

    # -- Before -------------------------------------------------------------------------------

    def _admit(
        self, kind: Kind, new: Json, old: Stored | None, options: Options, subresource: str
    ) -> Json:
        if kind.key == known.NAMESPACES.key and old is None:
            new["spec"] = {"finalizers": ["kubernetes"]}
            new["status"] = {"phase": "Active"}
            labels = new["metadata"].setdefault("labels", {})
            labels["kubernetes.io/metadata.name"] = new["metadata"]["name"]
        elif kind.key == known.SECRETS.key:
            self._secret(kind, new, old)
        elif kind.key == known.PODS.key and old is None:
            new["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return new

    def _secret(self, kind: Kind, new: Json, old: Stored | None) -> None:
        for name, text in (new.pop("stringData", None) or {}).items():
            new.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()
        new.setdefault("type", "Opaque")
        if old is not None and old.body.get("type") != new["type"]:
            cause = st.invalid_value("type", new["type"], "field is immutable")
            raise st.invalid(kind.group, kind.kind, new["metadata"]["name"], [cause])

    # -- After --------------------------------------------------------------------------------

    def _changed(self, kind: Kind, old: Stored | None, new: Stored | None) -> None:
        self._note_owners(kind, old, new)
        if kind.key == known.NAMESPACES.key and old is None and new is not None:
            account: Json = {"metadata": {"name": "default"}}
            self._objects.create(known.SERVICE_ACCOUNTS, new.metadata["name"], account)
        if new is None and old is not None:
            self._collect(old)
            self._namespace_part_gone(old.metadata.get("namespace", ""))

    def _ending(self, kind: Kind, thing: Stored) -> None:
        """A deletion that waits for finalizers."""
        finalizers = thing.metadata.get("finalizers") or []
        if kind.key == known.NAMESPACES.key:
            self._end_namespace(thing)
        elif "foregroundDeletion" in finalizers or "orphan" in finalizers:
            self._end_owner(kind, thing, orphan="orphan" in finalizers)

    def _end_namespace(self, thing: Stored) -> None:
        name = thing.metadata["name"]
        body = clone(thing.body)
        body["status"] = {**body.get("status", {}), "phase": "Terminating"}
        self._objects.store.put(known.NAMESPACES.key, ("", name), body)
        for kind, key in self._contents(name):
            if self._objects.store.get(kind.key, key) is not None:
                self._objects.delete(kind, name, key[1])
        self._namespace_part_gone(name)

    def _contents(self, namespace: str) -> list[tuple[Kind, Key]]:
        registry, found = self._objects.registry, []
        for resource, collection in self._objects.store.all().items():
            keys = [key for key, _ in collection.in_order(namespace)]
            if keys:
                found += [(registry.of_resource(resource), key) for key in keys]
        return found

    def _namespace_part_gone(self, name: str) -> None:
        """The last of what a terminating namespace held takes it along."""
        found = self._objects.store.get(known.NAMESPACES.key, ("", name)) if name else None
        if found is None or "deletionTimestamp" not in found.metadata or self._contents(name):
            return
        body = clone(found.body)
        body["spec"] = {}
        new = self._objects.store.put(known.NAMESPACES.key, ("", name), body)
        if not new.metadata.get("finalizers"):
            gone = self._objects.store.delete(known.NAMESPACES.key, ("", name))
            self._objects.registry.changed(known.NAMESPACES, gone, None)

    # -- Owners -------------------------------------------------------------------------------

    def _note_owners(self, kind: Kind, old: Stored | None, new: Stored | None) -> None:
        thing = new or old
        assert thing is not None
        here = kind.key, (thing.metadata.get("namespace", ""), thing.metadata["name"])
        for uid in _owners(old):
            self._owned.get(uid, set()).discard(here)
        for uid in _owners(new):
            self._owned.setdefault(uid, set()).add(here)

    def _has_dependents(self, owner: Stored) -> bool:
        return bool(self._owned.get(owner.metadata["uid"]))

    def _collect(self, owner: Stored) -> None:
        """Background deletion: what only this one owned goes too."""
        uid = owner.metadata["uid"]
        for resource, key in sorted(self._owned.pop(uid, ())):
            found = self._objects.store.get(resource, key)
            if found is not None and all(self._gone(other, uid) for other in _owners(found)):
                self._objects.delete(self._objects.registry.of_resource(resource), *key)

    def _gone(self, uid: str, deleted: str) -> bool:
        if uid == deleted:
            return True
        return not any(
            thing.metadata["uid"] == uid
            for collection in self._objects.store.all().values()
            for thing in collection.objects.values()
        )

    def _end_owner(self, kind: Kind, owner: Stored, *, orphan: bool) -> None:
        uid = owner.metadata["uid"]
        for resource, key in sorted(self._owned.get(uid, ())):
            found = self._objects.store.get(resource, key)
            of = self._objects.registry.of_resource(resource)
            if found is None:
                continue
            if orphan:
                self._objects.modify(of, *key, lambda body: _without_owner(body, uid))
            else:
                self._objects.delete(of, *key)
        self._objects.modify(
            kind,
            owner.metadata.get("namespace", ""),
            owner.metadata["name"],
            lambda body: _without_finalizers(body, ("foregroundDeletion", "orphan")),
        )


def _owners(thing: Stored | None) -> list[str]:
    if thing is None:
        return []
    return [str(one.get("uid")) for one in thing.metadata.get("ownerReferences") or []]


def _without_owner(body: Json, uid: str) -> Json:
    kept = [one for one in body["metadata"]["ownerReferences"] if one.get("uid") != uid]
    body["metadata"]["ownerReferences"] = kept
    return body


def _without_finalizers(body: Json, names: tuple[str, ...]) -> Json:
    metadata = body["metadata"]
    metadata["finalizers"] = [one for one in metadata.get("finalizers", []) if one not in names]
    if not metadata["finalizers"]:
        del metadata["finalizers"]
    return body

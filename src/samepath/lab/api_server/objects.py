"""The verbs on one object: create, update, patch, delete, each as the real server does it in its
order: what the body says, what the kind's strategy makes of it, its schema, what is allocated, the
store.

Called by `serving` for requests and by `ApiServer` for tests; raises `StatusError`.

Not done: admission webhooks, graceful deletion of pods (they are gone at once), controllers but
for what `garbage` and namespaces need.

Kubernetes API conventions: concurrency control and consistency, spec and status, finalizers.
"""

from __future__ import annotations

import datetime
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.registry import Registry
from samepath.lab.api_server.status import Cause, Json
from samepath.lab.api_server.store import Store, Stored, clone

_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_ANY_NAME = frozenset({"clusterroles", "clusterrolebindings", "roles", "rolebindings"})
_KEPT = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)
"""Metadata that a writer cannot change."""


@dataclass(slots=True)
class Options:
    """Of one write. `warnings` are for the answer's headers."""

    dry_run: bool = False
    field_validation: str = "Warn"
    field_manager: str = ""
    force: bool = False
    applied: bool = False
    """By server-side apply, which has noted who owns what."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Preconditions:
    uid: str | None = None
    resource_version: str | None = None


class Objects:
    def __init__(self, store: Store, registry: Registry, clock: Callable[[], float]) -> None:
        self.store = store
        self.registry = registry
        self._clock = clock
        self._random = random.Random()

    def now(self) -> str:
        moment = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- Read ---------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Stored:
        found = self.store.get(kind.key, (namespace, name))
        if found is None:
            raise st.not_found(kind.group, kind.plural, name)
        return found

    # -- Create -------------------------------------------------------------------------------

    def create(
        self, kind: Kind, namespace: str, body: Json, options: Options | None = None
    ) -> Stored:
        options = options or Options()
        new = self._taken(kind, namespace, "", body)
        metadata = new["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._generated(kind, namespace, metadata["generateName"])
        self._check_names(kind, metadata)
        self._check_namespace(kind, namespace)
        key = namespace, metadata["name"]
        metadata.pop("resourceVersion", None)
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            metadata.pop(name, None)
        self._stamp(kind, metadata)
        if kind.has_status and kind.key != known.NODES.key:
            new.pop("status", None)
        new = self.registry.admit(kind, new, None, options)
        if self.store.get(kind.key, key) is not None:
            raise st.already_exists(kind.group, kind.plural, metadata["name"])
        self.registry.track(kind, None, new, "", options)
        if options.dry_run:
            return Stored(new, 0)
        stored = self.store.put(kind.key, key, new)
        self.registry.changed(kind, None, stored)
        return stored

    def _stamp(self, kind: Kind, metadata: Json) -> None:
        metadata["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = self.now()
        if kind.has_generation:
            metadata["generation"] = 1

    def load(self, kind: Kind, body: Json) -> Stored:
        """Created as it is."""
        new = {k: v for k, v in body.items() if k not in ("kind", "apiVersion")}
        metadata = new["metadata"]
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        self._stamp(kind, metadata)
        key = metadata.get("namespace", ""), metadata["name"]
        stored = self.store.put(kind.key, key, new)
        self.registry.changed(kind, None, stored)
        return stored

    def _taken(self, kind: Kind, namespace: str, name: str, body: Any) -> Json:
        """A copy of ours, without kind and apiVersion; what it says must fit the request's path."""
        if not isinstance(body, dict):
            raise st.bad_request("the object provided is unrecognized (must be of type Object)")
        if (version := body.get("apiVersion", kind.api_version)) != kind.api_version:
            raise st.bad_request(
                f"the API version in the data ({version}) does not match the expected API version "
                f"({kind.api_version})"
            )
        if (said := body.get("kind", kind.kind)) != kind.kind:
            raise st.bad_request(
                f"the kind in the data ({said}) does not match the expected kind ({kind.kind})"
            )
        new = {k: v for k, v in clone(body).items() if k not in ("kind", "apiVersion")}
        metadata = new.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise st.bad_request("metadata: expected an object")
        new = {"metadata": metadata, **{k: v for k, v in new.items() if k != "metadata"}}
        if kind.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise st.bad_request(
                    "the namespace of the provided object does not match the namespace sent on "
                    "the request"
                )
        else:
            metadata.pop("namespace", None)
        if name and metadata.setdefault("name", name) != name:
            raise st.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL "
                f"({name})"
            )
        return new

    def _generated(self, kind: Kind, namespace: str, prefix: str) -> str:
        while True:
            name = prefix + "".join(self._random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
            if self.store.get(kind.key, (namespace, name)) is None:
                return name

    def _check_names(self, kind: Kind, metadata: Json) -> None:
        name = metadata.get("name")
        if not name:
            cause = st.required("metadata.name", "name or generateName is required")
        elif kind.plural in _ANY_NAME or (len(name) <= 253 and _SUBDOMAIN.match(name)):
            return
        else:
            cause = st.invalid_value("metadata.name", name, _SUBDOMAIN_TEXT)
        raise st.invalid(kind.group, kind.kind, name or "", [cause])

    def _check_namespace(self, kind: Kind, namespace: str) -> None:
        if not kind.namespaced:
            return
        found = self.store.get(known.NAMESPACES.key, ("", namespace))
        if found is None:
            raise st.not_found("", "namespaces", namespace)
        if "deletionTimestamp" in found.metadata:
            why = (
                f"unable to create new content in namespace {namespace} because it is being "
                "terminated"
            )
            raise st.forbidden(kind.group, kind.plural, "", why)

    # -- Update -------------------------------------------------------------------------------

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Json,
        subresource: str = "",
        options: Options | None = None,
    ) -> tuple[Stored, bool]:
        """The stored object, and whether it was created."""
        options = options or Options()
        new = self._taken(kind, namespace, name, body)
        old = self.store.get(kind.key, (namespace, name))
        if old is None:
            if subresource or not kind.creates_on_update or new["metadata"].get("uid"):
                raise st.not_found(kind.group, kind.plural, name)
            return self.create(kind, namespace, body, options), True
        version = new["metadata"].get("resourceVersion")
        if not version and not kind.allows_unconditional_update:
            text = "must be specified for an update"
            cause = st.invalid_value("metadata.resourceVersion", "0x0", text)
            cause = Cause(cause.reason, cause.field, cause.message.replace('"', ""))
            raise st.invalid(kind.group, kind.kind, name, [cause])
        return self._replace(kind, old, new, subresource, options), False

    def _replace(
        self, kind: Kind, old: Stored, new: Json, subresource: str, options: Options
    ) -> Stored:
        metadata, was = new["metadata"], old.metadata
        name = was["name"]
        version = metadata.get("resourceVersion")
        if version and str(version) != str(old.version):
            raise st.conflict(kind.group, kind.plural, name)
        if metadata.get("uid") and metadata["uid"] != was["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object "
                f"meta: {was['uid']}"
            )
            raise st.conflict(kind.group, kind.plural, name, why)
        self._keep(metadata, was)
        if subresource == "status":
            new = self._status_only(kind, old, new)
        elif kind.has_status:
            new.pop("status", None)
            if "status" in old.body:
                new["status"] = old.body["status"]
        new = self.registry.admit(kind, new, old, options, subresource)
        metadata = new["metadata"]
        if kind.has_generation and subresource != "status" and _meaning(new) != _meaning(old.body):
            metadata["generation"] = was.get("generation", 0) + 1
        self.registry.track(kind, old, new, subresource, options)
        return self._store(kind, old, new, options)

    def _keep(self, metadata: Json, was: Json) -> None:
        for field_name in _KEPT:
            metadata.pop(field_name, None)
            if field_name in was:
                metadata[field_name] = was[field_name]
        metadata["resourceVersion"] = was["resourceVersion"]
        metadata.pop("selfLink", None)
        if "managedFields" not in metadata and "managedFields" in was:
            metadata["managedFields"] = was["managedFields"]

    def _status_only(self, kind: Kind, old: Stored, new: Json) -> Json:
        """All else stays; of metadata, what is no part of the spec may come with it."""
        result = {k: v for k, v in old.body.items() if k != "status"}
        if "status" in new:
            result["status"] = new["status"]
        if not kind.custom:
            result["metadata"] = new["metadata"]
        elif (managed := new["metadata"].get("managedFields")) is not None:
            result["metadata"] = {**old.metadata, "managedFields": managed}
        return {name: clone(value) for name, value in result.items()}

    def _store(self, kind: Kind, old: Stored, new: Json, options: Options) -> Stored:
        if new == old.body:
            return old  # nothing to write: the version stays
        if options.dry_run:
            return Stored(new, old.version)
        key = old.metadata.get("namespace", ""), old.metadata["name"]
        metadata = new["metadata"]
        if "deletionTimestamp" in metadata and not _held(kind, new):
            gone = self.store.put(kind.key, key, new)
            self._remove(kind, gone)
            return gone
        stored = self.store.put(kind.key, key, new)
        self.registry.changed(kind, old, stored)
        return stored

    def modify(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Callable[[Json], Json],
        subresource: str = "",
        options: Options | None = None,
    ) -> Stored:
        """What `change` makes of a copy of the present object, as one step: for patches."""
        options = options or Options()
        old = self.get(kind, namespace, name)
        changed = change(clone(old.of(kind)))
        new = self._taken(kind, namespace, name, changed)
        return self._replace(kind, old, new, subresource, options)

    # -- Delete -------------------------------------------------------------------------------

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        preconditions: Preconditions | None = None,
        propagation: str = "",
        options: Options | None = None,
    ) -> tuple[Stored, bool]:
        """The object, and whether it is gone; it stays while finalizers hold it."""
        options = options or Options()
        old = self.get(kind, namespace, name)
        self._check_preconditions(kind, old, preconditions or Preconditions())
        if options.dry_run:
            return old, True
        new = clone(old.body)
        metadata = new["metadata"]
        if propagation in ("Foreground", "Orphan"):
            finalizer = "foregroundDeletion" if propagation == "Foreground" else "orphan"
            if self.registry.has_dependents(old):
                metadata["finalizers"] = [*metadata.get("finalizers", []), finalizer]
        if not _held(kind, new):
            return self._remove(kind, old), True
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = self.now()
            if kind.key != known.NAMESPACES.key:
                metadata["deletionGracePeriodSeconds"] = 0
            if "generation" in metadata and kind.custom:
                metadata["generation"] += 1
            key = metadata.get("namespace", ""), metadata["name"]
            old = self.store.put(kind.key, key, new)
            self.registry.ending(kind, old)
        found = self.store.get(kind.key, (namespace, name))
        return found or old, found is None

    def _remove(self, kind: Kind, old: Stored) -> Stored:
        key = old.metadata.get("namespace", ""), old.metadata["name"]
        gone = self.store.delete(kind.key, key)
        self.registry.changed(kind, old, None)
        return gone

    def _check_preconditions(self, kind: Kind, old: Stored, wanted: Preconditions) -> None:
        pairs = (
            ("UID", wanted.uid, old.metadata["uid"]),
            ("ResourceVersion", wanted.resource_version, str(old.version)),
        )
        for what, asked, found in pairs:
            if asked and asked != found:
                why = (
                    f"Precondition failed: {what} in precondition: {asked}, {what} in object "
                    f"meta: {found}"
                )
                raise st.conflict(kind.group, kind.plural, old.metadata["name"], why)


def _held(kind: Kind, body: Json) -> bool:
    if body["metadata"].get("finalizers"):
        return True
    return kind.key == known.NAMESPACES.key and bool(body.get("spec", {}).get("finalizers"))


def _meaning(body: Json) -> Json:
    """What a change of raises the generation."""
    return {k: v for k, v in body.items() if k not in ("metadata", "status")}

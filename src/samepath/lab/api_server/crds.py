"""CustomResourceDefinitions: what one says is served from the moment that it is stored.

Kubernetes API: apiextensions/v1.
"""

from __future__ import annotations

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server import status as st
from samepath.lab.api_server import structural
from samepath.lab.api_server.kinds import Column, Kind
from samepath.lab.api_server.objects import Objects, Options
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored


class Definitions:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        objects.registry.admissions.append(self._admit)
        objects.registry.reactions.append(self._changed)

    def serve_all(self) -> None:
        """As after a restart, from what is stored."""
        for thing in self._objects.store.collection(known.CRDS.key).objects.values():
            self._serve(thing)

    def _admit(
        self, kind: Kind, new: Json, old: Stored | None, options: Options, subresource: str
    ) -> Json:
        if kind.key != known.CRDS.key:
            return new
        spec = new.get("spec") or {}
        if subresource != "status" and (causes := structural.faults(new["metadata"]["name"], spec)):
            raise st.invalid(kind.group, kind.kind, new["metadata"]["name"], causes)
        names = spec["names"]
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
        spec.setdefault("conversion", {"strategy": "None"})
        if old is None:
            new["status"] = self._accepted(spec)
        return new

    def _accepted(self, spec: Json) -> Json:
        now = self._objects.now()
        reasons = {
            "NamesAccepted": ("NoConflicts", "no conflicts found"),
            "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
        }
        return {
            "conditions": [
                {
                    "type": type,
                    "status": "True",
                    "lastTransitionTime": now,
                    "reason": reason,
                    "message": message,
                }
                for type, (reason, message) in reasons.items()
            ],
            "acceptedNames": spec["names"],
            "storedVersions": [one["name"] for one in spec["versions"] if one["storage"]],
        }

    def _changed(self, kind: Kind, old: Stored | None, new: Stored | None) -> None:
        if kind.key != known.CRDS.key:
            return
        if new is not None:
            self._serve(new)
        elif old is not None:
            spec = old.body["spec"]
            key = spec["group"], spec["names"]["plural"]
            self._objects.store.drop(key)
            self._objects.registry.serve(*key, ())

    def _serve(self, thing: Stored) -> None:
        spec = thing.body["spec"]
        self._objects.registry.serve(spec["group"], spec["names"]["plural"], kinds_of(spec))


def kinds_of(spec: Json) -> list[Kind]:
    """A Kind for each served version."""
    names = spec["names"]
    return [
        Kind(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            singular=names.get("singular", ""),
            list_kind=names.get("listKind", ""),
            has_status="status" in (version.get("subresources") or {}),
            has_generation=True,
            allows_unconditional_update=False,
            custom=True,
            schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            columns=tuple(
                Column(
                    column["name"],
                    column["type"],
                    column["jsonPath"],
                    column.get("description", ""),
                    column.get("priority", 0),
                )
                for column in version.get("additionalPrinterColumns") or ()
            ),
            selectable=tuple(
                one["jsonPath"].lstrip(".") for one in version.get("selectableFields") or ()
            ),
        )
        for version in spec["versions"]
        if version.get("served")
    ]

"""Which kinds are served, and what happens around a write: the kind's own strategy before, and what
follows from a change after.

`Objects` asks it; what follows may itself write (a namespace's contents go with it, what is owned
goes with its owner, a CustomResourceDefinition is served from now on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import BUILT_IN, Kind
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Stored

if TYPE_CHECKING:
    from samepath.lab.api_server.objects import Options

Admit = Callable[[Kind, Json, Stored | None, "Options", str], Json]
"""What a kind's strategy makes of a body; raises StatusError."""
Changed = Callable[[Kind, Stored | None, Stored | None], None]
Track = Callable[[Kind, Stored | None, Json, str, "Options"], None]


class Registry:
    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], Kind] = {
            (kind.group, kind.version, kind.plural): kind for kind in BUILT_IN
        }
        self.revision = 0
        """Rises when what is served changes: discovery is built anew."""
        self.admissions: list[Admit] = []
        self.reactions: list[Changed] = []
        self.endings: list[Callable[[Kind, Stored], None]] = []
        self.tracking: Track | None = None
        self.dependents: Callable[[Stored], bool] = lambda _: False

    # -- Which kinds --------------------------------------------------------------------------

    def all(self) -> Iterable[Kind]:
        return tuple(self._kinds.values())

    def find(self, group: str, version: str, plural: str) -> Kind:
        found = self._kinds.get((group, version, plural))
        if found is None:
            raise st.no_such_path()
        return found

    def of_object(self, body: Json) -> Kind:
        """By apiVersion and kind. Raises LookupError."""
        for kind in self._kinds.values():
            if kind.kind == body.get("kind") and kind.api_version == body.get("apiVersion"):
                return kind
        raise LookupError(f"no kind {body.get('kind')} in {body.get('apiVersion')}")

    def of_resource(self, key: tuple[str, str]) -> Kind:
        return next(kind for kind in self._kinds.values() if kind.key == key)

    def serve(self, group: str, plural: str, kinds: Iterable[Kind]) -> None:
        """These versions of a resource, and no others."""
        self._kinds = {k: v for k, v in self._kinds.items() if v.key != (group, plural)}
        for kind in kinds:
            self._kinds[kind.group, kind.version, kind.plural] = kind
        self.revision += 1

    # -- Around a write -----------------------------------------------------------------------

    def admit(
        self,
        kind: Kind,
        new: Json,
        old: Stored | None,
        options: Options,
        subresource: str = "",
    ) -> Json:
        for admit in self.admissions:
            new = admit(kind, new, old, options, subresource)
        return new

    def track(
        self, kind: Kind, old: Stored | None, new: Json, subresource: str, options: Options
    ) -> None:
        if self.tracking is not None:
            self.tracking(kind, old, new, subresource, options)

    def changed(self, kind: Kind, old: Stored | None, new: Stored | None) -> None:
        for react in self.reactions:
            react(kind, old, new)

    def ending(self, kind: Kind, thing: Stored) -> None:
        for react in self.endings:
            react(kind, thing)

    def has_dependents(self, owner: Stored) -> bool:
        return self.dependents(owner)

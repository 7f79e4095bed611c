"""A source of cluster state: a folder of manifests, or the API server. What both offer.

Programs hold one, run it as a task and look at it when it has woken them. Whatever goes wrong, the
last state stands: a source never takes away what it does not know to be gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from samepath.model.cluster import Object


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was not taken, and why: `web.yaml:12: spec.ports[0].port: expected int, got str`."""

    file: str
    """The file, or the object: `Service default/web`."""
    text: str


class Source(Protocol):
    """`samepath.kube.manifests.Manifests`, `samepath.kube.api_source.ApiSource`."""

    @property
    def where(self) -> str:
        """The folder, or the server's address."""
        ...

    @property
    def in_sync(self) -> bool:
        """All objects have been read in full, once."""
        ...

    @property
    def objects(self) -> Mapping[str, Object]:
        """By `object_key`. A new mapping after each change, never changed in place, except that an
        object may be replaced by an equal one with a newer `resource_version`."""
        ...

    @property
    def refusals(self) -> tuple[Refusal, ...]: ...

    @property
    def trouble(self) -> str | None:
        """What is wrong with the source itself; the last state stands."""
        ...

    async def run(self) -> None:
        """Until cancelled. Wakes the program after each change of the above."""
        ...

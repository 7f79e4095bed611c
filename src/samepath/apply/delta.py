"""A difference is a value: what to create, what to update, what to delete.

What the world cannot change in place belongs in the key, so that a change of it is a deletion and a
creation. Used by every driver of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """Disjoint by key, each in the order of its source."""

    create: dict[K, V]
    """Desired, not there."""
    update: dict[K, V]
    """There, but other than desired; the values are the desired ones."""
    delete: dict[K, V]
    """There, not desired; the values are what is there."""

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def diff(desired: Mapping[K, V], actual: Mapping[K, V]) -> Delta[K, V]:
    create: dict[K, V] = {}
    update: dict[K, V] = {}
    for key, value in desired.items():
        if key not in actual:
            create[key] = value
        elif actual[key] != value:
            update[key] = value
    delete = {key: value for key, value in actual.items() if key not in desired}
    return Delta(create, update, delete)

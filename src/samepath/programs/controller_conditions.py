"""Conditions in the state of an object, as the controller writes them.

Standards: apimachinery metav1.Condition, metav1.Time.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    is_true: bool
    reason: str
    """In one word; empty: there is nothing to say, and the condition goes."""
    message: str


def with_condition(
    conditions: Iterable[Mapping[str, Any]], ours: Condition
) -> list[Mapping[str, Any]]:
    """The conditions with ours in place of the one of its type; the time is that since when its
    status is what it is."""
    found = list(conditions)
    others = [c for c in found if c.get("type") != ours.type]
    if not ours.reason:
        return others
    status = "True" if ours.is_true else "False"
    former = next((c for c in found if c.get("type") == ours.type), {})
    since = former.get("lastTransitionTime") if former.get("status") == status else None
    made = {
        "type": ours.type,
        "status": status,
        "reason": ours.reason,
        "message": ours.message,
        "lastTransitionTime": since or now_text(),
    }
    return [*others, made]


def now_text() -> str:
    """Now, as metav1.Time."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

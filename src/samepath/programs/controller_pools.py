"""IPAddressPools' states: how many addresses are used, and whether the pool is taken at all.

Written when they change, each pool at most once in `PAUSE_S`. What stands is read when we become
the leader and from time to time, so a restart writes nothing that stands.

Used by `programs.controller`.

Standards: Kubernetes API conventions (status, conditions); MetalLB's IPAddressPool for the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from samepath.kube.api import Api, ApiError
from samepath.kube.resources import IP_ADDRESS_POOLS
from samepath.model.net import Family
from samepath.plan.allocation_rules import PoolUse
from samepath.programs.controller_conditions import Condition, with_condition

CONDITION = "samepath.dev/Accepted"
PAUSE_S = 1.0
READ_AGAIN_S = 600.0
_MOST = (1 << 63) - 1
"""What an int64 holds; an IPv6 pool may have more."""


@dataclass(slots=True)
class PoolStates:
    api: Api
    may_write: Callable[[], bool]
    """Whether we lead; asked before each write."""
    errors: dict[str, str] = field(default_factory=dict)
    """By name of the pool."""
    uids: dict[str, str] = field(default_factory=dict)
    read_at: float = -math.inf
    _stands: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written_at: dict[str, float] = field(default_factory=dict)

    def forget(self) -> None:
        self.read_at = -math.inf
        self.errors.clear()

    async def read_all(self, now: float) -> None:
        """Raises ApiError."""
        items, _ = await self.api.list(IP_ADDRESS_POOLS)
        self._stands = {i["metadata"]["name"]: i.get("status") or {} for i in items}
        self.uids = {i["metadata"]["name"]: i["metadata"].get("uid", "") for i in items}
        self.read_at = now

    async def write(self, pools: Mapping[str, PoolUse], now: float) -> tuple[list[str], float]:
        """Brings states up to date. The pools of which it is new that they are refused; and when to
        come again, for those that had to wait (inf: there are none)."""
        refused, again_at = list[str](), math.inf
        for name in self._stands.keys() - pools.keys():
            del self._stands[name]
            self.errors.pop(name, None)
        for name, use in pools.items():
            stands = self._stands.get(name, {})
            wanted = _status(use, stands)
            if wanted == stands:
                self.errors.pop(name, None)
                continue
            due_at = self._written_at.get(name, -math.inf) + PAUSE_S
            if due_at > now:
                again_at = min(again_at, due_at)
                continue
            if not self.may_write():
                return refused, again_at
            self._written_at[name] = now
            try:
                patch = {"status": wanted}
                await self.api.patch(IP_ADDRESS_POOLS, name, patch, subresource="status")
            except ApiError as error:
                self.errors[name] = str(error)
                again_at = min(again_at, now + 10 * PAUSE_S)
                self._written_at[name] = now + 9 * PAUSE_S
                continue
            self.errors.pop(name, None)
            self._stands[name] = wanted
            if use.refused_for and not _is_refused(stands):
                refused.append(name)
        return refused, again_at


def _status(use: PoolUse, stands: Mapping[str, Any]) -> dict[str, Any]:
    if use.refused_for:
        text = f"overlaps {use.refused_for}, which is older: nothing is given from this one"
        condition = Condition(CONDITION, False, "Overlaps", text)
    else:
        condition = Condition(CONDITION, True, "Accepted", "addresses are given from it")
    counts = {
        f"{what}{name}": min(numbers.get(family, 0), _MOST)
        for what, numbers in (("assigned", use.assigned), ("available", use.available))
        for family, name in ((Family.IPV4, "IPv4"), (Family.IPV6, "IPv6"))
    }
    return {**counts, "conditions": with_condition(stands.get("conditions") or [], condition)}


def _is_refused(status: Mapping[str, Any]) -> bool:
    return any(
        c.get("type") == CONDITION and c.get("status") == "False"
        for c in status.get("conditions") or []
    )

"""What a gateway knew last of the cluster, on disk beside its control socket.

Written by `programs.gateway_cluster` when it has changed, read by the next process, which may be
started while the API server is away. A file that cannot be read is no file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from samepath.model.kinds import GatewayTier
from samepath.model.net import PrefixSet, address_text, parse_address, parse_prefix, prefix_text
from samepath.plan.neighbors import Plan, Row, Why

log = logging.getLogger("samepath.gateway")


class Known(msgspec.Struct, frozen=True):
    nodes: list[tuple[str, str]] = []
    """Names and addresses of neighbours."""
    services: list[str] = []
    pods: list[str] = []
    claims: list[tuple[str, str]] = []
    """Blocks, and the addresses of those whose they are."""
    tier: GatewayTier | None = None

    def plan(self) -> Plan:
        """Raises ValueError."""
        PrefixSet([*self.services, *self.pods])
        rows = [Row(name, parse_address(text), Why.NEIGHBOR) for name, text in self.nodes]
        claims = {parse_prefix(text): parse_address(owner) for text, owner in self.claims}
        return Plan(tuple(rows), tuple(self.services), tuple(self.pods), claims=claims)


def known(plan: Plan, tier: GatewayTier | None) -> Known:
    return Known(
        [(row.node, address_text(address)) for address, row in plan.neighbors.items()],
        list(plan.services),
        list(plan.pods),
        [(prefix_text(*block), address_text(owner)) for block, owner in plan.claims.items()],
        tier,
    )


def recall(path: Path) -> tuple[Known, Plan]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Known)
        return found, found.plan()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("%s: not used: %s", path, error)
    return Known(), Plan()


def write(path: Path, what: Known) -> None:
    """Whole or not at all. Raises OSError."""
    fresh = path.with_suffix(".new")
    with open(fresh, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(msgspec.json.encode(what))
    fresh.replace(path)

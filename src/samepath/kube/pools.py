"""IPPools that overlap: pods of two nodes could get one address. All sources refuse them alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from samepath.kube.objects import object_key
from samepath.model.cluster import IPPool
from samepath.model.net import prefix_text
from samepath.plan.blocks import overlapping


class Overlap(NamedTuple):
    """Keys (`object_key`), and the prefix of the one that stands."""

    refused: str
    standing: str
    cidr: str


def overlaps(pools: Iterable[IPPool]) -> list[Overlap]:
    """Of two that overlap the newer is refused."""
    named = {pool.name: pool for pool in pools}
    found = []
    for refused, other in overlapping(named.values()).items():
        standing = named[other]
        cidr = prefix_text(standing.family, standing.cidr)
        found.append(Overlap(object_key(named[refused]), object_key(standing), cidr))
    return found

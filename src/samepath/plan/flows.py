"""Flows that conntrack is to forget, since their endpoint is gone.

Asked by `programs.serving` after each change of the rules (`lost`), and once after a start about
what was lost while no agent was running (`are_lost`); deleted by `apply.conntrack`. Pure.

- TCP and SCTP: when the endpoint is no longer one of the service, in whatever state. A service that
  changes its ports, or the port of its pods, ends none of its connections.
- UDP knows no connection that could end, and a client may send for ever: its flows go as soon as
  the endpoint is not there for this port. And those that began before the service had rules: they
  were not translated, and would go on like that.
- A service that is deleted takes its flows with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from samepath.model.net import Address
from samepath.plan.ruleset import Claim, Part, Ruleset, changed


class Tracked(NamedTuple):
    """Flows to a port of a service that one endpoint answers."""

    claim: Claim
    endpoint: Address
    """The claim's own address: they are not translated."""
    port: int | None
    """Of the endpoint; None: any."""


def lost(old: Ruleset, new: Ruleset) -> Iterator[Tracked]:
    """What is to be forgotten after this change."""
    for key in changed(old, new):
        before, after = old.parts.get(key), new.parts.get(key)
        if before is not None:
            yield from _lost_of(key, before, after, old, new)
        for claim in after.claims if after is not None else ():
            if claim.protocol == "udp" and claim not in old.owners:
                yield Tracked(claim, claim.address, claim.port)


def _lost_of(
    key: str, before: Part, after: Part | None, old: Ruleset, new: Ruleset
) -> Iterator[Tracked]:
    still = _endpoints(after)
    for claim, backends in before.targets.items():
        if old.owners[claim][0] != key:
            continue
        now = new.backends(claim)
        if claim.protocol == "udp":
            yield from (Tracked(claim, *backend) for backend in backends - now)
        else:
            there = still | {endpoint for endpoint, _ in now}
            gone = {endpoint for endpoint, _ in backends} - there
            yield from (Tracked(claim, endpoint, None) for endpoint in gone)


def _endpoints(part: Part | None) -> set[Address]:
    if part is None:
        return set()
    return {endpoint for backends in part.targets.values() for endpoint, _ in backends}


def is_back(flows: Tracked, ruleset: Ruleset) -> bool:
    """Whether the endpoint is one of the port again."""
    return any(
        endpoint == flows.endpoint and flows.port in (None, port)
        for endpoint, port in ruleset.backends(flows.claim)
    )


def are_lost(found: Iterable[Tracked], ruleset: Ruleset) -> set[Tracked]:
    """Of what is tracked to addresses of services and to node ports, what is to be forgotten."""
    everywhere: dict[Address, set[Address]] = {}
    for part in ruleset.parts.values():
        for claim, backends in part.targets.items():
            ends = everywhere.setdefault(claim.address, set())
            ends.update(endpoint for endpoint, _ in backends)
    lost_ones = set()
    for flows in found:
        claim, endpoint, port = flows
        if claim not in ruleset.owners and claim.address not in ruleset.addresses:
            continue  # the node's own affair
        if claim.protocol == "udp":
            is_lost = (endpoint, port) not in ruleset.backends(claim)
        else:
            is_lost = endpoint not in (claim.address, *everywhere.get(claim.address, ()))
        if is_lost:
            lost_ones.add(flows)
    return lost_ones


def addresses(ruleset: Ruleset) -> frozenset[Address]:
    """To which there may be such flows."""
    return ruleset.addresses | {claim.address for claim in ruleset.owners}

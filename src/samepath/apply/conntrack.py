"""Flows to services, as the kernel tracks them, through conntrack(8).

Driven by `programs.agent`. Two things are asked of it: to forget the flows of an endpoint that is
gone (`forget`), so that its clients learn of it with their next packet and UDP flows find another
endpoint; and how many flows of a draining service are left (`live_flows`).

Standards: conntrack(8), conntrack-tools 1.4.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable

from samepath.apply.tool import run
from samepath.model.net import Address, address_text, family_of, parse_address
from samepath.plan.flows import Tracked
from samepath.plan.ruleset import Claim

_OVER = ("TIME_WAIT", "CLOSE", "NONE")
"""TCP states in which nothing more is to be said on a connection."""


async def forget(flows: Tracked) -> None:
    """Delete such flows. Raises ToolError."""
    claim = flows.claim
    command = [
        "conntrack", "-D", "-f", family_of(claim.address).label, "-p", claim.protocol,
        "--orig-dst", address_text(claim.address), "--orig-port-dst", str(claim.port),
        "--reply-src", address_text(flows.endpoint),
    ]  # fmt: skip
    if flows.port is not None:
        command += ["--reply-port-src", str(flows.port)]
    # Status 1 also says that there were none.
    await run(command, fine=(0, 1))


async def live_flows(services: Collection[Address]) -> Counter[Address]:
    """How many living flows each of `services` has on this node. Raises ToolError."""
    found: Counter[Address] = Counter()
    for label in sorted({family_of(service).label for service in services}):
        text = await run(("conntrack", "-L", "-f", label))
        found += await asyncio.to_thread(count, text.splitlines(), services)
    return found


async def flows_to(addresses: Collection[Address]) -> set[Tracked]:
    """What is tracked to any port of `addresses`, each pair once. Raises ToolError."""
    found: set[Tracked] = set()
    for label in sorted({family_of(address).label for address in addresses}):
        text = await run(("conntrack", "-L", "-f", label))
        found |= await asyncio.to_thread(tracked, text.splitlines(), addresses)
    return found


def count(lines: Iterable[str], services: Collection[Address]) -> Counter[Address]:
    """Living flows in the listing: TCP that is not over, anything else that has been answered."""
    names = {f"dst={address_text(service)}": service for service in services}
    found: Counter[Address] = Counter()
    for line in lines:
        words = line.split()
        service = names.get(_first(words, "dst="))
        if service is None:
            continue
        if words[0] == "tcp":
            alive = len(words) > 3 and words[3] not in _OVER
        else:
            alive = "[UNREPLIED]" not in words
        found[service] += alive
    return +found


def tracked(lines: Iterable[str], addresses: Collection[Address]) -> set[Tracked]:
    names = {f"dst={address_text(address)}": address for address in addresses}
    found = set()
    for line in lines:
        words = line.split()
        address = names.get(_first(words, "dst="))
        if address is None:
            continue
        # Each twice: as the flow began, and as it is answered. Others than these have no ports.
        ends = {
            start: [word.removeprefix(start) for word in words if word.startswith(start)]
            for start in ("src=", "sport=", "dport=")
        }
        if all(len(values) == 2 for values in ends.values()):
            claim = Claim(address, words[0], int(ends["dport="][0]))
            endpoint, port = parse_address(ends["src="][1]), int(ends["sport="][1])
            found.add(Tracked(claim, endpoint, port))
    return found


def _first(words: list[str], start: str) -> str:
    return next((word for word in words if word.startswith(start)), "")

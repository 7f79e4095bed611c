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

_OVER = ("TIME_WAIT", "CLOSE", "NONE")
"""TCP states in which nothing more is to be said on a connection."""


async def forget(service: Address, endpoint: Address) -> None:
    """Delete the flows to `service` that go to `endpoint`. Raises ToolError."""
    command = (
        "conntrack", "-D", "-f", family_of(service).label,
        "--orig-dst", address_text(service), "--reply-src", address_text(endpoint),
    )  # fmt: skip
    # Status 1 also says that there were none.
    await run(command, fine=(0, 1))


async def live_flows(services: Collection[Address]) -> Counter[Address]:
    """How many living flows each of `services` has on this node. Raises ToolError."""
    found: Counter[Address] = Counter()
    for label in sorted({family_of(service).label for service in services}):
        text = await run(("conntrack", "-L", "-f", label))
        found += await asyncio.to_thread(count, text.splitlines(), services)
    return found


async def endpoints_of(services: Collection[Address]) -> set[tuple[Address, Address]]:
    """(service, endpoint) of every tracked flow to `services`. Raises ToolError."""
    found: set[tuple[Address, Address]] = set()
    for label in sorted({family_of(service).label for service in services}):
        text = await run(("conntrack", "-L", "-f", label))
        found |= await asyncio.to_thread(pairs, text.splitlines(), services)
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


def pairs(lines: Iterable[str], services: Collection[Address]) -> set[tuple[Address, Address]]:
    names = {f"dst={address_text(service)}": service for service in services}
    found = set()
    for line in lines:
        words = line.split()
        service = names.get(_first(words, "dst="))
        if service is not None:
            # The second `src=` is the reply's: whoever answers.
            sources = [word for word in words if word.startswith("src=")]
            if len(sources) == 2:
                found.add((service, parse_address(sources[1].removeprefix("src="))))
    return found


def _first(words: list[str], start: str) -> str:
    return next((word for word in words if word.startswith(start)), "")

"""sessionAffinity: which endpoint a client has had last, as the rules themselves write it down.

The chain `keep4...` of the table (`plan.ruleset`) puts the first packet of each flow to such a
service into the map `clients4`, where the next flow of that client finds it, until the service's
timeout has passed since the last one. What an endpoint that may no longer be used has
left there is taken out by `apply.nft`, right after the rules have changed. Pure.

What is learned is the node's own. So that a client whose flows come through several nodes has one
endpoint all the same, a new one is picked by the client's address (`plan.proxy`). IPv4 only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from samepath.model.net import Address, address_text, parse_address
from samepath.plan.ruleset import CLIENTS, TABLE, Backend, Claim, Elements, Ruleset, changed

_NUMBERS = {6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Client:
    """An element of `clients4`."""

    source: Address
    claim: Claim
    backend: Backend
    timeout_s: int
    expires_s: int

    @property
    def key(self) -> str:
        return f"{address_text(self.source)} . {self.claim.text}"


def read(document: Any) -> list[Client]:
    """Out of nft's JSON of one map; libnftables-json(5)."""
    found = []
    for entry in document.get("nftables", ()):
        for key, value in entry.get("map", {}).get("elem", ()):
            source, address, protocol, port = key["elem"]["val"]["concat"]
            endpoint, endpoint_port = value["concat"]
            claim = Claim(parse_address(address), _NUMBERS.get(protocol, protocol), port)
            found.append(
                Client(
                    parse_address(source),
                    claim,
                    (parse_address(endpoint), endpoint_port),
                    key["elem"]["timeout"],
                    key["elem"].get("expires", 0),
                )
            )
    return found


def is_in_use(ruleset: Ruleset) -> bool:
    return any(part.kept for part in ruleset.parts.values())


def has_shrunk(old: Ruleset, new: Ruleset) -> bool:
    """Whether an endpoint is gone to which clients may have been kept."""
    for key in changed(old, new):
        part = old.parts.get(key)
        for claim, kept in part.kept.items() if part else ():
            now = new.kept(claim)
            if now is None or kept.outside - now.outside or kept.inside - now.inside:
                return True
    return False


def parted(clients: Iterable[Client], ruleset: Ruleset) -> tuple[list[Client], list[Client]]:
    """Those that may stay, and those that may not."""
    prefixes = [ipaddress.ip_network(text) for text in ruleset.networks.get("cluster4", ())]
    staying: list[Client] = []
    leaving: list[Client] = []
    for client in clients:
        kept = ruleset.kept(client.claim)
        allowed: frozenset[Backend] = frozenset()
        if kept is not None:
            allowed = kept.inside if _is_within(client.source, prefixes) else kept.outside
        (staying if client.backend in allowed else leaving).append(client)
    return staying, leaving


def _is_within(
    source: Address, prefixes: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    address = ipaddress.ip_address(source)
    return any(address in prefix for prefix in prefixes)


def elements(clients: Iterable[Client]) -> Elements:
    """As `plan.ruleset.full_text` takes them: they expire when they would have."""
    found = {}
    for client in clients:
        times = f"timeout {client.timeout_s}s expires {max(1, client.expires_s)}s"
        endpoint, port = client.backend
        key = f"{client.key} {times}"
        found[key] = f"{address_text(endpoint)} . {port}"
    return {CLIENTS: found}


def removal_text(clients: Iterable[Client]) -> str:
    """One that is gone meanwhile is no error."""
    lines = []
    for client in clients:
        endpoint, port = client.backend
        value = f"{address_text(endpoint)} . {port}"
        lines.append(f"add element {TABLE} {CLIENTS} {{ {client.key} : {value} }}\n")
        lines.append(f"delete element {TABLE} {CLIENTS} {{ {client.key} }}\n")
    return "".join(lines)

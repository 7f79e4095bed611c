"""What a gateway tells of itself: `samepath status` and `samepath trace`.

Called by the control socket. Status reads the kernel back, in a thread, and shows where it differs
from what the gateway holds to be there.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from samepath.apply.row import Row
from samepath.hashing.flow import Flow, bucket, packet_hash
from samepath.model.net import (
    Address,
    address_text,
    family_of,
    make_nlri,
    parse_address,
    prefix_text,
)
from samepath.netlink.kernel import RealKernel
from samepath.programs.peers_view import peers_view

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

PREFIXES_SHOWN = 1000
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


async def status(gateway: Gateway, question: dict[str, Any]) -> dict[str, Any]:
    """Everything an operator asks first; JSON-able."""
    services = gateway.services
    rows = [row for row in services.rows if row.nlris]
    wanted = {row.id: list(row.entries) for row in rows if row.in_kernel}
    differences = await asyncio.to_thread(_read_back, wanted)
    tables = [_table(row, differences.get(row.id, "")) for row in rows]
    limit = PREFIXES_SHOWN if not question.get("all") else 1 << 30
    errors = [
        {"prefix": prefix_text(f, n), "error": text} for (f, n), text in services.errors.items()
    ]
    plain_errors = [
        {"prefix": prefix_text(f, n), "error": text}
        for (f, n), text in gateway.plain.errors.items()
    ]
    waiting = sum(len(row.waiting) for row in rows)
    next_look = min(services.next_look, gateway.plain.next_look)
    busy = any(row.dirty or row.unrouted for row in rows) or next_look < 0
    return {
        "program": "gateway",
        "router_id": gateway.config.router_id,
        "as": gateway.config.local_as,
        "dataplane": gateway.config.dataplane,
        "buckets": gateway.config.buckets,
        "hash_seed": gateway.config.hash_seed,
        "idle_timer_s": gateway.config.idle_timer_s,
        "uptime_s": round(time.monotonic() - gateway.started, 1),
        "in_sync": gateway.sync.in_sync,
        "sync": gateway.sync.text,
        "config_error": gateway.config_error,
        "settings": [
            {"severity": f.severity.name.lower(), "text": f.text} for f in gateway.findings
        ],
        "flow_hash": {f.label: text or "as predicted" for f, text in gateway.hash_checked.items()},
        "peers": peers_view(gateway.speaker.peers()),
        "services": _services(gateway, limit),
        "tables": tables,
        "moves": {
            "waiting": waiting,
            "departed": services.moved.departed,
            "idle": services.moved.idle,
            "deadline": services.moved.deadline,
        },
        "routes": _routes(gateway),
        "errors": errors + plain_errors,
        "refusals": [
            {
                "peer": address_text(r.peer),
                "prefix": prefix_text(r.family, r.nlri),
                "reason": r.reason.value,
            }
            for r in gateway.speaker.refusals()[:PREFIXES_SHOWN]
        ],
        "settled": gateway.sync.in_sync
        and not (
            busy
            or errors
            or plain_errors
            or differences
            or gateway.plain.next_look < time.monotonic()
        ),
    }


def _table(row: Row, difference: str) -> dict[str, Any]:
    now = time.monotonic()
    present = row.present.counts() if row.present is not None else {}
    want = row.want.counts() if row.want is not None else present
    hops = {hop.address: hop for hop in row.target.hops}
    members = []
    for address in sorted({*present, *want, *hops}):
        hop = hops.get(address)
        members.append(
            {
                "address": address_text(address),
                "weight": hop.weight if hop else 0,
                "state": "gone" if hop is None else "draining" if hop.draining else "active",
                "present": present.get(address, 0),
                "target": want.get(address, 0),
            }
        )
    since = min(row.waiting_since.values(), default=now)
    return {
        "id": row.id,
        "family": row.family.label,
        "prefixes": len(row.nlris),
        "members": members,
        "digest": row.present.digest if row.present is not None else "",
        "target_digest": row.want.digest if row.want is not None else "",
        "waiting": len(row.waiting),
        "oldest_wait_s": round(now - since, 1),
        "kernel": difference or ("as desired" if row.in_kernel else "not there"),
        "error": row.error,
    }


def _services(gateway: Gateway, limit: int) -> list[dict[str, Any]]:
    shown = []
    for family, rows in gateway.services.rows.of.items():
        for nlri, row in list(rows.items())[:limit]:
            shown.append(
                {
                    "prefix": prefix_text(family, nlri),
                    "table": row.id,
                    "installed": nlri in gateway.services.routed[family],
                    "active": [address_text(h.address) for h in row.target.hops if not h.draining],
                    "draining": [address_text(h.address) for h in row.target.hops if h.draining],
                }
            )
    return shown


def _routes(gateway: Gateway) -> list[dict[str, Any]]:
    installed = set(gateway.plain.installed)
    return [
        {
            "prefix": prefix_text(family, nlri),
            "kind": what.kind,
            "next_hops": [address_text(a) for a in what.gateways],
            "installed": (family, nlri) in installed,
        }
        for (family, nlri), what in list(gateway.plain_wanted.items())[:PREFIXES_SHOWN]
    ]


def _read_back(wanted: dict[int, list[int]]) -> dict[int, str]:
    """Where the kernel's buckets are not as desired, by group, in words."""
    kernel = RealKernel()
    try:
        found = {}
        for number, entries in wanted.items():
            actual = kernel.bucket_state(number).ids
            if not actual:
                found[number] = "the kernel has no such group"
            elif actual != entries:
                count = sum(a != b for a, b in zip(actual, entries, strict=False))
                found[number] = f"{count} buckets differ in the kernel"
        return found
    finally:
        kernel.close()


async def trace(gateway: Gateway, question: dict[str, Any]) -> dict[str, Any]:
    """Where one flow goes, and why. Raises ValueError for a question that makes no sense."""
    try:
        source = parse_address(str(question["client"]))
        destination = parse_address(str(question["service"]))
        ports = int(question["client_port"]), int(question["service_port"])
        protocol = PROTOCOLS[str(question.get("protocol", "tcp"))]
    except KeyError as error:
        raise ValueError(
            f"trace: {error} is missing or not one of {', '.join(PROTOCOLS)}"
        ) from error
    if family_of(source) is not family_of(destination):
        raise ValueError("trace: client and service are of different families")
    row = _row_for(gateway, destination)
    if row is None or row.present is None:
        raise ValueError(f"no table serves {address_text(destination)}")
    seed = gateway.config.hash_seed
    flow = Flow(source, destination, protocol, *ports)
    at = bucket(flow, seed, row.present.buckets)
    owner = row.present.owner(at)
    target = row.want.owner(at) if row.want is not None else owner
    hop = next((h for h in row.target.hops if h.address == owner), None)
    return {
        "client": f"{address_text(source)} port {ports[0]}",
        "service": f"{address_text(destination)} port {ports[1]}",
        "hash": packet_hash(flow, seed),
        "buckets": row.present.buckets,
        "bucket": at,
        "table": row.id,
        "digest": row.present.digest,
        "next_hop": address_text(owner),
        "draining": bool(hop and hop.draining),
        "target": address_text(target),
        "why": _why(row, at, owner, target),
    }


def _why(row: Row, at: int, owner: Address, target: Address) -> str:
    if owner == target:
        return "the bucket is where its table wants it"
    since = row.waiting_since.get(at)
    waited = f" for {time.monotonic() - since:.0f} s" if since is not None else ""
    return f"the bucket waits{waited} to be idle, and will move to {address_text(target)} then"


def _row_for(gateway: Gateway, destination: Address) -> Row | None:
    family = family_of(destination)
    rows = gateway.services.rows.of[family]
    for length in range(family.bits, -1, -1):
        row = rows.get(make_nlri(destination, length))
        if row is not None:
            return row
    return None

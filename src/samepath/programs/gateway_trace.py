"""Where one flow goes through this gateway, and why: `samepath trace`.

With the BPF data plane `next_hop` is that of a new flow; `bpf` has that of an old one.

Called by the control socket. The bucket is computed as the kernel computes it (`hashing.flow`); its
owner is what the kernel held when it was written or read back last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from samepath.apply.row import Row
from samepath.hashing.flow import Flow, bucket, packet_hash
from samepath.model.net import (
    Address,
    Family,
    Nlri,
    address_text,
    family_of,
    make_nlri,
    parse_address,
    prefix_text,
)
from samepath.programs.gateway_bpf_view import bpf_trace
from samepath.programs.gateway_view import held

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


async def trace(gateway: Gateway, question: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a question that makes no sense or has no answer, in words."""
    flow = _flow(question)
    async with held(gateway):
        return _answer(gateway, flow)


def _answer(gateway: Gateway, flow: Flow) -> dict[str, Any]:
    found = _find(gateway, flow.destination)
    if found is None:
        raise ValueError(_why_none(gateway, flow.destination))
    nlri, row = found
    table = row.present
    if table is None or not row.in_kernel:
        raise ValueError(
            f"{address_text(flow.destination)} has no table in the kernel: "
            f"{row.error or 'it is being made'}"
        )
    seed = gateway.config.hash_seed
    at = bucket(flow, seed, table.buckets)
    owner = table.owner(at)
    target = _target(row, at, owner)
    told = bpf_trace(gateway, flow.destination, at)
    why = _why(gateway, row, at, owner, target)
    if told is not None:
        why = told["why"]
        if told["forwards"]:
            owner = parse_address(told["new_flow"])
    hop = next((h for h in row.target.hops if h.address == owner), None)
    return {
        "client": f"{address_text(flow.source)} port {flow.source_port}",
        "service": f"{address_text(flow.destination)} port {flow.destination_port}",
        "prefix": prefix_text(row.family, nlri),
        "installed": nlri in gateway.services.routed[row.family],
        "hash": packet_hash(flow, seed),
        "buckets": table.buckets,
        "bucket": at,
        "table": row.id,
        "digest": table.digest,
        "next_hop": address_text(owner),
        "draining": bool(hop and hop.draining),
        "target": address_text(target),
        "why": why,
        "bpf": told,
    }


def _flow(question: dict[str, Any]) -> Flow:
    try:
        source = parse_address(str(question["client"]))
        destination = parse_address(str(question["service"]))
        ports = question["client_port"], question["service_port"]
    except KeyError as error:
        raise ValueError(f"trace: {error} is missing") from error
    protocol = PROTOCOLS.get(str(question.get("protocol", "tcp")))
    if protocol is None:
        raise ValueError(f"trace: protocol: one of {', '.join(PROTOCOLS)}")
    if not all(isinstance(p, int) and 0 <= p <= 65535 for p in ports):
        raise ValueError("trace: a port is a number from 0 to 65535")
    if family_of(source) is not family_of(destination):
        raise ValueError("client and service are of different families")
    return Flow(source, destination, protocol, *ports)


def _find(gateway: Gateway, destination: Address) -> tuple[Nlri, Row] | None:
    """The longest service prefix that holds it, if no other route of ours is longer."""
    family = family_of(destination)
    rows = gateway.services.rows.of[family]
    for length in range(family.bits, -1, -1):
        nlri = make_nlri(destination, length)
        if nlri in rows:
            return nlri, rows[nlri]
        if (family, nlri) in gateway.paths.plain_wanted:
            return None
    return None


def _why_none(gateway: Gateway, destination: Address) -> str:
    text, family = address_text(destination), family_of(destination)
    for length in range(family.bits, -1, -1):
        nlri: Nlri = make_nlri(destination, length)
        what = gateway.paths.plain_wanted.get((family, nlri))
        if what is not None:
            hops = ", ".join(map(address_text, what.gateways))
            return (
                f"no table serves {text}: {prefix_text(family, nlri)} is a plain route via {hops}"
            )
    return (
        f"no table serves {text}: no path to it was learned{_refused(gateway, family, destination)}"
    )


def _refused(gateway: Gateway, family: Family, destination: Address) -> str:
    for refusal in gateway.speaker.refusals():
        if refusal.family is family and refusal.nlri == make_nlri(destination, refusal.nlri[0]):
            return (
                f" ({prefix_text(family, refusal.nlri)} from {address_text(refusal.peer)} "
                f"was refused: {refusal.reason.value})"
            )
    return ""


def _target(row: Row, at: int, owner: Address) -> Address:
    if row.want is None or row.present is None or row.want.buckets != row.present.buckets:
        return owner
    return row.want.owner(at)


def _why(gateway: Gateway, row: Row, at: int, owner: Address, target: Address) -> str:
    if owner == target:
        return "the bucket is where its table wants it"
    since = row.waiting_since.get(at)
    if since is None:
        return f"the bucket is about to move to {address_text(target)}"
    waited = time.monotonic() - since
    deadline = gateway.config.move_deadline_s
    late = f", in {deadline - waited:.0f} s at the latest" if deadline is not None else ""
    return (
        f"a move to {address_text(target)} has waited for {waited:.0f} s, until the bucket has "
        f"been idle for {gateway.config.idle_timer_s:g} s{late}"
    )

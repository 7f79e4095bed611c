"""What a gateway tells of its BPF data plane: in `samepath status` and `samepath trace`.

Called by `gateway_view` and `gateway_trace`, which hold the drivers meanwhile. What is shown of
buckets and next hops is what the driver read or wrote last; counters and the flow table are read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from samepath.apply.bpf_plane import buckets_of, seconds_of, ticks_of
from samepath.apply.bpf_services import BpfServices
from samepath.apply.row import Row
from samepath.bpf.errors import BpfError
from samepath.bpf.layout import Counters, FlowCount, Total
from samepath.model.net import Address, address_text, prefix_text
from samepath.plan.transitions import NONE

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway


async def bpf_view(gateway: Gateway, limit: int) -> dict[str, Any] | None:
    """None: there is none, and none is wanted."""
    bpf = gateway.bpf
    if not bpf.is_wanted:
        return None
    driver = bpf.driver
    if driver is None:
        return {"serving": False, "why_not": bpf.why_not}
    error, counters, flows = await asyncio.to_thread(_read, driver)
    found = [(f, nlri) for f, nlris in driver.beyond.items() for nlri in sorted(nlris)]
    return {
        "serving": bpf.is_serving,
        "why_not": "" if bpf.is_serving else "the program is attached to no link",
        "pinned": str(bpf.folder),
        "opened": driver.opened,
        "attached": dict(sorted(bpf.links.stands.items())),
        "services": len(driver.tables.at),
        "tables": len(driver.tables.by_id),
        "kernel_only": [prefix_text(f, nlri) for f, nlri in islice(found, limit)],
        "transition_idle_s": driver.idle_s,
        "transition_deadline_s": driver.deadline_s,
        "transitions": _transitions(driver),
        "hops": _hops(driver, flows),
        "flows": {"tracked": flows.total, "capacity": flows.capacity} if flows else None,
        "counted": {t.name.lower(): counters.totals[t] for t in Total} if counters else {},
        "errors": [e for e in (driver.error, error, *bpf.links.errors.values()) if e],
    }


def _read(driver: BpfServices) -> tuple[str, Counters | None, FlowCount | None]:
    """The flows that were seen within the idle time."""
    since = ticks_of(max(0.0, time.monotonic() - driver.idle_s)) & 0xFFFFFFFF
    try:
        return "", driver.plane.counters(), driver.plane.flows(newer_than=since)
    except BpfError as error:
        return str(error), None, None


def _transitions(driver: BpfServices) -> dict[str, Any]:
    moving = [held for held in driver.tables if not held.is_steady]
    now = ticks_of(time.monotonic())
    oldest = min((int(h.buckets.changed[h.buckets.moving].min()) for h in moving), default=now)
    counts = driver.counts
    return {
        "buckets": sum(int(held.buckets.moving.sum()) for held in moving),
        "oldest_s": round(seconds_of(max(0, now - oldest)), 1),
        "waiting_for_mac": sum(held.unready for held in driver.tables),
        "begun": counts.begun,
        "chained": counts.chained,
        "departed": counts.departed,
        "idle": counts.idle,
        "deadline": counts.late,
    }


def _hops(driver: BpfServices, flows: FlowCount | None) -> list[dict[str, Any]]:
    """`owns` and `keeps` count buckets: those whose new flows it gets, and those whose old ones."""
    owns: Counter[int] = Counter()
    keeps: Counter[int] = Counter()
    for held in driver.tables:
        owns.update(held.buckets.owner.tolist())
        keeps.update(held.buckets.old.tolist())
    draining = {
        hop.address for row in driver.services.rows for hop in row.target.hops if hop.draining
    }
    shown = []
    for index, hop in sorted(driver.hops.known.items(), key=lambda item: item[1].address):
        shown.append(
            {
                "address": address_text(hop.address),
                "mac": hop.destination_mac.hex(":") if hop.resolved else "",
                "why": driver.hops.why.get(hop.address, "") if hop.alive else "gone",
                "draining": hop.address in draining,
                "owns": owns[index],
                "keeps": keeps[index],
                "flows": flows.by_hop.get(index, 0) if flows and keeps.total() else 0,
            }
        )
    return shown


def transitions_of(gateway: Gateway, row: Row) -> dict[str, Any]:
    """Of the tables that a row's services have in the maps."""
    driver = gateway.bpf.driver
    tables = driver.tables.of_row.get(row, ()) if driver is not None else ()
    moving = [held for held in tables if not held.is_steady]
    now = ticks_of(time.monotonic())
    oldest = min((int(h.buckets.changed[h.buckets.moving].min()) for h in moving), default=now)
    return {
        "transitions": sum(int(held.buckets.moving.sum()) for held in moving),
        "oldest_transition_s": round(seconds_of(max(0, now - oldest)), 1),
    }


def bpf_trace(gateway: Gateway, address: Address, bucket: int) -> dict[str, Any] | None:
    """What the maps say of a bucket of a service; None: the program does not know the service.

    `new_flow` is the next hop of a SYN, `old_flow` that of a packet amid a flow that began before
    the transition; where it does not forward (`forwards`), the kernel's group decides.
    """
    bpf = gateway.bpf
    driver = bpf.driver
    held = driver.tables.at.get(address) if driver is not None else None
    if driver is None or held is None or not (bpf.is_serving and driver.is_open):
        return None
    now = time.monotonic()
    buckets = buckets_of(driver.plane.table(held.id), ticks_of(now))
    owner, old = int(buckets.owner[bucket]), int(buckets.old[bucket])
    hop = driver.hops.known.get(owner)
    answer = {
        "table": held.id,
        "forwards": hop is not None and hop.resolved,
        "new_flow": _text(driver, owner),
        "in_transition": old != NONE,
        "old_flow": _text(driver, old or owner),
        "since_s": None,
        "idle_s": None,
    }
    if old != NONE:
        answer["since_s"] = round(now - seconds_of(int(buckets.changed[bucket])), 1)
        answer["idle_s"] = round(now - seconds_of(int(buckets.used[bucket])), 1)
    return {**answer, "why": _why(driver, answer, owner, old)}


def _text(driver: BpfServices, index: int) -> str:
    address = driver.hops.address(index)
    return address_text(address) if address is not None else "none"


def _why(driver: BpfServices, answer: dict[str, Any], owner: int, old: int) -> str:
    if not answer["forwards"]:
        hop = driver.hops.known.get(owner)
        why = driver.hops.why.get(hop.address, "it is gone") if hop is not None else "none is there"
        return f"the program leaves it to the kernel: {why}"
    if old == NONE:
        return "every packet of the bucket goes to its owner"
    rest = (
        f"in transition for {answer['since_s']:.0f} s: a new flow goes to {answer['new_flow']}, "
        "one that began meanwhile stays where it began, "
    )
    if old == owner:
        rest += "and the former owner is gone"
    else:
        rest += f"an older one stays with {answer['old_flow']}"
    late = f" or {driver.deadline_s:g} s old" if driver.deadline_s is not None else ""
    return f"{rest}; ends when idle for {driver.idle_s:g} s (now {answer['idle_s']:.0f} s){late}"

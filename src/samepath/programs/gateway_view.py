"""What a gateway tells of itself: `samepath status`.

Called by the control socket. The kernel is read back, in a thread, and shown where it differs from
what should be there; a difference also wakes the gateway, which mends it. `settled` says that the
kernel holds what is desired, but for moves that wait for their buckets. The names in the answer are
an interface: the lab, the tests and operators' scripts read them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from samepath.apply.readback import Difference, Expected, compare
from samepath.apply.row import Row
from samepath.model.net import Family, Nlri, address_text, prefix_text
from samepath.netlink.kernel import RealKernel
from samepath.programs.gateway_bpf_view import bpf_view, transitions_of
from samepath.programs.memory import no_collection
from samepath.programs.peers_view import peers_view, speaker_settings, turned_away_view

if TYPE_CHECKING:
    from samepath.programs.gateway import Gateway

PREFIXES_SHOWN = 1000
PATIENCE_S = 5.0
BUCKETS_READ = 200_000
"""So many are compared one by one, which takes a quarter of a second; of further groups only the
members are, unless all is asked for."""
PIECE = 64
"""Tables, or sixteen times as many prefixes, that are told before the event loop is served."""


def readiness(gateway: Gateway) -> dict[str, Any]:
    """For probes: cheap, where `status` reads the kernel."""
    sync = gateway.deferral.sync
    why = "" if sync.in_sync else f"not in sync: {sync.text}"
    return {"ready": sync.in_sync, "live": True, "why": why}


async def status(gateway: Gateway, question: dict[str, Any]) -> dict[str, Any]:
    """Everything an operator asks first; JSON-able. Raises ValueError if the gateway is held up."""
    async with held(gateway):
        expected = gateway.services.expected()
        count = max(1, BUCKETS_READ // gateway.config.buckets)
        chosen = None if question.get("all") else gateway.reading.in_turn(expected.groups, count)
    opened = gateway.open_kernel
    difference = await asyncio.to_thread(_compare, expected, chosen, opened)
    async with held(gateway):
        _leave_out_what_changed(gateway, expected, difference)
        return await _answer(gateway, difference, bool(question.get("all")))


@asynccontextmanager
async def held(gateway: Gateway) -> AsyncIterator[None]:
    """The drivers, at rest. Raises ValueError if they do not come to rest."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await gateway.drivers.acquire()
    except TimeoutError:
        raise ValueError(
            f"the kernel has not taken a write for {PATIENCE_S:.0f} s (a link went down under many "
            "groups?): ask again"
        ) from None
    try:
        yield
    finally:
        gateway.drivers.release()


async def _answer(gateway: Gateway, difference: Difference, everything: bool) -> dict[str, Any]:
    services, plain = gateway.services, gateway.plain
    if difference:
        gateway.suspect(difference.changed)
    limit = PREFIXES_SHOWN if not everything else 1 << 30
    rows = [row for row in services.rows if row.nlris]
    tables = []
    for count, row in enumerate(rows, 1):
        tables.append(_table(gateway, row, difference))
        if count % PIECE == 0:
            await asyncio.sleep(0)
    errors = [
        {"prefix": prefix_text(f, n), "error": text}
        for (f, n), text in [*services.routes.errors.items(), *plain.errors.items()]
    ]
    sync = gateway.deferral.sync
    return {
        "program": "gateway",
        "router_id": gateway.config.router_id,
        "as": gateway.config.local_as,
        "dataplane": gateway.config.dataplane,
        "buckets": gateway.config.buckets,
        "hash_seed": gateway.config.hash_seed,
        "idle_timer_s": gateway.config.idle_timer_s,
        "move_deadline_s": gateway.config.move_deadline_s,
        "uptime_s": round(time.monotonic() - gateway.started, 1),
        "in_sync": sync.in_sync,
        "sync": sync.text,
        "config_error": gateway.config_error,
        "cluster": gateway.cluster.view(),
        "settings": [
            *({"severity": f.severity.name.lower(), "text": f.text} for f in gateway.findings.all),
            *speaker_settings(gateway.speaker),
        ],
        "turned_away": turned_away_view(gateway.speaker),
        "flow_hash": {f.label: text or "as predicted" for f, text in gateway.hash_checked.items()},
        "peers": peers_view(gateway.speaker.peers(), gateway.liveness),
        "bfd": await gateway.liveness.summary(),
        "services": await _services(gateway, limit),
        "services_total": sum(map(len, services.rows.of.values())),
        "tables": tables,
        "moves": {
            "waiting": sum(len(row.waiting) for row in rows),
            "departed": services.moved.departed,
            "idle": services.moved.idle,
            "deadline": services.moved.deadline,
        },
        "kernel_routes": gateway.daemon_view(),
        "bpf": await bpf_view(gateway, limit),
        "routes": await _routes(gateway, limit),
        "routes_total": len(gateway.paths.plain_wanted),
        "errors": errors,
        "refusals": [
            {
                "peer": address_text(r.peer),
                "prefix": prefix_text(r.family, r.nlri),
                "reason": r.reason.value,
            }
            for r in gateway.speaker.refusals()[:PREFIXES_SHOWN]
        ],
        "kernel": difference.text or "as desired",
        "settled": sync.in_sync and not difference and not errors and not gateway.is_behind,
    }


def _compare(
    expected: Expected, chosen: set[int] | None, opened: Callable[[], RealKernel]
) -> Difference:
    with no_collection(), closing(opened()) as kernel:
        return compare(kernel, expected, buckets_of=chosen)


def _leave_out_what_changed(gateway: Gateway, expected: Expected, difference: Difference) -> None:
    """The gateway may have written while the kernel was read: then what was read is no news."""
    now = gateway.services.expected()
    for number in [*difference.lost, *difference.changed]:
        if now.groups.get(number) is not expected.groups[number]:
            difference.lost.discard(number)
            difference.changed.pop(number, None)
    difference.replicas &= set(now.replicas)
    difference.stray_replicas -= set(now.replicas)
    difference.stray_groups -= {*now.groups, *now.left_over}
    for family in Family:
        routes = now.routes[family]
        kept = {n: g for n, g in difference.routes[family].items() if routes.get(n) == g}
        difference.routes[family] = kept
        strays = difference.stray_routes[family]
        difference.stray_routes[family] = {n: g for n, g in strays.items() if n not in routes}
    if gateway.services.is_busy:  # what is no longer named is about to be deleted
        difference.stray_replicas.clear()
        difference.stray_groups.clear()
        difference.stray_routes.clear()


def _table(gateway: Gateway, row: Row, difference: Difference) -> dict[str, Any]:
    now = time.monotonic()
    present = row.present.counts() if row.present is not None else {}
    want = row.want.counts() if row.want is not None else present
    hops = {hop.address: hop for hop in row.target.hops}
    members = []
    for address in sorted({*present, *want, *hops}):
        hop = hops.get(address)
        why_not = gateway.services.tables.why_unusable(address) if hop is not None else ""
        state = "draining" if hop is not None and hop.draining else "active"
        members.append(
            {
                "address": address_text(address),
                "weight": hop.weight if hop is not None else 0,
                "state": "gone" if hop is None else "unusable" if why_not else state,
                "why": why_not,
                "present": present.get(address, 0),
                "target": want.get(address, 0),
            }
        )
    since = min((row.waiting_since[m.bucket] for m in row.waiting), default=now)
    return {
        "id": row.id,
        "family": row.family.label,
        "prefixes": len(row.nlris),
        "members": members,
        "buckets": row.present.buckets if row.present is not None else 0,
        "digest": row.present.digest if row.present is not None else "",
        "target_digest": row.want.digest if row.want is not None else "",
        "waiting": len(row.waiting),
        "oldest_wait_s": round(now - since, 1),
        **transitions_of(gateway, row),
        "kernel": _kernel_of(row, difference),
        "error": row.error,
    }


def _kernel_of(row: Row, difference: Difference) -> str:
    if not row.in_kernel or row.id in difference.lost:
        return "not there"
    ids = difference.changed.get(row.id)
    if ids is not None:
        if len(ids) != len(row.entries):
            return "another kind of group"
        count = sum(a != b for a, b in zip(ids, row.entries, strict=True))
        return f"{count} buckets differ"
    missing = sum(n in row.nlris for n in difference.routes.get(row.family, ()))
    return f"{missing} routes are missing" if missing else "as desired"


async def _services(gateway: Gateway, limit: int) -> list[dict[str, Any]]:
    of = gateway.services.rows.of
    keys = [(f, n) for f in Family for n in _sorted(islice(of[f], limit))][:limit]
    hops: dict[int, tuple[list[str], list[str]]] = {}
    shown = []
    for count, (family, nlri) in enumerate(keys, 1):
        row = of[family].get(nlri)
        if row is None:
            continue
        if row.id not in hops:
            known = [(address_text(h.address), h.draining) for h in row.target.hops]
            hops[row.id] = [t for t, d in known if not d], [t for t, d in known if d]
        active, draining = hops[row.id]
        shown.append(
            {
                "prefix": prefix_text(family, nlri),
                "table": row.id,
                "installed": nlri in gateway.services.routed[family],
                "active": active,
                "draining": draining,
            }
        )
        if count % (16 * PIECE) == 0:
            await asyncio.sleep(0)
    return shown


def _sorted(nlris: Any) -> list[Nlri]:
    """By address, shorter prefixes first."""
    return sorted(nlris, key=lambda nlri: (nlri[1:], nlri[:1]))


async def _routes(gateway: Gateway, limit: int) -> list[dict[str, Any]]:
    shown = []
    hops: dict[int, list[str]] = {}
    wanted = gateway.paths.plain_wanted
    for count, ((family, nlri), what) in enumerate(list(islice(wanted.items(), limit)), 1):
        if id(what) not in hops:
            hops[id(what)] = [address_text(a) for a in what.gateways]
        shown.append(
            {
                "prefix": prefix_text(family, nlri),
                "kind": what.kind,
                "next_hops": hops[id(what)],
                "installed": gateway.plain.is_installed(family, nlri),
            }
        )
        if count % (16 * PIECE) == 0:
            await asyncio.sleep(0)
    return shown

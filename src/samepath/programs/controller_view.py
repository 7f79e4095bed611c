"""What the controller tells of itself: the answer to `samepath status`."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

from samepath.model.net import Family, address_text
from samepath.plan.allocation import Plan, Why, allocate
from samepath.plan.allocation_rules import OURS_NOT
from samepath.programs.controller_services import state_of

if TYPE_CHECKING:
    from samepath.programs.controller import Controller


def status(controller: Controller, question: dict[str, Any]) -> dict[str, Any]:
    """Everything an operator asks first; JSON-able. With `all` also the Services in order."""
    now = time.monotonic()
    source, election = controller.source, controller.election
    return {
        "program": "controller",
        "identity": election.identity,
        "leads": election.is_leader(),
        "leads_for_s": round(election.left_s, 1),
        "leader": election.holder,
        "lease_trouble": election.trouble or "",
        "uptime_s": round(now - controller.started, 1),
        "in_sync": {"API server": source.in_sync},
        "source": {
            "where": source.where,
            "objects": len(source.objects),
            "trouble": source.trouble or "",
            "refused": [{"file": r.file, "text": r.text} for r in source.refusals],
        },
        "trouble": controller.trouble,
        **_allocation(controller, everything=bool(question.get("all"))),
        "claims": _claims(controller, now),
        "errors": _errors(controller),
        "events": {
            "written": controller.events.written,
            "left_out": controller.events.left_out,
            "failed": controller.events.failed,
            "trouble": controller.events.trouble,
        },
        "plan_s": round(controller.plan_s, 4),
        "memory_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def readiness(controller: Controller) -> dict[str, Any]:
    """For probes. One that waits for another's Lease is ready: to take over."""
    source = controller.source
    why = "" if source.in_sync else f"not in sync: {source.trouble or 'not read as yet'}"
    return {"ready": source.in_sync, "live": True, "why": why}


def _allocation(controller: Controller, *, everything: bool) -> dict[str, Any]:
    if not controller.source.in_sync:
        return {"services": {"ours": 0, "assigned": 0, "writing": 0}, "rows": [], "pools": []}
    services = controller.cluster.services
    plan = controller.plan
    if plan is None:
        # Not the leader: what the plan would be is of interest all the same.
        controller.look()
        services = controller.cluster.services
        plan = allocate(controller.situation(services))
    rows, counts = [], {"ours": 0, "assigned": 0, "writing": 0}
    for key, outcome in sorted(plan.outcomes.items()):
        service = services.get(key)
        if outcome.why in OURS_NOT or service is None:
            continue
        counts["ours"] += 1
        is_in_order = outcome.why is Why.ASSIGNED and not outcome.notes
        counts["assigned"] += outcome.why is Why.ASSIGNED
        counts["writing"] += not state_of(service, outcome).stands_on(service)
        if everything or not is_in_order:
            rows.append(
                {
                    "service": key,
                    "addresses": [address_text(a) for a in outcome.addresses],
                    "pools": list(outcome.pools),
                    "why": outcome.why.name.lower(),
                    "in_order": is_in_order,
                    "text": outcome.text,
                }
            )
    rows.sort(key=lambda row: bool(row["in_order"]))
    return {"services": counts, "rows": rows, "pools": _pools(plan)}


def _pools(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "pool": name,
            "refused_for": use.refused_for,
            "assigned": {f.label: use.assigned.get(f, 0) for f in Family},
            "available": {f.label: use.available.get(f, 0) for f in Family},
        }
        for name, use in sorted(plan.pools.items())
    ]


def _claims(controller: Controller, now: float) -> dict[str, Any]:
    dead, claims = controller.dead_nodes, controller.cluster.claims.values()
    blocks: dict[str, int] = {}
    for claim in claims:
        blocks[claim.node] = blocks.get(claim.node, 0) + 1
    return {
        "blocks": len(claims),
        "pending": sorted(c.name for c in claims if c.pending),
        "freed": dead.freed,
        "halted": dead.missing.halted,
        "trouble": dead.trouble,
        "missing": [
            {
                "node": node,
                "blocks": blocks.get(node, 0),
                "for_s": round(now - since, 1),
                "free_in_s": round(max(0.0, since + dead.grace_s - now), 1),
            }
            for node, since in sorted(dead.missing.since.items())
        ],
    }


def _errors(controller: Controller) -> dict[str, str]:
    """What could not be written, by what it is about."""
    failures, old = controller.states.failures, controller.old_states.trouble
    return {
        **({"states of nodes that are gone": old} if old else {}),
        **{f"Service {key}": failure.text for key, failure in sorted(failures.items())},
        **{f"IPAddressPool {n}": text for n, text in sorted(controller.pools.errors.items())},
    }

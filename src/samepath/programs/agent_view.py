"""What an agent tells of itself: `samepath status`, and its probes. Called by the control socket.

The source of cluster state stands under `manifests`, whatever it is; `kind` says which.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from samepath.apply.nft import digest_in_kernel
from samepath.apply.tool import ToolError
from samepath.model.net import address_text, prefix_text
from samepath.plan.agent import Prefix
from samepath.programs.peers_view import peers_view, speaker_settings, turned_away_view
from samepath.programs.serving import ADDRESSES, RULES

if TYPE_CHECKING:
    from samepath.programs.agent import Agent

LIVE_S = 120.0
"""A pass that takes longer never ends."""


async def status(agent: Agent, question: dict[str, Any]) -> dict[str, Any]:
    """Everything an operator asks first; JSON-able."""
    now = time.monotonic()
    node = agent.cluster.nodes.get(agent.config.node)
    plain_errors = {prefix_text(f, n): text for (f, n), text in agent.routing.plain.errors.items()}
    return {
        "program": "agent",
        "node": agent.config.node,
        "node_known": node is not None,
        "node_drain": node.drain.value if node and node.drain else "",
        "as": agent.routing.peers.asn,
        "as_from": agent.routing.peers.asn_from,
        "router_id": agent.config.router_id,
        "uptime_s": round(now - agent.started, 1),
        "config_error": agent.config_error,
        "in_sync": {"manifests": agent.source.in_sync, "routes": agent.routing.in_sync},
        "waits_for": agent.routing.waits_for,
        "manifests": {
            "kind": "manifests" if agent.config.manifests is not None else "API server",
            "folder": agent.source.where,
            "objects": len(agent.objects),
            "trouble": agent.source.trouble or "",
            "refused": _refused(agent),
            "gone_nodes": sorted(agent.found.gone),
        },
        "settings": [
            *({"severity": f.severity.name.lower(), "text": f.text} for f in agent.findings),
            *speaker_settings(agent.speaker),
            *_whose_name(agent),
        ],
        "turned_away": turned_away_view(agent.speaker),
        "peers": _peers(agent),
        "bgp_peers": _bgp_peers(agent),
        "advertisements": _advertisements(agent),
        "bfd": await agent.liveness.summary(),
        "mesh": _mesh(agent),
        "blocks": _blocks(agent),
        "services": _services(agent, now),
        "pods": agent.pods.view() if agent.pods is not None else None,
        "told_states": agent.telling.status.view() if agent.telling is not None else None,
        "rules": await _rules(agent),
        "health_checks": agent.serving.health.view(),
        "routes": _routes(agent),
        "errors": {**agent.errors, **plain_errors},
        "refusals": _refusals(agent)[:1000],
    }


async def ready(agent: Agent) -> dict[str, Any]:
    """For probes. Ready: the source has been read, and services and routes stand as far as it says;
    sessions are the neighbours' matter as well, so they do not count. Live: passes go on."""
    in_pass_s = time.monotonic() - agent.pass_began
    why = []
    if not agent.source.in_sync and not agent.known:
        why.append(f"not in sync: {agent.source.trouble or agent.source.where}")
    elif not agent.known:
        why.append("it is not known which pod blocks are ours")
    elif agent.serving.in_place is not None and agent.serving.rules.applied is None:
        why.append("the service rules do not stand yet")
    # A port for health checks that is taken must not hold up the update of all nodes.
    errors = agent.serving.errors
    why += (f"{about}: {errors[about]}" for about in (RULES, ADDRESSES) if about in errors)
    if in_pass_s > LIVE_S:
        why.append(f"a pass has not ended for {in_pass_s:.0f} s")
    return {"ready": not why, "live": in_pass_s <= LIVE_S, "why": "; ".join(why)}


def _whose_name(agent: Agent) -> list[dict[str, str]]:
    """Two hosts with one node name would both take its blocks for their own."""
    node = agent.cluster.nodes.get(agent.config.node)
    here = {address for _, address in agent.addresses}
    if node is None or not node.addresses or not here.isdisjoint(node.addresses):
        return []
    told = ", ".join(map(address_text, node.addresses))
    text = (
        f"no InternalIP of the Node {node.name} ({told}) is an address of this host: does another "
        "host have the same node name?"
    )
    return [{"severity": "warning", "text": text}]


def _refused(agent: Agent) -> list[dict[str, str]]:
    """Of the objects."""
    found = [{"file": r.file, "text": r.text} for r in agent.source.refusals]
    return found + [{"file": f"Service {r.service}", "text": r.text} for r in agent.found.refused]


def _peers(agent: Agent) -> list[dict[str, Any]]:
    """`name`: of its BGPPeer; empty: it has none."""
    names = agent.routing.peers.names
    found = peers_view(agent.speaker.peers(), agent.liveness)
    return [{**peer, "name": names.get(peer["neighbor"], "")} for peer in found]


def _bgp_peers(agent: Agent) -> list[dict[str, Any]]:
    """Every BGPPeer, and why it is no neighbour of ours if it is none."""
    return [
        {
            "name": row.peer,
            "address": address_text(row.address),
            "why": row.why.name,
            "text": row.text,
            "note": row.note,
        }
        for row in agent.routing.peers.rows
    ]


def _advertisements(agent: Agent) -> dict[str, Any]:
    """The BGPAdvertisements that count here, and what of them is refused."""
    rules = agent.serving.rules_of_pools
    refused = (*rules.refused, *agent.routing.not_followed)
    return {
        "here": [
            {
                "name": rule.name,
                "pools": sorted(rule.pools),
                "peers": sorted(rule.peers),
                "addresses": sum(rule in of for of in agent.serving.told.values()),
            }
            for rule in rules.rules
        ],
        "refused": [
            {"advertisement": r.advertisement, "why": r.why.name, "text": r.text} for r in refused
        ],
    }


def _mesh(agent: Agent) -> dict[str, Any] | None:
    """Every other Node, and why it is no neighbour if it is none; None: there is no mesh."""
    if not agent.config.mesh:
        return None
    planned = agent.routing.mesh
    return {
        "trouble": planned.trouble.value,
        "nodes": [
            {
                "node": row.node,
                "address": address_text(row.address) if row.address else "",
                "text": row.text,
            }
            for row in planned.rows
        ],
    }


def _blocks(agent: Agent) -> list[dict[str, Any]]:
    """Our pod blocks, and where pods are served here those of others, too: whose they are, how
    much of them is in use (None: not known), and whether our neighbours are told of them."""
    told = {prefix_text(*block) for block in agent.routing.told_blocks}
    rows = agent.block_rows() if agent.block_rows is not None else []
    if rows:
        return [row | {"told": row["block"] in told} for row in rows]
    return [
        {
            "block": text,
            "node": agent.config.node,
            "ours": True,
            "in_use": None,
            "free": None,
            "told": text in told,
        }
        for text in (prefix_text(*block) for block in _sorted(agent.routing.own))
    ]


def _sorted(blocks: Iterable[Prefix]) -> list[Prefix]:
    return sorted(blocks, key=lambda b: (b[0].bits, b[1][1:], b[1][0]))


def _routes(agent: Agent) -> list[dict[str, Any]]:
    """`node`: the one that the next hop belongs to."""
    nodes = {a: node.name for node in agent.cluster.nodes.values() for a in node.addresses}
    shown = []
    for row in agent.routing.plain.rows:
        hops = row.gateways if isinstance(row.gateways, tuple) else ()
        entry = {
            "prefix": prefix_text(row.family, row.nlri),
            "via": [address_text(g) for g in hops],
            "node": nodes.get(hops[0], "") if len(hops) == 1 else "",
            "blackhole": not isinstance(row.gateways, tuple),
            "installed": row.installed,
            "error": row.error,
        }
        shown.append(entry)
    return shown


def _refusals(agent: Agent) -> list[dict[str, str]]:
    """What the sessions refused, and what came through them but gets no route."""
    told = [(r.peer, r.family, r.nlri, r.reason.value) for r in agent.speaker.refusals()]
    told += [(n.peer, n.family, n.nlri, n.why.value) for n in agent.routing.learned.not_taken]
    return [
        {"peer": address_text(peer), "prefix": prefix_text(family, nlri), "reason": reason}
        for peer, family, nlri, reason in told
    ]


def _services(agent: Agent, now: float) -> list[dict[str, Any]]:
    """`peers`: who is told, where BGPAdvertisements say so; None: every neighbour."""
    shown = []
    names = sorted(agent.routing.told_of_services)
    told: dict[int, list[str]] = {}
    for row in agent.serving.rows:
        entry: dict[str, Any] = {
            "service": row.service,
            "address": address_text(row.address) if row.address else "",
            "reach": row.reach.value,
            "state": row.why.state.value,
            "why": row.why.name,
            "text": row.why.text,
            "weight": row.weight,
        }
        rules = agent.serving.told.get(row.address) if row.address else None
        if rules is not None and id(rules) not in told:
            told[id(rules)] = [n for n in names if any(rule.is_for((n,)) for rule in rules)]
        entry["peers"] = told[id(rules)] if rules is not None else None
        drain = agent.serving.drains.rows.get(row.address) if row.address else None
        if drain is not None:
            entry["drain"] = {
                "for_s": round(now - drain.since, 1),
                "flows": drain.flows,
                "over": drain.over,
            }
        shown.append(entry)
    return shown


async def _rules(agent: Agent) -> dict[str, Any]:
    """The rules as wanted, and as the kernel has them."""
    try:
        kernel = await digest_in_kernel()
    except ToolError as error:
        return {"wanted": agent.serving.ruleset.digest, "kernel": "", "error": str(error)}
    wanted = agent.serving.ruleset.digest
    return {
        "wanted": wanted,
        "kernel": kernel or "",
        "in_place": (kernel or "") == wanted,
        "services": agent.serving.ruleset.services,
        "written_whole": agent.serving.rules.wholes,
        "nat_outgoing": [
            text
            for name in ("natted4", "natted6")
            for text in agent.serving.ruleset.networks.get(name, ())
        ],
        "conflicts": list(agent.serving.ruleset.conflicts),
        "error": agent.serving.rules.error or "",
    }

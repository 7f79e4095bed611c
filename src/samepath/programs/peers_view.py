"""Peers as `samepath status` shows them, the same for gateway and agent."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from samepath.bgp.peer import PeerStatus
from samepath.bgp.transport import Speaker
from samepath.model.net import address_text
from samepath.programs.liveness import Liveness


def peers_view(peers: Iterable[PeerStatus], liveness: Liveness) -> list[dict[str, Any]]:
    """JSON-able, sorted by address."""
    now = time.monotonic()
    return [
        {**_peer(peer, now), "bfd": liveness.view(peer)}
        for peer in sorted(peers, key=lambda p: (len(p.address), p.address))
    ]


def speaker_settings(speaker: Speaker) -> list[dict[str, str]]:
    """What an operator should mend, as the findings about the namespace are shown."""
    return [{"severity": "warning", "text": text} for text in speaker.findings()]


def turned_away_view(speaker: Speaker) -> dict[str, int]:
    """Connections that were not taken, by reason, since the start."""
    return {why.value: count for why, count in speaker.turned_away.items()}


def _peer(peer: PeerStatus, now: float) -> dict[str, Any]:
    router_id = peer.router_id
    return {
        "neighbor": peer.neighbor,
        "address": address_text(peer.address),
        "as": peer.remote_as,
        "router_id": "" if router_id is None else address_text(router_id.to_bytes(4, "big")),
        "state": peer.state.name.capitalize(),
        "since_s": round(max(0.0, now - peer.since_s), 1),
        "hold_time_s": peer.hold_time_s,
        "families": [
            {
                "family": family.label,
                "received": counts.received,
                "accepted": counts.accepted,
                "stale": counts.stale,
                "refused": counts.refused,
                "advertised": counts.advertised,
                "end_of_rib": counts.end_of_rib_received,
            }
            for family, counts in peer.families.items()
        ],
        "stale_for_s": None
        if peer.stale_until_s is None
        else round(max(0.0, peer.stale_until_s - now), 1),
        "last_error": peer.last_error,
        "flaps": peer.flaps,
        "lost_for": peer.lost_for,
        "protection": list(peer.protection),
        "hints": list(peer.hints),
        "refused_for": {reason.value: count for reason, count in peer.refused_for.items()},
        "agreed": list(peer.agreed),
        "messages_received": dict(peer.messages_received),
        "messages_sent": dict(peer.messages_sent),
        "malformed": dict(peer.malformed),
    }

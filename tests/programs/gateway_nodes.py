"""Objects that make a gateway's neighbours, and what its status says of them."""

from __future__ import annotations

from typing import Any

from gateway_stage import Stage

from samepath.model.neighbor import Import, Nodes

POOL = {
    "apiVersion": "samepath.dev/v1",
    "kind": "IPAddressPool",
    "metadata": {"name": "all"},
    "spec": {"addresses": ["192.0.2.0-192.0.2.255", "2001:db8:100::/64"]},
}
NODES = Nodes(
    remote_as=64512, hold_time_s=3, export=["pods", "default"], import_=Import(max_prefixes=100)
)


def node(number: int, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{number}", "labels": more.pop("labels", {})},
        "spec": more,
        "status": {"addresses": [{"type": "InternalIP", "address": f"10.9.0.{number}"}]},
    }


def tier(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": "GatewayTier",
        "metadata": {"name": "edge"},
        "spec": spec,
    }


def cluster(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = stage.status().get("cluster") or {}
    return found


def peers(stage: Stage) -> dict[str, str]:
    return {p["address"]: p["state"] for p in stage.status().get("peers", ())}


def moved(stage: Stage) -> int:
    moves = stage.status()["moves"]
    return int(moves["departed"] + moves["idle"] + moves["deadline"])

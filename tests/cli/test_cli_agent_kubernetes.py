"""`samepath status` of an agent that has its neighbours and its source from the API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_cli_status import AGENT, PEER, run


def peer(name: str, address: str, why: str, text: str = "", note: str = "") -> dict[str, str]:
    return {"name": name, "address": address, "why": why, "text": text, "note": note}


KUBERNETES: dict[str, Any] = {
    **AGENT,
    "as_from": "gw1",
    "in_sync": {"manifests": False, "routes": True},
    "manifests": {
        "kind": "API server",
        "folder": "https://10.96.0.1:443",
        "objects": 7,
        "trouble": "nodes: list: forbidden",
        "refused": [{"file": "BGPPeer x", "text": "BGPPeer x: spec.vrf: not supported"}],
    },
    "peers": [{**PEER, "name": "gw1"}, {**PEER, "name": "gw2", "address": "10.9.0.9"}],
    "bgp_peers": [
        peer("gw1", "10.9.0.2", "NEIGHBOR"),
        peer("gw2", "10.9.0.9", "NEIGHBOR", note="it drops our paths"),
        peer("old", "10.9.0.4", "OTHER_AS", "its myASN is another"),
        peer("far", "10.9.0.5", "NOT_SELECTED", "do not select this node"),
    ],
    "advertisements": {
        "here": [],
        "refused": [{"advertisement": "vpn", "why": "UNKNOWN_COMMUNITY", "text": "adv vpn: none"}],
    },
    "services": [{**AGENT["services"][0], "peers": ["gw1"]}],
}


def test_where_all_comes_from_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "agent.sock").touch()
    result = run(monkeypatch, tmp_path, {"agent": KUBERNETES}, "status", columns=120)
    assert result.exit_code == 0, result.output
    for text in (
        "AS 64512 (BGPPeer gw1)",
        "API server: 7 objects in https://10.96.0.1:443",
        "not in sync: API server",
        "API server: nodes: list: forbidden",
        "refused BGPPeer x: spec.vrf: not supported",
        "refused adv vpn: none",
        "BGPPeer gw2 (10.9.0.9): it drops our paths",
        "BGPPeer old (10.9.0.4) is no neighbour: its myASN is another",
        "BGPPeer far (10.9.0.5): do not select this node",
        ", to gw1",
    ):
        assert text in result.output, text
    assert "manifests" not in result.output
    without = {**KUBERNETES, "as": 0, "as_from": "", "peers": [], "bgp_peers": []}
    result = run(monkeypatch, tmp_path, {"agent": without}, "status", columns=120)
    assert "no AS: neither `as` nor a BGPPeer that selects this node" in result.output

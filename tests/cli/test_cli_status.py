"""What an operator sees: tables that fit, trouble that is said, exit statuses, JSON."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from samepath.cli import status as status_module
from samepath.cli import trace as trace_module
from samepath.cli.main import cli
from samepath.cli.trace import split
from samepath.programs.control import NotRunningError

PEER = {
    "neighbor": "10.9.0.0/24", "address": "10.9.0.1", "as": 64512, "router_id": "10.9.0.1",
    "state": "Established", "since_s": 3700.0, "hold_time_s": 9,
    "families": [
        {"family": "ipv4", "received": 5, "accepted": 4, "stale": 0, "refused": 1,
         "advertised": 2, "end_of_rib": True},
        {"family": "ipv6", "received": 1, "accepted": 1, "stale": 0, "refused": 0,
         "advertised": 0, "end_of_rib": True},
    ],
    "stale_for_s": None, "last_error": "", "flaps": 0,
}  # fmt: skip
DOWN = PEER | {
    "address": "2001:db8:9:1::1234:5678", "state": "Active", "families": [], "stale_for_s": 61.0,
    "last_error": "hold timer expired [after 9 s]", "flaps": 3,
}  # fmt: skip


REFUSED = DOWN | {
    "address": "10.9.0.98", "last_error": "connect: Connection refused",
    "lost_for": "Cease: administrative shutdown (a [new] line card)",
}  # fmt: skip


def member(address: str, present: int, target: int, state: str = "active") -> dict[str, Any]:
    return {"address": address, "weight": 1, "state": state, "why": "",
            "present": present, "target": target}  # fmt: skip


def bucket_table(number: int, *members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": number, "family": "ipv4", "prefixes": 3, "members": list(members), "buckets": 1021,
        "digest": "60a5027c1657b814", "target_digest": "60a5027c1657b814", "waiting": 0,
        "oldest_wait_s": 0.0, "kernel": "as desired", "error": "",
    } | more  # fmt: skip


GATEWAY: dict[str, Any] = {
    "program": "gateway", "router_id": "10.9.0.254", "as": 64512, "dataplane": "kernel",
    "buckets": 1021, "hash_seed": 77, "idle_timer_s": 120.0, "move_deadline_s": None,
    "uptime_s": 90061.0, "in_sync": True, "sync": "expected_peers have sent End-of-RIB",
    "config_error": "", "settings": [
        {"severity": "info", "text": "net.ipv4.ip_forward was 0, now 1"},
        {"severity": "warning", "text": "zebra runs here"},
    ],
    "flow_hash": {"ipv4": "as predicted"}, "peers": [PEER, DOWN, REFUSED],
    "services": [
        {"prefix": "192.0.2.1/32", "table": 0x54000000, "installed": True,
         "active": [f"10.9.0.{n}" for n in range(1, 65)], "draining": ["10.9.0.99"]},
        {"prefix": "2001:db8:100::1/128", "table": 0x54000001,
         "installed": False, "active": ["10.9.0.1"], "draining": []},
    ],
    "services_total": 2,
    "tables": [
        bucket_table(0x54000000, member("10.9.0.1", 511, 511), member("10.9.0.2", 510, 510)),
        bucket_table(
            0x54000001, member("10.9.0.1", 511, 341), member("10.9.0.2", 510, 340, "draining"),
            member("10.9.0.3", 0, 340), waiting=340, oldest_wait_s=75.0, target_digest="ff" * 8,
        ),
    ],
    "moves": {"waiting": 340, "departed": 7, "idle": 8, "deadline": 0},
    "routes": [{"prefix": "10.244.1.0/26", "kind": "pods", "next_hops": ["10.9.0.1"],
                "installed": True}],
    "routes_total": 1, "errors": [],
    "refusals": [{"peer": "10.9.0.1", "prefix": "203.0.113.0/24", "reason": "not allowed"}],
    "kernel": "as desired", "settled": True,
}  # fmt: skip

AGENT: dict[str, Any] = {
    "program": "agent", "node": "node-1", "node_known": True, "node_drain": "label", "as": 64512,
    "router_id": "10.9.0.1", "uptime_s": 5.0, "config_error": "",
    "in_sync": {"manifests": True, "routes": False},
    "manifests": {"folder": "/etc/m", "objects": 7, "trouble": "",
                  "refused": [{"file": "a.yaml", "text": "a.yaml:3: spec: expected object"}]},
    "settings": [], "peers": [PEER],
    "services": [
        {"service": "default/web", "address": "192.0.2.1", "reach": "cluster", "state": "draining",
         "why": "DRAINS", "text": "its last endpoint ends", "weight": 2,
         "drain": {"for_s": 3.0, "flows": 12, "over": False}},
    ],
    "rules": {"wanted": "abc", "kernel": "abc", "in_place": True, "conflicts": [], "error": ""},
    "routes": [{"prefix": "10.244.2.0/26", "via": ["10.9.0.2"], "blackhole": False,
                "installed": True, "error": ""},
               {"prefix": "10.244.1.0/26", "via": [], "blackhole": True,
                "installed": False, "error": "refused"}],
    "errors": {"service rules": "nft is not installed"}, "refusals": [],
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "gateway.sock").touch()
    return tmp_path


def run(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, answers: dict[str, Any], *arguments: str,
    columns: int = 100,
) -> Result:  # fmt: skip
    def ask(run_dir: str, program: str, get: str, **_: Any) -> Any:
        answer = answers[program]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(status_module, "ask", ask)
    monkeypatch.setattr(trace_module, "ask", ask)
    monkeypatch.setenv("COLUMNS", str(columns))
    return CliRunner().invoke(cli, [*arguments, "--run-dir", str(run_dir)])


@pytest.mark.parametrize("columns", [100, 160])
def test_gateway_fits_the_terminal_and_cuts_no_number(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, columns: int
) -> None:
    result = run(monkeypatch, run_dir, {"gateway": GATEWAY}, "status", columns=columns)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= columns
    for text in (
        "in sync: expected_peers have sent End-of-RIB",
        "kernel as desired, but for 340 buckets that wait to be idle",
        "up 1d01h",
        "10.9.0.1, 10.9.0.2, 10.9.0.3 … (64)",
        "10.9.0.99",
        "not installed",
        "60a5027c1657",
        "→ ffffffffffff",
        "340 wait 1m15s",
        "draining",
        "7 off departed next hops, 8 when idle",
        "3 sessions lost, last error: hold timer expired [after 9 s]",
        "lost, the last for: Cease: administrative shutdown (a [new] line card), last error: ",
        "stale paths stay for 1m01s",
        "203.0.113.0/24",
        "zebra runs here",
    ):
        assert text in " ".join(result.output.split()) or text in result.output, text
    assert "ip_forward" not in result.output, "what was set right is not trouble"
    assert result.output.index("0x54000001", result.output.index("Tables of")) < (
        result.output.rindex("0x54000000")
    ), "tables with moves come first"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settled": False, "kernel": "1 groups lost"}, "kernel differs: 1 groups lost"),
        ({"settled": False}, "work in progress"),
        (
            {"settled": False, "errors": [{"prefix": "192.0.2.9/32", "error": "ENOMEM"}]},
            "error 192.0.2.9/32: ENOMEM",
        ),
        ({"in_sync": False, "settled": False}, "not in sync"),
        ({"config_error": "gateway.yaml:3: as: [int]"}, "gateway.yaml:3: as: [int]"),
        ({"flow_hash": {"ipv6": "not as predicted"}}, "flow hash, ipv6: not as predicted"),
    ],
)
def test_trouble_is_said(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, change: dict[str, Any], said: str
) -> None:
    result = run(monkeypatch, run_dir, {"gateway": GATEWAY | change}, "status")
    assert said in result.output


def test_long_lists_are_cut_and_it_is_said(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    answer = deepcopy(GATEWAY)
    answer["services"] = [GATEWAY["services"][0] | {"prefix": f"192.0.{n}.1/32"} for n in range(90)]
    answer["services_total"] = 5000
    answer["tables"] = [bucket_table(0x54000000 + n, member("10.9.0.1", 1021, 1021))
                        for n in range(30)]  # fmt: skip
    result = run(monkeypatch, run_dir, {"gateway": answer}, "status")
    assert "and 4960 more services (--all shows them)" in result.output
    assert "and 20 more tables" in result.output
    everything = run(monkeypatch, run_dir, {"gateway": answer}, "status", "--all")
    assert "192.0.89.1/32" in everything.output
    assert "more tables" not in everything.output


def test_agent_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "agent.sock").touch()
    result = run(monkeypatch, tmp_path, {"agent": AGENT}, "status")
    assert result.exit_code == 0, result.output
    for text in (
        "agent node-1", "draining: label", "not in sync: routes", "7 objects", "default/web",
        "(12 flows left, for 3s)", "service rules: in place", "nft is not installed",
        "a.yaml:3: spec: expected object", "10.244.2.0/26", "refused",
    ):  # fmt: skip
        assert text in result.output, text


def test_the_mesh_and_the_pods_of_a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sessions of the mesh by their nodes, those in trouble first; blocks with their owners."""
    (tmp_path / "agent.sock").touch()
    other = PEER | {"address": "10.9.0.3", "state": "Connect", "families": [],
                    "last_error": "connect: No route to host"}  # fmt: skip
    nodes = [
        {"node": "node-2", "address": "10.9.0.1", "text": ""},
        {"node": "node-3", "address": "10.9.0.3", "text": ""},
        {"node": "node-4", "address": "", "text": "no InternalIP in its Node"},
    ]
    block = {"gives": "gives addresses", "node": "node-1", "ours": True, "told": True}
    answer = AGENT | {
        "peers": [PEER, other, DOWN],
        "mesh": {"trouble": "", "nodes": nodes},
        "waits_for": ["10.9.0.3"],
        "rules": AGENT["rules"] | {"services": False, "nat_outgoing": ["10.244.0.0/16"]},
        "blocks": [
            block | {"block": "10.244.9.0/26", "node": "node-2", "ours": False, "told": False,
                     "in_use": None, "free": None},
            block | {"block": "10.244.1.0/26", "in_use": 60, "free": 4},
            block | {"block": "10.244.1.64/26", "in_use": 3, "free": 0, "told": False,
                     "gives": "its pool is disabled"},
        ],
        "pods": {"attachments": 63, "unfinished": 1, "mtu": 1450, "trouble": "no free address",
                 "errors": {"store": "no space left"}, "strays": ["abc eth0"]},
    }  # fmt: skip
    result = run(monkeypatch, tmp_path, {"agent": answer}, "status", columns=120)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for text in (
        "not in sync: routes, waits for 10.9.0.3",
        "rules (natOutgoing alone): in place, digest abc",
        "natOutgoing: 10.244.0.0/16",
        "pods: 63 attached, 1 unfinished, MTU 1450",
        "pods: no free address",
        "pods store: no space left",
        "pods: a link that is in no store: abc eth0 (samepath ipam check)",
        "Mesh 1 of 3 other nodes are connected",
        "node-3 10.9.0.3 Connect 1h01m 0 0 0 connect: No route to host",
        "node-4 none no InternalIP in its Node",
        "node-2 10.9.0.1 Established 1h01m 5 0 1",
        "10.244.1.0/26 node-1 60 4 told to neighbours",
        "10.244.1.64/26 node-1 3 0 not told to neighbours; its pool is disabled",
        "10.244.9.0/26 node-2",
    ):
        assert text in lines, text
    order = [line.split()[0] for line in lines if line.startswith(("node-", "10.244"))]
    assert order[:6] == ["node-3", "node-4", "node-2", "10.244.1.0/26", "10.244.1.64/26",
                         "10.244.9.0/26"]  # fmt: skip
    # The one that is no node of the mesh stands among the peers.
    assert any(line.startswith("2001:db8:9:1::1234:5678 64512 Active") for line in lines), (
        result.output
    )
    answer["mesh"] = {"trouble": "our own Node is not known", "nodes": []}
    text = run(monkeypatch, tmp_path, {"agent": answer}, "status").output
    assert "no mesh: our own Node is not known" in text


def test_json_has_one_shape(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    result = run(monkeypatch, run_dir, {"gateway": GATEWAY}, "status", "--json")
    assert json.loads(result.output) == {"gateway": GATEWAY}
    (run_dir / "agent.sock").touch()
    both = run(monkeypatch, run_dir, {"gateway": GATEWAY, "agent": AGENT}, "status", "--json")
    assert json.loads(both.output) == {"gateway": GATEWAY, "agent": AGENT}


def test_nobody_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = run(monkeypatch, tmp_path, {}, "status")
    assert result.exit_code == 1
    assert "no gateway and no agent runs with run_dir" in result.output


def test_one_answers_and_one_does_not(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    (run_dir / "agent.sock").touch()
    dead = NotRunningError("agent.sock: no agent answers here: Connection refused")
    result = run(monkeypatch, run_dir, {"gateway": GATEWAY, "agent": dead}, "status")
    assert result.exit_code == 1
    assert "gateway 10.9.0.254" in result.output
    assert "no agent answers here" in result.output


def test_gateway_that_is_held_up_says_so(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    busy = ValueError("the kernel has not taken a write for 5 s: ask again")
    result = run(monkeypatch, run_dir, {"gateway": busy}, "status")
    assert result.exit_code == 1
    assert "samepath: the kernel has not taken a write" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_not_root_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "gateway.sock").touch()
    tmp_path.chmod(0o700)
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            os.setuid(65534)
            answers, troubles = status_module.ask_all(str(tmp_path), False)
            code = 0 if not answers and "only root may ask" in troubles[0] else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


TRACED = {
    "client": "10.8.0.1 port 4000", "service": "192.0.2.1 port 80", "prefix": "192.0.2.1/32",
    "installed": False, "hash": 0x7428FB88, "buckets": 127, "bucket": 75, "table": 0x54000003,
    "digest": "60a5027c1657b814", "next_hop": "10.9.0.1", "draining": True, "target": "10.9.0.2",
    "why": "a move to 10.9.0.2 has waited for 2 s",
}  # fmt: skip


def test_trace_in_words(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    flow = ("trace", "10.8.0.1:4000", "192.0.2.1:80")
    result = run(monkeypatch, run_dir, {"gateway": TRACED}, *flow)
    assert result.exit_code == 0
    assert "next hop  10.9.0.1 (draining, its route is not installed)" in result.output
    assert "bucket    75 of 127" in result.output
    as_json = run(monkeypatch, run_dir, {"gateway": TRACED}, *flow, "--json")
    assert json.loads(as_json.output) == TRACED
    none = run(monkeypatch, run_dir, {"gateway": ValueError("no table serves 192.0.2.1")}, *flow)
    assert none.exit_code == 1
    assert "samepath: no table serves 192.0.2.1" in none.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2001:db8::1:80", "brackets"),
        ("10.8.0.1", "expected ADDRESS:PORT"),
        ("10.8.0.1:", "expected ADDRESS:PORT"),
        (":80", "expected ADDRESS:PORT"),
        ("10.8.0.1:70000", "expected ADDRESS:PORT"),
        ("10.8.0.1:http", "expected ADDRESS:PORT"),
        ("[2001:db8::1]", "expected ADDRESS:PORT"),
        ("10.8.0.1:٣", "expected ADDRESS:PORT"),
    ],
)
def test_flow_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, text: str, said: str
) -> None:
    result = run(monkeypatch, run_dir, {"gateway": TRACED}, "trace", text, "192.0.2.1:80")
    assert result.exit_code == 2
    assert said in result.output


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_can_be_written(address: Any, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    assert split(f"{host}:{port}") == (str(address), port)


def test_gateway_shows_what_it_has_from_the_cluster(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    cluster = {
        "source": "https://10.0.0.1:6443", "in_sync": False, "trouble": "connection [refused]",
        "remembered": True, "error": "", "neighbors": 3, "claims": 12,
        "not_neighbors": [{"node": "n7", "address": "", "why": "no InternalIP in its Node"}],
        "gone": [{"node": "n9", "address": "10.9.0.9", "why": "kept while its session lives"}],
        "kept_prefixes": ["192.0.2.0/24"], "tier": "edge", "tier_trouble": "",
        "pending": "needs restart: would move all flows: hash_seed 7 -> 8",
        "refused": ["IPAddressPool x: spec.addresses: expected array"],
    }  # fmt: skip
    result = run(monkeypatch, run_dir, {"gateway": GATEWAY | {"cluster": cluster}}, "status",
                 columns=200)  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in (
        "https://10.0.0.1:6443, not in sync, neighbours as a former process knew them: 3 Nodes are",
        "GatewayTier edge", "connection [refused]", "would move all flows: hash_seed 7 -> 8",
        "n9 10.9.0.9: kept while its session lives", "n7: no InternalIP", "192.0.2.0/24",
        "refused IPAddressPool x",
    ):  # fmt: skip
        assert part in result.output, part


def test_agent_shows_what_it_could_not_tell(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    told = {"written": 12, "waiting": 1, "left_out": 30,
            "trouble": {"ServiceBGPStatus": "no right [to] create"}}  # fmt: skip
    (run_dir / "agent.sock").touch()
    answers = {"agent": AGENT | {"told_states": told}, "gateway": GATEWAY}
    result = run(monkeypatch, run_dir, answers, "status", columns=200)
    assert "states told: 12 writes, 1 wait, 30 beyond the limits are not" in result.output
    assert "not told to the API server: ServiceBGPStatus: no right [to] create" in result.output

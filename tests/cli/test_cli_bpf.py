"""What an operator sees of the BPF data plane, in status and trace."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from samepath.cli import status_gateway
from samepath.cli import trace as trace_module
from samepath.cli.main import cli

BPF: dict[str, Any] = {
    "serving": True, "why_not": "", "pinned": "/sys/fs/bpf/samepath-1", "opened": "adopted",
    "attached": {"eth0": "tcx", "eth1": "tcx"}, "services": 2, "tables": 1,
    "kernel_only": ["198.51.100.0/28"], "transition_idle_s": 600.0, "transition_deadline_s": None,
    "transitions": {
        "buckets": 340, "oldest_s": 75.0, "waiting_for_mac": 3, "begun": 341, "chained": 2,
        "departed": 4, "idle": 1, "deadline": 0,
    },
    "hops": [
        {"address": "10.9.0.1", "mac": "02:00:00:00:00:01", "why": "", "draining": True,
         "owns": 0, "keeps": 340, "flows": 17},
        {"address": "10.9.0.2", "mac": "", "why": "its MAC is not known on eth0",
         "draining": False, "owns": 1021, "keeps": 0, "flows": 0},
    ],
    "flows": {"tracked": 400, "capacity": 262144}, "counted": {}, "errors": [],
}  # fmt: skip


def shown(bpf: dict[str, Any]) -> str:
    console = Console(width=160, record=True, force_terminal=False)
    with console.capture() as found:
        status_gateway.show_bpf(console, bpf, False)
    return " ".join(found.get().split())


def test_status_shows_transitions_drains_and_what_the_kernel_does() -> None:
    text = shown(BPF)
    for part in (
        "Buckets in transition: 340, the oldest for 1m15s",
        "until idle for 600 s, never for being late",
        "3 wait for the MAC",
        "341 began, 2 changed again, 1 ended idle, 0 at the deadline",
        "17 draining",
        "its MAC is not known on eth0",
        "400 of at most 262144",
        "eth0 (tcx)",
        "No host routes, so by the kernel's groups: 198.51.100.0/28",
    ):
        assert part in text, text


def test_status_says_why_the_kernels_groups_serve() -> None:
    text = shown({"serving": False, "why_not": "libbpf.so.1 is not installed (install libbpf1)"})
    assert "the kernel's groups serve: libbpf.so.1 is not installed" in text


TRACE: dict[str, Any] = {
    "client": "10.8.0.1 port 1", "service": "192.0.2.1 port 80", "prefix": "192.0.2.1/32",
    "installed": True, "hash": 7, "buckets": 1021, "bucket": 7, "table": 0x54000000,
    "digest": "ff", "next_hop": "10.9.0.3", "draining": False, "target": "10.9.0.3",
    "why": "in transition for 5 s",
    "bpf": {"in_transition": True, "forwards": True, "new_flow": "10.9.0.3",
            "old_flow": "10.9.0.1"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["new flow  10.9.0.3", "old flow  10.9.0.1"]),
        ({"forwards": False}, ["next hop  10.9.0.3"]),
        ({"in_transition": False}, ["next hop  10.9.0.3"]),
    ],
)
def test_trace_names_both(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], lines: list[str]
) -> None:
    answer = deepcopy(TRACE)
    answer["bpf"] |= change
    monkeypatch.setattr(trace_module, "ask", lambda *_, **__: answer)
    found = CliRunner().invoke(cli, ["trace", "10.8.0.1:1", "192.0.2.1:80"])
    assert found.exit_code == 0
    for line in lines:
        assert line in found.output
    assert ("old flow" in found.output) == (len(lines) == 2)

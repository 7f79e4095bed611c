"""The whole lab with the BPF data plane: nothing breaks, and a new node has its share at once.

There are a dozen connections for each bucket, so that hardly one is ever idle: the kernel's groups
alone would give the new node next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rich.console import Console

from samepath.lab.removal import down
from samepath.lab.results import Run
from samepath.lab.run import measure
from samepath.lab.state import ROOT
from samepath.lab.topology import Spec
from samepath.programs.gateway_bpf import pin_folder
from tests.witness import steadily

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

SPEC = Spec(buckets=127, hold_time_s=12, idle_timer_s=18.0, transition_idle_s=50.0)
CONNECTIONS = 1600


@pytest.fixture
def name() -> Iterator[str]:
    name = f"spt-{os.getpid()}-b"
    yield name
    down(name)


def test_survival_with_every_bucket_busy(name: str) -> None:
    def attempt() -> None:
        run = measure(name, SPEC, "bpf", CONNECTIONS, None, False, Console(width=160))
        survived(run)
        pins = [pin_folder(str(ROOT / name / "run" / gateway)) for gateway in run.gateways]
        assert not any(folder.exists() for folder in pins), "nothing is left pinned"

    steadily(attempt, held_up_s=1.0, attempts=2)


def survived(run: Run) -> None:
    assert [(c.name, c.found) for c in run.checks if not c.passed] == []
    steps = {s.step: s for s in run.steps}
    assert len(steps) == 8
    for step in run.steps:
        assert step.broken_others == step.broken_silent == 0
        assert step.silent >= 60
        assert step.gateways_agree, "the owners are the target's at once"
    assert steps["add"].buckets_not_busy <= 5
    assert steps["add"].shares_at_once["n5"] > 0.1
    assert steps["add"].moves_waiting > 0, "old flows still have their former owners"
    assert "n2" not in steps["drain"].shares_at_once
    assert steps["remove"].broken_own > 0
    assert steps["restart"].broken == 0
    assert steps["roll"].moves_waiting == 0
    assert steps["gateway_kill_again"].broken == 0

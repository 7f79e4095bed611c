"""The whole lab: what Samepath promises holds, and the control shows that it is worth something.

A machine that stands still while others use it proves nothing; a run that fails so is made again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from samepath.lab import results
from samepath.lab.removal import down, namespaces_of
from samepath.lab.report import write
from samepath.lab.results import Run
from samepath.lab.run import measure
from samepath.lab.state import ROOT
from samepath.lab.topology import Spec
from tests.witness import steadily

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture
def name() -> Iterator[str]:
    name = f"spt-{os.getpid()}-s"
    yield name
    down(name)


HELD_UP_S = 1.0
"""A pause of the machine that may explain a failure."""


def measured(
    name: str,
    spec: Spec,
    dataplane: results.Dataplane,
    connections: int,
    steps: tuple[str, ...] | None = None,
) -> Run:
    run = measure(name, spec, dataplane, connections, steps, False, Console(width=160))
    assert [(c.name, c.found) for c in run.checks if not c.passed] == []
    return run


def test_survival(name: str, tmp_path: Path) -> None:
    def attempt() -> None:
        run = measured(name, Spec(idle_timer_s=18.0, hold_time_s=12), "kernel", 1000)
        survived(run)
        assert write(tmp_path, run).stat().st_size > 50_000
        assert not namespaces_of(name)
        assert not (ROOT / name).exists()

    steadily(attempt, HELD_UP_S, attempts=2)


def survived(run: Run) -> None:
    steps = {s.step: s for s in run.steps}
    assert len(steps) == 8
    assert all(s.broken_others == 0 for s in run.steps)
    assert steps["add"].buckets_moved > 0
    assert steps["drain"].buckets_moved > 0
    assert steps["add"].shares_after["n5"] > 0
    assert steps["remove"].broken_own > 0
    assert steps["remove"].shares_after.get("n2", 0) == 0
    assert steps["crash"].broken_own > 0
    assert steps["roll"].finished == steps["roll"].held
    assert steps["roll"].moves_waiting == 0
    for calm in ("gateway_kill", "gateway_kill_again"):
        assert steps[calm].broken == steps[calm].broken_silent
        assert steps[calm].gateways_agree
    # Moves that waited since the step before may be done now: of the silent, who are idle.
    assert steps["restart"].broken == steps["restart"].broken_silent
    assert min(s.silent for s in run.steps) >= 50
    assert min(s.new_connections for s in run.steps) >= 200


def test_the_control_breaks_what_is_not_concerned(name: str) -> None:
    """The same with plain ECMP; idle_timer means nothing to it, so nothing waits for it."""
    spec = Spec(idle_timer_s=3.0)

    def attempt() -> None:
        run = measured(name, spec, "plain", 400, ("add", "remove", "crash"))
        assert {s.step: s.broken_others > 20 for s in run.steps} == {
            "add": True,
            "remove": True,
            "crash": True,
        }

    steadily(attempt, HELD_UP_S, attempts=2)

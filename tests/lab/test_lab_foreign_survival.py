"""Behind the gateways speak FRR, BIRD and GoBGP, as MetalLB, Calico, Cilium and kube-router have
them configured: who is not concerned by a change notices nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from samepath.lab import foreign
from samepath.lab.foreign_config import Foreign
from samepath.lab.removal import down, namespaces_of
from samepath.lab.results import Step
from samepath.lab.run import measure
from samepath.lab.topology import Spec
from tests.witness import steadily

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.timeout(360)]

CONNECTIONS = 240


@pytest.fixture(params=["frr", "bird", "gobgp"])
def speaker(request: pytest.FixtureRequest) -> Foreign:
    speaker: Foreign = request.param
    if foreign.missing(speaker):
        pytest.skip(f"not installed: {', '.join(foreign.missing(speaker))}")
    return speaker


@pytest.fixture
def name() -> Iterator[str]:
    name = f"spt-{os.getpid()}-f"
    yield name
    down(name)


def survived(
    name: str, speaker: Foreign, *steps: str, seen: Callable[[dict[str, Step]], None]
) -> None:
    """All that the scenario requires held, and `seen` of its steps. A run that fails while the
    machine stands still is made once more."""
    spec = Spec(
        speaker=speaker,
        clients=2,
        nodes=3,
        spares=1,
        pods_per_node=1,
        hold_time_s=9,
        idle_timer_s=6.0,
        buckets=251,
    )

    def attempt() -> None:
        run = measure(name, spec, "kernel", CONNECTIONS, steps, False, Console(width=160))
        assert [(c.name, c.found) for c in run.checks if not c.passed] == []
        assert [s.step for s in run.steps] == list(steps)
        assert all(s.broken_others == s.broken_in_move == 0 for s in run.steps)
        assert not namespaces_of(name)
        seen({s.step: s for s in run.steps})

    steadily(attempt, held_up_s=1.0, attempts=2)


def test_nodes_come_drain_and_go(name: str, speaker: Foreign) -> None:
    def seen(steps: dict[str, Step]) -> None:
        assert steps["add"].buckets_moved > 0
        assert steps["add"].shares_after["n4"] > 0
        assert steps["drain"].buckets_moved > 0
        assert steps["drain"].broken_own == 0
        assert steps["remove"].shares_after.get("n2", 0) == 0

    survived(name, speaker, "add", "drain", "remove", seen=seen)


def test_a_gateway_and_a_node_die(name: str, speaker: Foreign) -> None:
    def seen(steps: dict[str, Step]) -> None:
        assert steps["gateway_kill"].broken == steps["gateway_kill"].broken_silent
        assert steps["gateway_kill"].gateways_agree
        assert steps["crash"].broken_own > 0

    survived(name, speaker, "gateway_kill", "crash", seen=seen)


def test_daemons_are_killed_and_started_again(name: str, speaker: Foreign) -> None:
    def seen(steps: dict[str, Step]) -> None:
        assert steps["restart"].broken_own == 0
        if speaker == "bird":
            back = steps["speaker_restart"]
            assert back.broken == back.broken_silent, "it comes back with its routes"

    survived(name, speaker, "restart", "speaker_restart", seen=seen)

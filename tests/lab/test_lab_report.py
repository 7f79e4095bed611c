"""Results, judgement, tables and the report page, from made-up runs."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from samepath.lab import results
from samepath.lab.report import html, write
from samepath.lab.results import Run, Step, judge, lagging
from samepath.lab.steps import STEPS
from samepath.lab.table import show

NODES = ["n1", "n2", "n3", "n4", "n5", "n6"]


def made_up(dataplane: results.Dataplane = "kernel", **changes: object) -> Run:
    """A whole run that passes; `changes` go into every step."""
    chance = random.Random(1)
    strip = "".join(chance.choice("0123") for _ in range(1021))
    moved = "".join("4" if chance.random() < 0.1 else sign for sign in strip)
    run = Run(
        scenario="survival", dataplane=dataplane, connections=2000, idle_timer_s=30.0,
        hold_time_s=9, buckets=1021, kernel="6.18.0", upstream="bird", gateways=["gw1", "gw2"],
        nodes=NODES, seconds=200.0, gateway_shares=[{"gw1": 0.51, "gw2": 0.49}],
    )  # fmt: skip
    for index, (name, title, _) in enumerate(STEPS):
        step = Step(
            step=name, title=title, started_s=20.0 * index, seconds=20.0, held=2000, silent=100,
            new_connections=400, longest_stall_s=1.5, gateways_agree=True, converge_s=0.4,
            shares_before={"n1": 0.25, "n2": 0.25, "n3": 0.25, "n4": 0.25},
            shares_after={"n1": 0.22, "n2": 0.23, "n3": 0.23, "n4": 0.23, "n5": 0.09},
            fair=dict.fromkeys(NODES[:5], 0.2), buckets_moved=200, moves_waiting=60,
            strips_before={g: {"ipv4": strip, "ipv6": strip} for g in run.gateways},
            strips_after={g: {"ipv4": moved, "ipv6": moved} for g in run.gateways},
        )  # fmt: skip
        for field, value in changes.items():
            setattr(step, field, value)
        step.notes = lagging(step)
        run.steps.append(step)
    judge(run)
    return run


def test_a_good_run_passes() -> None:
    run = made_up()
    assert run.passed
    assert [c.passed for c in run.checks] == [True] * 7


@pytest.mark.parametrize(
    "changes",
    [
        {"broken_others": 1},
        {"buckets_moved": 0},
        {"sessions_lost": ["gw1 lost its session with n1"]},
        {"new_failed": 3},
        {"machine_pause_s": 5.0},
        {"gateways_agree": False, "moves_waiting": 0},
    ],
)
def test_what_fails_a_run(changes: dict[str, object]) -> None:
    run = made_up(**changes)
    assert not run.passed
    assert sum(not c.passed for c in run.checks) == 1


def test_what_does_not_fail_a_run() -> None:
    assert made_up(broken_own=500, broken_silent=7, broken_in_move=3).passed
    assert made_up(gateways_agree=False, moves_waiting=5).passed
    assert made_up("plain", broken_others=700, buckets_moved=0).passed


def test_gateways_must_share_the_load() -> None:
    run = made_up()
    run.gateway_shares.append({"gw1": 0.61, "gw2": 0.39})
    judge(run)
    assert not run.passed
    run.gateway_shares = []
    judge(run)
    assert not run.passed


def test_a_lagging_node_is_said_with_its_reason() -> None:
    (note,) = lagging(made_up().steps[0])
    assert note.startswith("n5 gets 9% of new connections where 20% is its fair share")
    assert "60 buckets are busy" in note


def test_json_has_the_names_and_comes_back() -> None:
    run = made_up()
    text = results.encode(run)
    assert results.decode(text) == run
    step = msgspec.json.decode(text)["steps"][0]
    for name in ("broken_own", "broken_others", "broken_silent", "broken_in_move",
                 "longest_stall_s", "shares_before", "shares_after", "buckets_moved",
                 "converge_s"):  # fmt: skip
        assert name in step


def test_the_page_stands_alone(tmp_path: Path) -> None:
    run, control = made_up(), made_up("plain", broken_others=700)
    control.steps = control.steps[1:5]
    page = write(tmp_path / "report", run, control).read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', page.replace("xlink:href", "href"))
    assert "Connections broken, step by step" in page
    assert "Node added" in page
    assert "700 others of 2000" in page
    assert "not run" in page
    assert "n5 gets 9% of new connections" in page
    assert results.decode((tmp_path / "report" / "survival-plain.json").read_bytes()) == control


def test_the_page_without_a_control_and_with_little() -> None:
    run = made_up()
    run.steps = run.steps[:1]
    run.steps[0].strips_after["gw2"] = {}
    assert "The control" not in html(run).partition("How it was measured")[0]


def test_the_table_fits_a_terminal() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(console, made_up(), made_up("plain", broken_others=700))
    text = console.export_text()
    assert "700 of 2000" in text
    assert "n5 0→9" in text
    assert "✓ broken_others is 0 in every step" in text


def test_a_draining_node_that_still_gets_new_connections_is_said() -> None:
    step = made_up().steps[2]
    del step.fair["n2"]
    assert any(note.startswith("n2 drains, and still gets 23%") for note in lagging(step))
    step.shares_after["n2"] = 0.01
    assert not any(note.startswith("n2") for note in lagging(step))

"""The result of a run, and of two beside each other, as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepath.lab.results import Run, Step

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show(console: Console, run: Run, control: Run | None = None) -> None:
    """All steps of a run, what was required, and the control beside it."""
    console.print(_steps(run))
    if control is not None:
        compare(console, run, control)
    for check in run.checks:
        sign = "[green]✓[/]" if check.passed else "[red]✗[/]"
        console.print(f"{sign} {check.name}: {check.found}", highlight=False)


def compare(console: Console, run: Run, control: Run) -> None:
    """What was broken that had nothing to do with the step, side by side."""
    console.print(_comparison(run, control))


def _steps(run: Run) -> Table:
    table = _table(
        f"{run.scenario}, data plane {run.dataplane}: {run.connections} connections, "
        f"{run.seconds:.0f} s"
    )
    table.add_column("Step", no_wrap=True)
    for name in ("own", "others", "silent", "in move"):
        table.add_column(f"broken\n{name}", justify="right")
    for name in ("longest\nstall", "buckets\nmoved", "moves\nwaiting", "kernel =\ntarget after"):
        table.add_column(name, justify="right")
    table.add_column("share of new connections\nbefore → after, %")
    for step in run.steps:
        others = f"[red]{step.broken_others}[/]" if step.broken_others else "[green]0[/]"
        table.add_row(
            step.title,
            str(step.broken_own),
            others,
            str(step.broken_silent),
            str(step.broken_in_move),
            f"{step.longest_stall_s:.1f} s",
            str(step.buckets_moved),
            str(step.moves_waiting),
            "" if step.converge_s is None else f"{step.converge_s:.1f} s",
            shares(step),
        )
    return table


def shares(step: Step) -> str:
    """`n1 25→20 n5 0→9`, per cent, all nodes of before or after."""
    nodes = sorted({*step.shares_before, *step.shares_after})
    parts = [
        f"{n} {100 * step.shares_before.get(n, 0):.0f}→{100 * step.shares_after.get(n, 0):.0f}"
        for n in nodes
    ]
    return " ".join(parts)


def _comparison(run: Run, control: Run) -> Table:
    table = _table("Connections broken that had nothing to do with the step (broken_others)")
    table.add_column("Step")
    table.add_column(f"Samepath ({run.dataplane})", justify="right")
    table.add_column(f"kernel ECMP ({control.dataplane})", justify="right")
    for step in run.steps:
        other = control.step(step.step)
        table.add_row(
            step.title,
            _of(step),
            "not run" if other is None else _of(other),
        )
    return table


def _of(step: Step) -> str:
    return f"{step.broken_others} of {step.held}"


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)

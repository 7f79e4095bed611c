"""`samepath lab run survival`: a lab of its own, the scenario, the JSON, the table, the report."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from samepath.lab import results
from samepath.lab.progress import Progress
from samepath.lab.removal import down, need_root
from samepath.lab.render import Dataplane
from samepath.lab.results import Run
from samepath.lab.running import Lab
from samepath.lab.scenario import Survival, period_s
from samepath.lab.state import LabError, replace
from samepath.lab.steps import chosen
from samepath.lab.topology import Spec

if TYPE_CHECKING:
    from rich.console import Console

TITLES = {
    "kernel": "Survival with Samepath (resilient groups, each bucket owned)",
    "bpf": "Survival with Samepath (BPF: new flows by the new table at once)",
    "plain": "The control: the same with the kernel's plain ECMP",
}


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Nobody else runs this lab; what a crashed run of it has left is removed. Raises LabError."""
    need_root()
    lock = Path(f"/run/{name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"{name} is running already") from None
        try:
            down(name)
            yield
        finally:
            lock.unlink(missing_ok=True)


def run_survival(
    *,
    name: str,
    spec: Spec,
    dataplane: Dataplane,
    connections: int,
    steps: tuple[str, ...] | None = None,
    json_file: Path | None = None,
    report: Path | None = None,
    control: Path | None = None,
    keep: bool = False,
    console: Console | None = None,
) -> Run:
    """Run it and write what was asked for. Raises LabError, ValueError; the lab goes in any case,
    unless it is to be kept."""
    from rich.console import Console

    from samepath.lab.table import show

    console = console or Console(stderr=False, width=None if sys.stdout.isatty() else 160)
    other = results.decode(control.read_bytes()) if control else None
    result = measure(name, spec, dataplane, connections, steps, keep, console)
    show(console, result, other)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        replace(json_file, results.encode(result))
        console.print(f"JSON: {json_file}", highlight=False)
    if report:
        from samepath.lab.report import write

        console.print(f"Report: {write(report, result, other)}", highlight=False)
    return result


def measure(
    name: str,
    spec: Spec,
    dataplane: Dataplane,
    connections: int,
    steps: tuple[str, ...] | None,
    keep: bool,
    console: Console,
) -> Run:
    """A lab up, the scenario, the lab down."""
    wanted = chosen(steps, spec.speaker, spec.source)
    # A pod's connections, each speaking once a period, must all hear of its end within its grace.
    grace_s = max(spec.grace_s, 3 * period_s(connections))
    spec = msgspec.structs.replace(spec, grace_s=grace_s)
    with Progress(console, TITLES[dataplane]) as progress:
        lab = Lab.up(name, spec, dataplane, tell=progress.tell)
        try:
            survival = Survival(
                lab, connections=connections, tell=progress.tell, told=progress.told
            )
            return survival.run(wanted)
        finally:
            if keep:
                console.print(f"The lab {name!r} stays up: `samepath lab down --name {name}`")
            else:
                down(name)

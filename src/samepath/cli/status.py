"""`samepath status`: what the programs of this host hold to be true, as tables.

Columns as operators know them from `cilium bgp peers` and its kin. What is wrong comes last, where
the eye is. `--json` prints one object with the answer of each program under its name, all names as
the programs give them.

`--ready PROGRAM` and `--live PROGRAM` are for probes, one line and an exit status: ready when its
sources are in sync and what it is for stands, live when its loop turns. (80 ms of a CPU each.)

Exit status: 0 when every program that is there has answered, 1 when none has or one did not; of a
probe 0 for yes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from samepath.programs.control import NotRunningError, ask

RUN_DIR = click.option(
    "--run-dir", default="/run/samepath", show_default=True, help="`run_dir` of the program."
)
PROGRAMS = ("gateway", "agent", "controller")
PROBED = click.Choice(("gateway", "agent", "controller"))


@click.command(help="Peers, services, tables, moves, refusals of the programs that run here.")
@RUN_DIR
@click.option("--json", "as_json", is_flag=True, help="The whole answers, for other programs.")
@click.option("--all", "everything", is_flag=True, help="Every prefix and table, however many.")
@click.option("--ready", type=PROBED, help="Only: is it ready? Exit status and a line why.")
@click.option("--live", type=PROBED, help="Only: does it still turn?")
def status(
    run_dir: str, as_json: bool, everything: bool, ready: str | None, live: str | None
) -> None:
    if ready or live:
        is_well, why = probe(run_dir, ready or live or "", for_life=not ready)
        click.echo(why)
        sys.exit(0 if is_well else 1)
    answers, troubles = ask_all(run_dir, everything)
    if as_json:
        click.echo(json.dumps(answers, indent=1))
    else:
        for answer in answers.values():
            show(answer, everything)
    for trouble in troubles:
        click.echo(f"samepath: {trouble}", err=True)
    if troubles:
        sys.exit(1)


def probe(run_dir: str, program: str, *, for_life: bool) -> tuple[bool, str]:
    """Whether it is ready, or alive, and why not."""
    word = "live" if for_life else "ready"
    try:
        try:
            answer = ask(run_dir, program, "ready")
        except ValueError:  # it has no such answer; or has begun, and has none at all as yet
            if for_life:
                return True, word
            is_in_sync = ask(run_dir, program, "status").get("in_sync", True)
            answer = {"ready": is_in_sync, "why": "" if is_in_sync else "not in sync"}
    except (NotRunningError, ValueError) as error:
        return False, str(error)
    return bool(answer[word]), answer["why"] or word


def ask_all(run_dir: str, everything: bool) -> tuple[dict[str, Any], list[str]]:
    """The answers by program, and what went wrong, in words."""
    answers: dict[str, Any] = {}
    troubles = []
    for program in PROGRAMS:
        try:
            if (Path(run_dir) / f"{program}.sock").exists():
                answers[program] = ask(run_dir, program, "status", all=everything)
        except PermissionError:
            return {}, [f"{run_dir}: only root may ask: permission denied"]
        except (NotRunningError, ValueError) as error:
            troubles.append(str(error))
    if not answers and not troubles:
        troubles.append(
            f"no gateway and no agent runs with run_dir {run_dir} (--run-dir names another)"
        )
    return answers, troubles


def show(answer: dict[str, Any], everything: bool) -> None:
    # Imported here: `--json` and `--help` need no tables.
    from samepath.cli import status_agent, status_controller, status_gateway
    from samepath.cli.terminal import console

    out = console()
    if answer["program"] == "gateway":
        status_gateway.show(out, answer, everything)
    elif answer["program"] == "controller":
        status_controller.show(out, answer, everything)
    else:
        status_agent.show(out, answer, everything)

"""`samepath status`: what the gateway and the agent of this host hold to be true, as tables.

Columns as operators know them from `cilium bgp peers` and its kin. What is wrong comes last, where
the eye is. `--json` prints one object with the answer of each program under its name, all names as
the programs give them.

Exit status: 0 when every program that is there has answered, 1 when none has or one did not.
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
PROGRAMS = ("gateway", "agent")


@click.command(help="Peers, services, tables, moves, refusals of the programs that run here.")
@RUN_DIR
@click.option("--json", "as_json", is_flag=True, help="The whole answers, for other programs.")
@click.option("--all", "everything", is_flag=True, help="Every prefix and table, however many.")
def status(run_dir: str, as_json: bool, everything: bool) -> None:
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
    from samepath.cli import status_agent, status_gateway
    from samepath.cli.terminal import console

    out = console()
    if answer["program"] == "gateway":
        status_gateway.show(out, answer, everything)
    else:
        status_agent.show(out, answer, everything)

"""`samepath status`: what a running gateway or agent holds to be true, as tables.

Columns as operators know them from `cilium bgp peers` and its kin. `--json` prints the answer of
the program itself, which is what tests and the lab read.
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


@click.command(help="Peers, services, tables, moves, refusals of the programs that run here.")
@RUN_DIR
@click.option("--json", "as_json", is_flag=True, help="The whole answer, for other programs.")
@click.option("--all", "everything", is_flag=True, help="Every prefix, however many.")
def status(run_dir: str, as_json: bool, everything: bool) -> None:
    answers = []
    for program in ("gateway", "agent"):
        if (Path(run_dir) / f"{program}.sock").exists():
            try:
                answers.append(ask(run_dir, program, "status", all=everything))
            except NotRunningError as error:
                click.echo(f"samepath: {error}", err=True)
    if not answers:
        click.echo(f"samepath: no gateway and no agent runs with run_dir {run_dir}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(answers[0] if len(answers) == 1 else answers, indent=1))
        return
    for answer in answers:
        _show(answer)


def _show(answer: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    program = answer["program"]
    if program == "gateway":
        _gateway(console, answer)
    else:
        _agent(console, answer)
    for finding in answer.get("settings", []):
        if finding["severity"] != "ok":
            console.print(f"[yellow]{finding['severity']}[/]: {finding['text']}")
    if answer.get("config_error"):
        console.print(f"[red]configuration refused[/]: {answer['config_error']}")
    for error in answer.get("errors", []):
        console.print(f"[red]error[/] {error['prefix']}: {error['error']}")
    refusals = answer.get("refusals", [])
    if refusals:
        table = _table("Refused", "Peer", "Prefix", "Reason")
        for refusal in refusals[:50]:
            table.add_row(refusal["peer"], refusal["prefix"], refusal["reason"])
        console.print(table)
        if len(refusals) > 50:
            console.print(f"and {len(refusals) - 50} more (--json shows them)")


def _gateway(console: Any, answer: dict[str, Any]) -> None:
    state = "[green]in sync[/]" if answer["in_sync"] else "[yellow]not in sync[/]"
    kernel = "[green]kernel as desired[/]" if answer["settled"] else "[yellow]work in progress[/]"
    console.print(
        f"[bold]gateway {answer['router_id']}[/] AS {answer['as']}, {state} ({answer['sync']}), "
        f"{kernel}, data plane {answer['dataplane']}"
    )
    _peers(console, answer["peers"])
    services = _table("Services", "Prefix", "Active", "Draining", "Table")
    for service in answer["services"][:50]:
        services.add_row(
            service["prefix"],
            ", ".join(service["active"]),
            ", ".join(service["draining"]),
            f"{service['table']:#x}" + ("" if service["installed"] else " (not installed)"),
        )
    console.print(services)
    if len(answer["services"]) > 50:
        console.print(f"and {len(answer['services']) - 50} more (--json shows them)")
    tables = _table(
        f"Tables of {answer['buckets']} buckets",
        "Table", "Prefixes", "Next hop", "State", "Weight", "Buckets", "Target", "Digest",
        "Waiting", "Kernel",
    )  # fmt: skip
    for table in answer["tables"]:
        digest = table["digest"]
        if table["target_digest"] not in ("", digest):
            digest += f" → {table['target_digest']}"
        first = (f"{table['id']:#x}", str(table["prefixes"]))
        last = (
            digest,
            f"{table['waiting']} ({table['oldest_wait_s']:.0f} s)" if table["waiting"] else "0",
            table["error"] or table["kernel"],
        )
        for i, member in enumerate(table["members"]):
            tables.add_row(
                *(first if i == 0 else ("", "")),
                member["address"],
                member["state"],
                str(member["weight"]),
                str(member["present"]),
                str(member["target"]),
                *(last if i == 0 else ("", "", "")),
            )
    console.print(tables)
    moves = answer["moves"]
    console.print(
        f"Buckets moved since start: {moves['departed']} off departed next hops, "
        f"{moves['idle']} when idle, {moves['deadline']} at the deadline; {moves['waiting']} wait."
    )


def _agent(console: Any, answer: dict[str, Any]) -> None:
    console.print(f"[bold]agent {answer['node']}[/] AS {answer.get('as', '')}")
    _peers(console, answer["peers"])
    services = _table("Services", "Service", "Address", "State", "Weight", "Why")
    for service in answer["services"]:
        services.add_row(
            service["service"],
            service["address"],
            service["state"],
            str(service["weight"]),
            service["why"],
        )
    console.print(services)
    for refused in answer.get("refused_files", []):
        console.print(f"[red]refused[/] {refused}")


def _peers(console: Any, peers: list[dict[str, Any]]) -> None:
    table = _table(
        "Peers", "Peer", "AS", "State", "For", "Family", "Accepted", "Stale", "Refused",
        "Advertised", "Last error",
    )  # fmt: skip
    for peer in peers:
        for i, family in enumerate(peer["families"] or [{}]):
            table.add_row(
                *(
                    (peer["address"], str(peer["as"]), peer["state"], _ago(peer["since_s"]))
                    if i == 0
                    else ("", "", "", "")
                ),
                str(family.get("family", "")),
                *(str(family.get(k, "")) for k in ("accepted", "stale", "refused", "advertised")),
                peer["last_error"] if i == 0 else "",
            )
    console.print(table)


def _table(title: str, *columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column)
    return table


def _ago(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"

"""`samepath status` of an agent."""

from __future__ import annotations

from typing import Any

from samepath.cli.terminal import (
    SHOWN,
    Console,
    ago,
    cut,
    escape,
    peers,
    refusals,
    table,
    trouble,
)


def show(out: Console, answer: dict[str, Any], everything: bool) -> None:
    drains = f"  [yellow]draining: {answer['node_drain']}[/]" if answer["node_drain"] else ""
    unknown = "" if answer["node_known"] else "  [red]no such Node in the manifests[/]"
    out.print(
        f"[bold]agent {escape(answer['node'])}[/]  AS {answer['as']}  up "
        f"{ago(answer['uptime_s'])}{drains}{unknown}"
    )
    for source, is_in_sync in answer["in_sync"].items():
        if not is_in_sync:
            out.print(f"  [yellow]not in sync[/]: {source}")
    manifests, rules = answer["manifests"], answer["rules"]
    out.print(f"  manifests: {manifests['objects']} objects in {escape(manifests['folder'])}")
    out.print(f"  service rules: {_rules(rules)}\n")
    peers(out, answer["peers"])
    _services(out, answer, everything)
    _routes(out, answer, everything)
    refusals(out, answer["refusals"], everything)
    for what, text in answer["errors"].items():
        out.print(f"[red]error[/] {escape(what)}: {escape(text)}")
    if manifests["trouble"]:
        out.print(f"[red]manifests[/]: {escape(manifests['trouble'])}")
    for refused in manifests["refused"]:
        out.print(f"[red]refused[/] {escape(refused['text'])}")
    for conflict in rules.get("conflicts", []):
        out.print(f"[yellow]conflict[/]: {escape(conflict)}")
    trouble(out, answer)


def _rules(rules: dict[str, Any]) -> str:
    if rules["error"]:
        return f"[red]{escape(rules['error'])}[/]"
    if rules["in_place"]:
        return f"[green]in place[/], digest {rules['kernel']}" if rules["kernel"] else "none"
    return f"[yellow]not in place[/]: wanted {rules['wanted']}, kernel {rules['kernel'] or 'none'}"


def _services(out: Console, answer: dict[str, Any], everything: bool) -> None:
    services = answer["services"]
    if not services:
        return
    shown = services if everything else services[:SHOWN]
    made = table(
        "Services", "Service", "Address", "State", "Weight", "Why", right=("Weight",), long="Why"
    )
    for service in shown:
        drain = service.get("drain")
        why = service["text"] or service["why"]
        if drain:
            why += f" ({drain['flows']} flows left, for {ago(drain['for_s'])})"
        made.add_row(
            escape(service["service"]),
            service["address"],
            service["state"],
            str(service["weight"]),
            escape(why),
        )
    out.print(made)
    cut(out, len(shown), len(services), "services")


def _routes(out: Console, answer: dict[str, Any], everything: bool) -> None:
    routes = answer["routes"]
    if not routes:
        return
    shown = routes if everything else routes[:SHOWN]
    made = table("Routes", "Prefix", "Via", "State", long="Via")
    for route in shown:
        via = "blackhole" if route["blackhole"] else ", ".join(route["via"])
        state = "installed" if route["installed"] else "[red]not installed[/]"
        made.add_row(route["prefix"], via, escape(route["error"]) or state)
    out.print(made)
    cut(out, len(shown), len(routes), "routes")

"""`samepath status` of a controller."""

from __future__ import annotations

from typing import Any

from samepath.cli.terminal import SHOWN, Console, ago, cut, escape, table


def show(out: Console, answer: dict[str, Any], everything: bool) -> None:
    out.print(
        f"[bold]controller {escape(answer['identity'])}[/]  up {ago(answer['uptime_s'])}  "
        f"{_leader(answer)}"
    )
    source = answer["source"]
    for name, is_in_sync in answer["in_sync"].items():
        if not is_in_sync:
            out.print(f"  [yellow]not in sync[/]: {name}")
    out.print(f"  API server: {source['objects']} objects of {escape(source['where'])}")
    counts = answer["services"]
    writing = f", [yellow]{counts['writing']} not yet written[/]" if counts["writing"] else ""
    out.print(
        f"  services of type LoadBalancer: {counts['ours']}, {counts['assigned']} have their "
        f"addresses{writing}"
    )
    out.print(f"  pod blocks: {answer['claims']['blocks']} claimed{_freed(answer['claims'])}\n")
    _pools(out, answer["pools"], everything)
    _services(out, answer["rows"], everything)
    _claims(out, answer["claims"], everything)
    _trouble(out, answer)


def _leader(answer: dict[str, Any]) -> str:
    if answer["leads"]:
        return f"[green]leader[/], for {answer['leads_for_s']:.0f}s unless renewed"
    if answer["leader"]:
        return f"waits: {escape(answer['leader'])} leads"
    return "[yellow]waits: nobody leads[/]"


def _freed(claims: dict[str, Any]) -> str:
    return f", {claims['freed']} freed of nodes that are gone" if claims["freed"] else ""


def _pools(out: Console, pools: list[dict[str, Any]], everything: bool) -> None:
    if not pools:
        out.print("[bold]Pools[/]\n  none\n")
        return
    numbers = ("IPv4 used", "IPv4 free", "IPv6 used", "IPv6 free")
    made = table("Pools", "Pool", *numbers, "State", right=numbers, long="State")
    shown = pools if everything else pools[:SHOWN]
    for pool in shown:
        full = [
            name
            for family, name in (("ipv4", "IPv4"), ("ipv6", "IPv6"))
            if pool["assigned"][family] and not pool["available"][family]
        ]
        state = f"[yellow]no {' and no '.join(full)} address is free[/]" if full else ""
        if pool["refused_for"]:
            state = f"[red]refused[/]: overlaps {escape(pool['refused_for'])}"
        cells = (
            "" if pool["refused_for"] else _amount(pool[which][family])
            for family in ("ipv4", "ipv6")
            for which in ("assigned", "available")
        )
        made.add_row(escape(pool["pool"]), *cells, state)
    out.print(made)
    cut(out, len(shown), len(pools), "pools")


def _amount(number: int) -> str:
    """A /64 has more addresses than one reads."""
    return str(number) if number < 1 << 24 else f"2^{number.bit_length() - 1}"


def _services(out: Console, rows: list[dict[str, Any]], everything: bool) -> None:
    if not rows:
        return
    title = "Services" if everything else "Services that lack an address, or keep one with a note"
    made = table(title, "Service", "Addresses", "Pool", "Why", long="Why")
    shown = rows if everything else rows[:SHOWN]
    for row in shown:
        why = "" if row["in_order"] else escape(row["text"])
        if row["why"] != "assigned":
            why = f"[yellow]{why}[/]"
        addresses = ", ".join(row["addresses"]) or "[yellow]none[/]"
        made.add_row(escape(row["service"]), addresses, escape(", ".join(row["pools"])), why)
    out.print(made)
    cut(out, len(shown), len(rows), "services")


def _claims(out: Console, claims: dict[str, Any], everything: bool) -> None:
    if claims["halted"]:
        out.print(f"[red]nodes missing[/]: {escape(claims['halted'])}")
    if claims["missing"]:
        made = table("Nodes that are gone", "Node", "Blocks", "For", "Freed in", right=("Blocks",))
        shown = claims["missing"] if everything else claims["missing"][:SHOWN]
        for node in shown:
            made.add_row(
                escape(node["node"]),
                str(node["blocks"]),
                ago(node["for_s"]),
                ago(node["free_in_s"]),
            )
        out.print(made)
        cut(out, len(shown), len(claims["missing"]), "nodes")
    if claims["pending"]:
        names = ", ".join(map(escape, claims["pending"][:5]))
        out.print(f"{len(claims['pending'])} claims are not confirmed as yet: {names}")
    if claims["trouble"]:
        out.print(f"[red]claims[/]: {escape(claims['trouble'])}")


def _trouble(out: Console, answer: dict[str, Any]) -> None:
    for what, text in answer["errors"].items():
        out.print(f"[red]error[/] {escape(what)}: {escape(text)}")
    if answer["lease_trouble"]:
        out.print(f"[red]Lease[/]: {escape(answer['lease_trouble'])}")
    if answer["trouble"]:
        out.print(f"[red]error[/] {escape(answer['trouble'])}")
    if answer["source"]["trouble"]:
        out.print(f"[red]API server[/]: {escape(answer['source']['trouble'])}")
    for refused in answer["source"]["refused"]:
        out.print(f"[red]refused[/] {escape(refused['text'])}")
    events = answer["events"]
    if events["left_out"] or events["failed"]:
        why = f": {escape(events['trouble'])}" if events["trouble"] else ""
        out.print(
            f"[yellow]Events[/]: {events['left_out']} left out, {events['failed']} failed{why}"
        )

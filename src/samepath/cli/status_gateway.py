"""`samepath status` of a gateway."""

from __future__ import annotations

from typing import Any

from samepath.cli.terminal import (
    SHOWN,
    Console,
    ago,
    bfd,
    cut,
    escape,
    hops,
    peers,
    refusals,
    table,
    trouble,
)

TABLES_SHOWN = 10
"""Unless all are asked for; those with moves or trouble come first."""


def show(out: Console, answer: dict[str, Any], everything: bool) -> None:
    sync = "[green]in sync[/]" if answer["in_sync"] else "[yellow]not in sync[/]"
    out.print(
        f"[bold]gateway {answer['router_id']}[/]  AS {answer['as']}  data plane "
        f"{answer['dataplane']}  up {ago(answer['uptime_s'])}"
    )
    out.print(f"  {sync}: {answer['sync']}")
    out.print(f"  {_kernel(answer)}\n")
    if answer.get("cluster"):
        show_cluster(out, answer["cluster"], everything)
    peers(out, answer["peers"])
    bfd(out, answer)
    _services(out, answer, everything)
    if answer["dataplane"] != "plain":
        _tables(out, answer, everything)
        _moves(out, answer)
    if answer.get("bpf"):
        show_bpf(out, answer["bpf"], everything)
    _routes(out, answer, everything)
    refusals(out, answer["refusals"], everything)
    for family, text in answer["flow_hash"].items():
        if text != "as predicted":
            out.print(f"[yellow]flow hash, {family}[/]: {escape(text)}")
    for error in answer["errors"]:
        out.print(f"[red]error[/] {error['prefix']}: {escape(error['error'])}")
    for one in answer["tables"]:
        if one["error"]:
            out.print(f"[red]error[/] table {one['id']:#x}: {escape(one['error'])}")
    trouble(out, answer)


def _kernel(answer: dict[str, Any]) -> str:
    waiting = answer["moves"]["waiting"]
    if answer["settled"]:
        rest = f", but for {waiting} buckets that wait to be idle" if waiting else ""
        return f"[green]kernel as desired[/]{rest}"
    if answer["kernel"] != "as desired":
        return f"[red]kernel differs[/]: {answer['kernel']}"
    if answer["errors"] or any(one["error"] for one in answer["tables"]):
        return "[red]kernel not as desired[/]: see the errors below"
    return "[yellow]work in progress[/]"


def show_cluster(out: Console, cluster: dict[str, Any], everything: bool) -> None:
    state = "[green]in sync[/]" if cluster["in_sync"] else "[yellow]not in sync[/]"
    if cluster["remembered"]:
        state += ", neighbours as a former process knew them"
    tier = f", GatewayTier {cluster['tier']}" if cluster["tier"] else ""
    out.print(
        f"Cluster: {escape(cluster['source'])}, {state}: {cluster['neighbors']} Nodes are "
        f"neighbours, {cluster['claims']} pod blocks are theirs{tier}."
    )
    for name in ("trouble", "error", "tier_trouble", "pending"):
        if cluster[name]:
            out.print(f"  [yellow]{escape(cluster[name])}[/]")
    for name in ("gone", "not_neighbors"):
        shown = cluster[name] if everything else cluster[name][:SHOWN]
        for row in shown:
            who = f"{row['node']} {row['address']}".rstrip()
            out.print(f"  {escape(who)}: [yellow]{escape(row['why'])}[/]")
        cut(out, len(shown), len(cluster[name]), "Nodes")
    if cluster["kept_prefixes"]:
        out.print(
            f"  [yellow]in no pool any more, kept while in use[/]: "
            f"{hops(cluster['kept_prefixes'], everything)}"
        )
    for text in cluster["refused"]:
        out.print(f"  [red]refused[/] {escape(text)}")
    out.print("")


def _services(out: Console, answer: dict[str, Any], everything: bool) -> None:
    services = answer["services"]
    shown = services if everything else services[:SHOWN]
    if not services:
        return
    made = table("Services", "Prefix", "Table", "Active", "Draining", "State", long="Active")
    for service in shown:
        made.add_row(
            service["prefix"],
            f"{service['table']:#x}",
            hops(service["active"], everything),
            hops(service["draining"], everything),
            "installed" if service["installed"] else "[red]not installed[/]",
        )
    out.print(made)
    cut(out, len(shown), answer["services_total"], "services")


def _tables(out: Console, answer: dict[str, Any], everything: bool) -> None:
    known = sorted(answer["tables"], key=lambda t: not (t["error"] or t["waiting"]))
    shown = known if everything else known[:TABLES_SHOWN]
    if not known:
        return
    made = table(
        f"Tables of {answer['buckets']} buckets",
        "Table", "Services", "Next hop", "State", "Weight", "Owns", "Target", "Digest", "Kernel",
        right=("Services", "Weight", "Owns", "Target"), long="Kernel",
    )  # fmt: skip
    for one in shown:
        moves = f"{one['waiting']} wait {ago(one['oldest_wait_s'])}" if one["waiting"] else ""
        good = one["kernel"] == "as desired"
        heading = (one["digest"][:12], one["kernel"] if good else f"[red]{one['kernel']}[/]")
        below = (f"→ {one['target_digest'][:12]}", f"[yellow]{moves}[/]") if moves else ("", "")
        rows = one["members"] if everything or len(one["members"]) <= 8 else one["members"][:8]
        for i, member in enumerate(rows):
            made.add_row(
                *((f"{one['id']:#x}", str(one["prefixes"])) if i == 0 else ("", "")),
                member["address"],
                _state(member["state"]),
                str(member["weight"]),
                str(member["present"]),
                str(member["target"]),
                *(heading if i == 0 else below if i == 1 else ("", "")),
            )
        if len(rows) == 1 and moves:
            made.add_row("", "", "", "", "", "", "", *below)
        if len(rows) < len(one["members"]):
            made.add_row("", "", f"… {len(one['members']) - len(rows)} more", *[""] * 6)
    out.print(made)
    cut(out, len(shown), len(known), "tables")


def _state(state: str) -> str:
    colours = {"draining": "yellow", "gone": "yellow", "unusable": "red"}
    return f"[{colours[state]}]{state}[/]" if state in colours else state


def _moves(out: Console, answer: dict[str, Any]) -> None:
    moves = answer["moves"]
    deadline = answer["move_deadline_s"]
    late = "never for being late" if deadline is None else f"at the latest after {deadline:g} s"
    out.print(
        f"Moves: {moves['waiting']} wait (until idle for {answer['idle_timer_s']:g} s, {late}). "
        f"Made since start: {moves['departed']} off departed next hops, {moves['idle']} when idle, "
        f"{moves['deadline']} at the deadline.\n"
    )


def show_bpf(out: Console, bpf: dict[str, Any], everything: bool) -> None:
    if not bpf["serving"]:
        out.print(f"[yellow]BPF data plane[/]: the kernel's groups serve: {escape(bpf['why_not'])}")
    if "transitions" not in bpf:
        return
    made = table(
        "Next hops of the BPF data plane",
        "Next hop", "MAC", "Buckets", "In transition", "Flows seen", "State",
        right=("Buckets", "In transition", "Flows seen"), long="State",
    )  # fmt: skip
    hops_ = bpf["hops"]
    for hop in hops_ if everything else hops_[:SHOWN]:
        state = hop["why"] or ("draining" if hop["draining"] else "active")
        made.add_row(
            hop["address"], hop["mac"], str(hop["owns"]), str(hop["keeps"]),
            str(hop["flows"]) if hop["flows"] else "",
            state if state == "active" else f"[yellow]{escape(state)}[/]",
        )  # fmt: skip
    out.print(made)
    cut(out, SHOWN if not everything else len(hops_), len(hops_), "next hops")
    out.print(_transitions(bpf))
    if bpf["flows"]:
        out.print(
            f"Flows tracked: {bpf['flows']['tracked']} of at most {bpf['flows']['capacity']}. "
            f"Attached: {', '.join(f'{k} ({v})' for k, v in bpf['attached'].items())}."
        )
    if bpf["kernel_only"]:
        out.print(f"No host routes, so by the kernel's groups: {', '.join(bpf['kernel_only'])}.")
    out.print("")


def _transitions(bpf: dict[str, Any]) -> str:
    found, deadline = bpf["transitions"], bpf["transition_deadline_s"]
    late = "never for being late" if deadline is None else f"at the latest after {deadline:g} s"
    oldest = f", the oldest for {ago(found['oldest_s'])}" if found["buckets"] else ""
    waits = (
        f" {found['waiting_for_mac']} wait for the MAC of their next hop."
        if found["waiting_for_mac"]
        else ""
    )
    return (
        f"Buckets in transition: {found['buckets']}{oldest} (until idle for "
        f"{bpf['transition_idle_s']:g} s, {late}).{waits} Since start: {found['begun']} began, "
        f"{found['chained']} changed again, {found['idle']} ended idle, {found['deadline']} at the "
        f"deadline; {found['departed']} left departed next hops."
    )


def _routes(out: Console, answer: dict[str, Any], everything: bool) -> None:
    routes = answer["routes"]
    if not routes:
        return
    shown = routes if everything else routes[:SHOWN]
    made = table("Plain routes", "Prefix", "Kind", "Next hops", "State", long="Next hops")
    for route in shown:
        made.add_row(
            route["prefix"],
            route["kind"],
            hops(route["next_hops"], everything),
            "installed" if route["installed"] else "[red]not installed[/]",
        )
    out.print(made)
    cut(out, len(shown), answer["routes_total"], "routes")

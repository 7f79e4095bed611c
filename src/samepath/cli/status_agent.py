"""`samepath status` of an agent."""

from __future__ import annotations

from typing import Any

from samepath.cli.terminal import (
    SHOWN,
    Console,
    ago,
    bfd,
    cut,
    escape,
    peers,
    refusals,
    table,
    trouble,
)


def show(out: Console, answer: dict[str, Any], everything: bool) -> None:
    drains = f"  [yellow]draining: {answer['node_drain']}[/]" if answer["node_drain"] else ""
    manifests, rules = answer["manifests"], answer["rules"]
    kind = manifests.get("kind", "manifests")
    unknown = "" if answer["node_known"] else "  [red]its Node is not known[/]"
    out.print(
        f"[bold]agent {escape(answer['node'])}[/]  {_asn(answer)}  up "
        f"{ago(answer['uptime_s'])}{drains}{unknown}"
    )
    for source, is_in_sync in answer["in_sync"].items():
        if not is_in_sync:
            waits = answer.get("waits_for") if source == "routes" else None
            why = f", waits for {', '.join(waits)}" if waits else ""
            name = kind if source == "manifests" else source
            out.print(f"  [yellow]not in sync[/]: {name}{why}")
    out.print(f"  {kind}: {manifests['objects']} objects in {escape(manifests['folder'])}")
    what = "service rules" if rules.get("services", True) else "rules (natOutgoing alone)"
    out.print(f"  {what}: {_rules(rules)}")
    if rules.get("nat_outgoing"):
        out.print(f"  natOutgoing: {', '.join(rules['nat_outgoing'])}")
    if answer.get("pods"):
        _pods(out, answer["pods"])
    if answer.get("told_states"):
        states = answer["told_states"]
        less = f", {states['left_out']} beyond the limits are not" if states["left_out"] else ""
        out.print(f"  states told: {states['written']} writes, {states['waiting']} wait{less}")
    out.print()
    _neighbors(out, answer, everything)
    _bgp_peers(out, answer)
    bfd(out, answer)
    _blocks(out, answer, everything)
    _services(out, answer, everything)
    _routes(out, answer, everything)
    refusals(out, answer["refusals"], everything)
    for what, text in answer["errors"].items():
        out.print(f"[red]error[/] {escape(what)}: {escape(text)}")
    for refused in answer.get("advertisements", {}).get("refused", []):
        out.print(f"[red]refused[/] {escape(refused['text'])}")
    if manifests["trouble"]:
        out.print(f"[red]{kind}[/]: {escape(manifests['trouble'])}")
    for name in manifests.get("gone_nodes", []):
        out.print(f"[yellow]gone[/]: there is no Node {escape(name)} any more, and it lives")
    for refused in manifests["refused"]:
        out.print(f"[red]refused[/] {escape(refused['text'])}")
    for what, text in (answer.get("told_states") or {}).get("trouble", {}).items():
        out.print(f"[yellow]not told to the API server[/]: {what}: {escape(text)}")
    for conflict in rules.get("conflicts", []):
        out.print(f"[yellow]conflict[/]: {escape(conflict)}")
    trouble(out, answer)


def _asn(answer: dict[str, Any]) -> str:
    if not answer["as"]:
        return "[yellow]no AS: neither `as` nor a BGPPeer that selects this node[/]"
    whence = answer.get("as_from")
    return f"AS {answer['as']}" + (f" (BGPPeer {escape(whence)})" if whence else "")


def _bgp_peers(out: Console, answer: dict[str, Any]) -> None:
    """Those that are no neighbours, and what the others do not get."""
    for peer in answer.get("bgp_peers", []):
        name = f"BGPPeer {escape(peer['name'])} ({peer['address']})"
        if peer["why"] == "NOT_SELECTED":
            out.print(f"  [dim]{name}: {escape(peer['text'])}[/]")
        elif peer["text"]:
            out.print(f"  [yellow]{name} is no neighbour[/]: {escape(peer['text'])}")
        elif peer["note"]:
            out.print(f"  {name}: {escape(peer['note'])}")


def _rules(rules: dict[str, Any]) -> str:
    if rules["error"]:
        return f"[red]{escape(rules['error'])}[/]"
    if rules["in_place"]:
        return f"[green]in place[/], digest {rules['kernel']}" if rules["kernel"] else "none"
    return f"[yellow]not in place[/]: wanted {rules['wanted']}, kernel {rules['kernel'] or 'none'}"


def _pods(out: Console, pods: dict[str, Any]) -> None:
    """Whether pods get their network here; who they are is `samepath ipam show`."""
    unfinished = f", {pods['unfinished']} unfinished" if pods["unfinished"] else ""
    mtu = f", MTU {pods['mtu']}" if pods["mtu"] else ""
    out.print(f"  pods: {pods['attachments']} attached{unfinished}{mtu}")
    if pods["trouble"]:
        out.print(f"  [red]pods[/]: {escape(pods['trouble'])}")
    for what, text in pods["errors"].items():
        out.print(f"  [red]pods[/] {escape(what)}: {escape(text)}")
    for stray in pods["strays"]:
        out.print(
            f"  [yellow]pods[/]: a link that is in no store: {escape(stray)} (samepath ipam check)"
        )


def _neighbors(out: Console, answer: dict[str, Any], everything: bool) -> None:
    """The configured ones, and those of the mesh by their Nodes' names."""
    mesh = answer.get("mesh")
    if mesh is None:
        peers(out, answer["peers"])
        return
    members = {n["address"] for n in mesh["nodes"] if not n["text"]}
    others = [p for p in answer["peers"] if p["address"] not in members]
    if others:
        peers(out, others)
    _mesh(out, mesh, {p["address"]: p for p in answer["peers"]}, everything)


def _mesh(
    out: Console, mesh: dict[str, Any], known: dict[str, dict[str, Any]], everything: bool
) -> None:
    if mesh["trouble"]:
        out.print(f"[red]no mesh[/]: {escape(mesh['trouble'])}\n")
        return
    numbers = ("Blocks", "Stale", "Refused")
    made = table("Mesh", "Node", "Address", "State", "For", *numbers, "", right=numbers, long="")
    # What wants a look comes first, should there be too many to show.
    rows = sorted(mesh["nodes"], key=lambda n: (_is_up(known.get(n["address"])), n["node"]))
    shown = rows if everything else rows[:SHOWN]
    for node in shown:
        peer = known.get(node["address"])
        if node["text"] or peer is None:
            cells = ["[yellow]none[/]", "", "", "", "", escape(node["text"])]
        else:
            families = peer["families"]
            counts = (
                str(sum(f[name] for f in families)) for name in ("accepted", "stale", "refused")
            )
            state = f"[{'green' if _is_up(peer) else 'yellow'}]{peer['state']}[/]"
            lost = "" if _is_up(peer) else escape(peer["last_error"])
            cells = [state, ago(peer["since_s"]), *counts, lost]
        made.add_row(escape(node["node"]), node["address"], *cells)
    up = sum(_is_up(known.get(n["address"])) for n in mesh["nodes"])
    out.print(f"[bold]Mesh[/]  {up} of {len(rows)} other nodes are connected")
    if rows:
        made.title = None
        out.print(made)
    cut(out, len(shown), len(rows), "nodes")


def _is_up(peer: dict[str, Any] | None) -> bool:
    return peer is not None and peer["state"] == "Established"


def _blocks(out: Console, answer: dict[str, Any], everything: bool) -> None:
    """Ours, and those of others where they are known."""
    blocks = answer.get("blocks", [])
    if not blocks:
        return
    blocks = sorted(blocks, key=lambda b: not b["ours"])
    numbers = ("In use", "Free")
    made = table("Pod blocks", "Block", "Node", *numbers, "State", right=numbers, long="State")
    shown = blocks if everything else blocks[:SHOWN]
    for block in shown:
        state = "told to neighbours" if block["told"] else "[yellow]not told to neighbours[/]"
        if not block["ours"]:
            state = ""
        elif block.get("gives", "gives addresses") != "gives addresses":
            state += f"; {escape(block['gives'])}"
        use = ("" if block[name] is None else str(block[name]) for name in ("in_use", "free"))
        made.add_row(block["block"], escape(block["node"]), *use, state)
    out.print(made)
    cut(out, len(shown), len(blocks), "blocks")


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
        if service.get("peers") is not None and len(service["peers"]) < len(answer["peers"]):
            why += f", to {escape(', '.join(service['peers']))}"
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
        if route.get("node"):
            via += f" ({escape(route['node'])})"
        state = "installed" if route["installed"] else "[red]not installed[/]"
        made.add_row(route["prefix"], via, escape(route["error"]) or state)
    out.print(made)
    cut(out, len(shown), len(routes), "routes")

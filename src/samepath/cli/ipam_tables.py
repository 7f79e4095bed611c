"""The tables of `samepath ipam`."""

from __future__ import annotations

import time
from typing import Any

from samepath.cli.terminal import Console, ago, console, escape, table

BIG = 1 << 24
"""From here on numbers of addresses are shown as a power of two."""


def show(answer: dict[str, Any], *, blocks: bool, pods: bool) -> None:
    out = console()
    _pools(out, answer)
    if blocks or not answer["pools"]:
        _blocks(out, answer)
    if pods:
        _attachments(out, answer)
    for text in answer["trouble"]:
        out.print(f"[red]trouble[/]: {escape(text)}")


def _pools(out: Console, answer: dict[str, Any]) -> None:
    numbers = ("Addresses", "In blocks", "Blocks")
    made = table(
        "Pools", "Pool", "CIDR", "Block", *numbers, "NAT", "Nodes", right=numbers, long="Nodes"
    )
    for pool in answer["pools"]:
        nodes = escape(pool["node_selector"]) + ("" if pool["selects_this_node"] else " (not this)")
        made.add_row(
            escape(pool["name"]),
            pool["cidr"],
            f"/{pool['block_size']}",
            number(pool["addresses"]),
            part(pool["addresses_taken"], pool["addresses"]),
            f"{number(pool['blocks_taken'])} of {number(pool['blocks'])}",
            "outgoing" if pool["nat_outgoing"] else "no",
            "[yellow]disabled[/]" if pool["disabled"] else nodes,
        )
    if answer["pools"]:
        out.print(made)


def _blocks(out: Console, answer: dict[str, Any]) -> None:
    numbers = ("Addresses", "In use", "Free")
    made = table("Blocks", "Block", "Pool", "Node", *numbers, "From", right=numbers, long="From")
    for block in answer["blocks"]:
        node = f"[bold]{escape(block['node'])}[/]" if block["ours"] else escape(block["node"])
        # Where nothing is known of pools, neither is what they say of blocks.
        is_open = block["gives"] == "gives addresses" or not answer["pools"]
        closed = "" if is_open else f": {block['gives']}"
        unknown = block["in_use"] is None
        made.add_row(
            block["block"],
            escape(block["pool"]) or "-",
            node or "-",
            number(block["addresses"]),
            "?" if unknown else part(block["in_use"], block["addresses"]),
            "?" if unknown else part(block["free"], block["addresses"]),
            block["origin"] + closed,
        )
    if answer["blocks"]:
        out.print(made)
        if any(block["in_use"] is None for block in answer["blocks"]):
            out.print("How full another node's blocks are is known on that node.\n")
    else:
        out.print("[bold]Blocks[/]\n  none\n")


def _attachments(out: Console, answer: dict[str, Any]) -> None:
    made = table(
        "Attachments",
        "Address",
        "Pod",
        "Container",
        "Interface",
        "Link",
        "State",
        "For",
        long="Pod",
    )
    for attachment in answer["attachments"]:
        since_s = max(time.time() - attachment["made_at"], 0.0) if attachment["made_at"] else 0.0
        made.add_row(
            "\n".join(attachment["addresses"]),
            escape(attachment["pod"]) or "-",
            escape(attachment["container"][:12]),
            escape(attachment["ifname"]),
            attachment["link"],
            attachment["state"],
            ago(since_s),
        )
    if answer["attachments"]:
        out.print(made)
    else:
        out.print("[bold]Attachments[/]\n  none\n")


def check(answer: dict[str, Any], fix: bool) -> None:
    out = console()
    if rebuilt := answer.get("rebuilt"):
        out.print(f"[yellow]store rebuilt[/]: {escape(rebuilt['damage'])}")
        out.print(f"  from {len(rebuilt['attachments'])} links; the old one is {rebuilt['aside']}")
    findings = answer["findings"]
    if not findings:
        out.print(f"[green]in order[/]: {answer['attachments']} attachments, as in the kernel")
        return
    made = table("Findings", "What", "Where", "Why", long="Why")
    for finding in findings:
        text = escape(finding["text"])
        if finding["fixed"]:
            text += f" -> {escape(finding['fixed'])}"
        made.add_row(finding["what"], escape(finding["subject"]), text)
    out.print(made)
    fixable = sum(1 for f in findings if f["fixable"] and not f["fixed"])
    if fixable and not fix:
        out.print(f"{fixable} of {len(findings)} can be mended by --fix")


def number(value: int) -> str:
    if value < BIG:
        return f"{value:,}"
    return f"2^{value.bit_length() - 1}"


def part(value: int, whole: int) -> str:
    """With how many hundredths it is, as in `12 (19%)`."""
    return f"{number(value)} ({value * 100 // whole}%)"

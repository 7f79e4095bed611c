"""Tables on a terminal, for `samepath status`: the parts that gateway and agent share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

SHOWN = 40
"""Rows of a table, unless all are asked for."""
NAMED = 3
"""Next hops that are named in one cell, unless all are asked for."""

__all__ = ["Console", "console", "escape"]


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for everything."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    # No emoji: `2001:db8::1234:1` has one.
    return Console(highlight=False, width=width, emoji=False)


def table(title: str, *columns: str, right: Sequence[str] = (), long: str = "") -> Table:
    """`right`: columns of numbers. `long`: the column that is folded where room is short."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column != long,
        )
    return made


def cut(out: Console, shown: int, total: int, what: str) -> None:
    """Says that there is more."""
    if total > shown:
        out.print(f"… and {total - shown} more {what} (--all shows them)\n")


def hops(addresses: Sequence[str], everything: bool) -> str:
    if everything or len(addresses) <= NAMED:
        return ", ".join(addresses)
    return f"{', '.join(addresses[:NAMED])} … ({len(addresses)})"


def ago(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def peers(out: Console, known: Sequence[dict[str, Any]]) -> None:
    numbers = ("Received", "Accepted", "Stale", "Advertised")
    watched = any(peer.get("bfd") for peer in known)
    named = any(peer.get("name") for peer in known)
    columns = (
        *(["Name"] * named), "Peer", "AS", "State", "For", *(["BFD"] * watched), "Family", *numbers
    )  # fmt: skip
    made = table("Peers", *columns, right=("AS", "For", *numbers))
    for peer in known:
        up = peer["state"] == "Established"
        state = f"[green]{peer['state']}[/]" if up else f"[yellow]{peer['state']}[/]"
        bfd_cell = [_bfd(peer.get("bfd"))] if watched else []
        name_cell = [escape(peer.get("name", ""))] if named else []
        who = [*name_cell, peer["address"], str(peer["as"])]
        head = [*who, state, ago(peer["since_s"]), *bfd_cell]
        for i, family in enumerate(peer["families"] or [{}]):
            made.add_row(
                *(head if i == 0 else [""] * len(head)),
                str(family.get("family", "")),
                *(str(family.get(name.lower(), "")) for name in numbers),
            )
    if known:
        out.print(made)
    else:
        out.print("[bold]Peers[/]\n  none\n")
    for peer in known:
        if peer["last_error"]:
            lost = f", {peer['flaps']} sessions lost" if peer["flaps"] else ""
            if peer.get("lost_for", peer["last_error"]) not in ("", peer["last_error"]):
                lost += f", the last for: {escape(peer['lost_for'])}"
            out.print(f"  {peer['address']}{lost}, last error: {escape(peer['last_error'])}")
        if peer["stale_for_s"] is not None:
            out.print(f"  {peer['address']}: stale paths stay for {ago(peer['stale_for_s'])}")
        for hint in peer.get("hints", ()):
            out.print(f"  {peer['address']}: [yellow]{escape(hint)}[/]")
        for reason, count in peer.get("refused_for", {}).items():
            out.print(f"  {peer['address']}: {count} refused: {escape(reason)}")


def _bfd(session: dict[str, Any] | None) -> str:
    if session is None:
        return "-"
    colours = {"Up": "green", "Idle": "dim"}
    return f"[{colours.get(session['state'], 'yellow')}]{session['state']}[/]"


def bfd(out: Console, answer: dict[str, Any]) -> None:
    """Sessions that are not up, and what is wrong with the BFD process."""
    known = answer.get("bfd")
    if known is None:
        return
    for peer in answer["peers"]:
        session = peer["bfd"]
        if session and (session["state"] not in ("Up", "Idle") or session.get("error")):
            why = session.get("error") or session["why"] or "not heard as yet"
            out.print(f"  {peer['address']}: BFD {session['state']}: {escape(why)}")
    for error in known["errors"]:
        out.print(f"[red]error[/] {escape(error)}")
    for wish in known["scheduling"]:
        if wish.startswith("no "):
            out.print(f"[yellow]BFD process[/]: {escape(wish)}")


def refusals(out: Console, known: Sequence[dict[str, Any]], everything: bool) -> None:
    if not known:
        return
    made = table("Refused paths", "Peer", "Prefix", "Reason", long="Reason")
    shown = known if everything else known[:SHOWN]
    for refusal in shown:
        made.add_row(refusal["peer"], refusal["prefix"], refusal["reason"])
    out.print(made)
    cut(out, len(shown), len(known), "refused paths")


def trouble(out: Console, answer: dict[str, Any]) -> None:
    """Settings that are wrong, connections turned away, and a configuration that was refused."""
    for why, count in answer.get("turned_away", {}).items():
        out.print(f"{count} connections turned away: {escape(why)}")
    for finding in answer.get("settings", []):
        if finding["severity"] == "error":
            out.print(f"[red]setting[/]: {escape(finding['text'])}")
        elif finding["severity"] == "warning":
            out.print(f"[yellow]setting[/]: {escape(finding['text'])}")
    if answer.get("config_error"):
        out.print(
            f"[red]configuration refused[/], the last good one stands: "
            f"{escape(answer['config_error'])}"
        )

"""The table `inet samepath` in the kernel, through nft(8).

Driven by `programs.agent`: `adopt` once at start, then `apply` whenever the ruleset differs, and
`check` when somebody else may have touched it. Every write is one transaction, so packets see the
old rules or the new ones. The table carries the digest of its ruleset: after a restart equal
digests mean that nothing has to be written.

A change of some services is written as a change of elements (`plan.ruleset.change_text`); only when
what stands in the kernel is not what we wrote is the table written as a whole. The rules write down
themselves which endpoint a client has (`plan.affinity`): that is carried over, and after each
change that takes endpoints away it is cleared of them.

Standards: nft(8), libnftables-json(5).
"""

from __future__ import annotations

import asyncio
import json
import socket

from samepath.apply.tool import ToolError, run
from samepath.plan import affinity
from samepath.plan.ruleset import CLIENTS, Ruleset, change_text, full_text, removal_text

_COMMAND = ("nft", "-f", "-")
_FAMILY, _NAME = "inet", "samepath"

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7


class Rules:
    """What stands in the kernel, as far as we know."""

    def __init__(self) -> None:
        self.applied: Ruleset | None = None
        """The ruleset that the kernel has; None: another one, or none, or we do not know."""
        self.error: str | None = None
        self.wholes = 0
        """How often the whole table was written."""
        self._clients_may_be_stale = True
        """The kernel may keep clients at an endpoint that is no longer theirs."""

    async def apply(self, ruleset: Ruleset) -> None:
        """Make the kernel have `ruleset`. Raises ToolError; the old rules stand then."""
        if self.applied is None or affinity.has_shrunk(self.applied, ruleset):
            self._clients_may_be_stale = True
        await self._apply(ruleset)
        if self._clients_may_be_stale and affinity.is_in_use(ruleset):
            _, leaving = affinity.parted(await clients_in_kernel(), ruleset)
            if leaving:
                await run(_COMMAND, affinity.removal_text(leaving))
        self._clients_may_be_stale = False

    async def _apply(self, ruleset: Ruleset) -> None:
        if self.applied is not None and self.applied.digest == ruleset.digest:
            self.applied = ruleset
            return
        try:
            if self.applied is None:
                await self._adopt_or_write(ruleset)
            else:
                await self._change(self.applied, ruleset)
        except ToolError as error:
            self.error = str(error)
            self.applied = None
            raise
        self.applied, self.error = ruleset, None

    async def _adopt_or_write(self, ruleset: Ruleset) -> None:
        if await digest_in_kernel() != ruleset.digest:
            await self._write(ruleset)

    async def _change(self, old: Ruleset, new: Ruleset) -> None:
        text = change_text(old, new)
        if text is not None:
            try:
                await run(_COMMAND, text)
            except ToolError:
                pass  # somebody has been at the table; the whole of it will do, or say why not
            else:
                return
        await self._write(new)

    async def _write(self, ruleset: Ruleset) -> None:
        """The whole table, with what the one before it has learned."""
        clients: list[affinity.Client] = []
        if affinity.is_in_use(ruleset):
            clients, _ = affinity.parted(await clients_in_kernel(), ruleset)
        # In a thread: with thousands of services it is 10 MB of text.
        text = await asyncio.to_thread(full_text, ruleset, affinity.elements(clients))
        await run(_COMMAND, text)
        self.wholes += 1

    async def check(self) -> bool:
        """Whether the kernel still has what we wrote; if not, the next `apply` writes all of it."""
        if self.applied is not None and await digest_in_kernel() != self.applied.digest:
            self.applied = None
            return False
        return True

    async def remove(self) -> None:
        """No table of ours. Raises ToolError."""
        if await digest_in_kernel() is not None:
            await run(_COMMAND, removal_text())
        self.applied = None


async def digest_in_kernel() -> str | None:
    """The digest that our table carries; None: there is no table, or it is not from us."""
    command = ("nft", "-j", "list", "set", _FAMILY, _NAME, "digest")
    text = await run(command, fine=(0, 1))
    for entry in json.loads(text or "{}").get("nftables", ()):
        if "set" in entry:
            comment = entry["set"].get("comment")
            return str(comment) if comment else None
    return None


async def clients_in_kernel() -> list[affinity.Client]:
    """Who is kept at which endpoint; nobody if there is no such table."""
    text = await run(("nft", "-j", "list", "map", _FAMILY, _NAME, CLIENTS), fine=(0, 1))
    return await asyncio.to_thread(_clients, text)


def _clients(text: str) -> list[affinity.Client]:
    return affinity.read(json.loads(text or "{}"))


class RulesMonitor:
    """Hears that somebody has written nftables rules, us included. `fileno()` is readable then."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what was heard; what it was does not matter."""
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue  # more was said than the socket holds

    def close(self) -> None:
        self._socket.close()

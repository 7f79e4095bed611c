"""Claims of blocks, of which those that living pods need are never lost in silence.

Between `cni.blocks` and whatever store of claims there is. A claim can go while its pods live: it
was deleted by hand, or by the controller, which gives back the blocks of a node that was away for
long. Whenever the claims are read, a block that has living pods here and no owner is claimed again,
before anybody has seen it missing. One that has another owner by now is that node's
(docs/decisions/0018): it is no longer ours to tell, and `lost` says whose it is.

Called in threads, one at a time (`cni.blocks`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from samepath.cni.claims import BlockClaims, Claims
from samepath.kube.source import Source
from samepath.model.config import AgentConfig
from samepath.model.net import Address, address_text, family_of, make_nlri
from samepath.plan.addresses import Block

log = logging.getLogger("samepath.pods")

NAMED = 10
"""So many pods are named where there are many."""


class Needed(NamedTuple):
    """An address of a living pod that is in no block but a claimed one."""

    address: Address
    pod: str
    size: int | None
    """Prefix length of the blocks of its pool; None: no pool has it."""


class KeptClaims:
    def __init__(
        self, claims: BlockClaims, node: str, needed: Callable[[], Iterable[Needed]]
    ) -> None:
        self._claims = claims
        self._node = node
        self._needed = needed
        self._were_ours: frozenset[Block] = frozenset()
        self.lost: dict[Needed, str] = {}
        """Those whose block is not ours -> the node that has it; empty: it is not known which
        block that would be."""

    @property
    def text(self) -> str:
        """Which pods must be made anew, and why; empty: none."""
        texts = [
            f"{pod} has {address_text(address)}"
            + (f" of a block that is {owner}'s by now" if owner else ", of no pool")
            for (address, pod, _), owner in self.lost.items()
        ]
        more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
        return f"pods that must be made anew: {'; '.join(texts[:NAMED])}{more}" if texts else ""

    def owners(self) -> Mapping[Block, str]:
        owners = dict(self._claims.owners())
        ours = [block for block, owner in owners.items() if owner == self._node]
        lost: dict[Needed, str] = {}
        for needed in self._needed():
            if any(block.contains(needed.address) for block in ours):
                continue
            block = self._block_of(needed)
            owner = "" if block is None else self._claim(block, owners)
            if block is not None and owner is None:
                owners[block] = self._node
                ours.append(block)
                log.warning("the claim of block %s was gone: claimed again", block)
            else:
                lost[needed] = owner or ""
        said, self.lost = self.text, lost
        if self.text and self.text != said:
            log.error("%s", self.text)
        self._were_ours = frozenset(ours)
        return owners

    def _claim(self, block: Block, owners: Mapping[Block, str]) -> str | None:
        """Who has it; None: we do. Of one that is known to be another's nobody is asked: this is
        looked at again with every pod that comes."""
        for other, owner in owners.items():
            # A word in parentheses may follow the name: a claim of ours that is in doubt.
            if other.overlaps(block) and owner.partition(" ")[0] != self._node:
                return owner
        return self._claims.claim(block, self._node)

    def _block_of(self, needed: Needed) -> Block | None:
        """As it was when we had it, else as its pool is cut now."""
        for block in self._were_ours:
            if block.contains(needed.address):
                return block
        if needed.size is None:
            return None
        return Block(family_of(needed.address), make_nlri(needed.address, needed.size))

    def claim(self, block: Block, node: str) -> str | None:
        return self._claims.claim(block, node)

    def release(self, block: Block, node: str) -> bool:
        return self._claims.release(block, node)


async def _nothing() -> None:
    """There is no connection to end."""


def make_claims(
    config: AgentConfig, source: Callable[[], Source]
) -> tuple[BlockClaims | None, Callable[[], Awaitable[None]]]:
    """Where blocks are claimed, None: nowhere; and what ends its connections. In the agent's loop.
    `source`: the present one."""
    if config.cni is not None and config.cni.block_claims:
        return Claims(config.cni.block_claims), _nothing
    if config.kubernetes is None:
        return None, _nothing
    # An agent that reads a folder is spared the HTTP client.
    from samepath.kube.api import Api
    from samepath.programs.claims import KubeClaims

    api = Api.connect(config.kubernetes)
    loop = asyncio.get_running_loop()
    claims = KubeClaims(api, loop, lambda: source().objects, in_sync=lambda: source().in_sync)
    return claims, api.close

"""Claims of blocks, of which those that living pods need are never lost in silence.

Between `cni.blocks` and whatever store of claims there is. A claim can go while its pods live: it
was deleted by hand, or by the controller, which gives back the blocks of a node that was away for
long. Whenever the claims are read, a block that has living pods here and no owner is claimed again,
before anybody has seen it missing. One that has another owner by now is that node's
(docs/decisions/0018): it is no longer ours to tell, and `lost` says whose it is.

Called in threads, one at a time (`cni.blocks`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from samepath.cni.claims import BlockClaims
from samepath.model.net import Address, address_text, family_of, make_nlri
from samepath.plan.addresses import Block

log = logging.getLogger("samepath.pods")


class KeptClaims:
    def __init__(
        self,
        claims: BlockClaims,
        node: str,
        needed: Callable[[], Iterable[tuple[Address, int | None]]],
    ) -> None:
        """`needed`: the addresses of living pods that no block has but a claimed one, and the size
        (prefix length) of their pool's blocks; None: no pool has them."""
        self._claims = claims
        self._node = node
        self._needed = needed
        self._were_ours: frozenset[Block] = frozenset()
        self.lost: dict[Address, str] = {}
        """Addresses of living pods whose block is not ours -> the node that has it; empty: it is
        not known which block that would be."""

    def owners(self) -> Mapping[Block, str]:
        owners = dict(self._claims.owners())
        ours = [block for block, owner in owners.items() if owner == self._node]
        lost: dict[Address, str] = {}
        for address, size in self._needed():
            if any(block.contains(address) for block in ours):
                continue
            block = self._block_of(address, size)
            if block is None:
                lost[address] = ""
                continue
            owner = self._claims.claim(block, self._node)
            if owner is None:
                owners[block] = self._node
                ours.append(block)
                log.warning("the claim of block %s was gone: claimed again", block)
            else:
                lost[address] = owner
                if self.lost.get(address) != owner:
                    log.error(
                        "%s of a living pod is in a block that node %s has by now: "
                        "the pod must be made anew", address_text(address), owner,
                    )  # fmt: skip
        self.lost = lost
        self._were_ours = frozenset(ours)
        return owners

    def _block_of(self, address: Address, size: int | None) -> Block | None:
        """As it was when we had it, else as its pool is cut now."""
        for block in self._were_ours:
            if block.contains(address):
                return block
        if size is None:
            return None
        return Block(family_of(address), make_nlri(address, size))

    def claim(self, block: Block, node: str) -> str | None:
        return self._claims.claim(block, node)

    def release(self, block: Block, node: str) -> bool:
        return self._claims.release(block, node)

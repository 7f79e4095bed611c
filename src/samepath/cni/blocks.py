"""This node's blocks as they are now: decided, claimed, given back.

Made by the agent, which calls `renew` whenever nodes or pools may have changed and from time to
time (claims may have been changed by hand), and `give_back` from time to time; `cni.addresses`
calls `claim` when the last block of a family is full. One at a time: a block that is given back
never comes in again by an older reading of the claims. All of it may block (a shared file).

Claims that cannot be read change nothing: the last ones known stand, and `trouble` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from samepath.cni.addresses import Addresses
from samepath.cni.claims import BlockClaims, ClaimsError, claim_next
from samepath.cni.store import Store
from samepath.model.cluster import Cluster
from samepath.model.net import Family
from samepath.plan.addresses import Block
from samepath.plan.blocks import (
    Gives,
    Next,
    Origin,
    OwnBlock,
    Situation,
    families,
    next_block,
    own_blocks,
)

GRACE_S = 300.0
"""A claimed block must have been empty for so long before it is given back."""


class Blocks:
    """Our blocks. `addresses` gives out of them."""

    def __init__(
        self,
        store: Store,
        node: str,
        configured: Iterable[Block] = (),
        claims: BlockClaims | None = None,
        *,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`changed` is called, in whatever thread, when a pod's ADD has brought us a block: it is
        to be advertised."""
        self.claims = claims
        self._changed = changed
        self.addresses = Addresses(store, claim=self.claim, more=self.has_more)
        self.trouble = ""
        """What is wrong with the claims."""
        self._turn = threading.Lock()
        known: dict[Block, str] | None = None if claims is None else {}
        self._situation = Situation(Cluster(), node, tuple(configured), known)
        self._empty_since: dict[Block, float] = {}

    @property
    def own(self) -> tuple[OwnBlock, ...]:
        return self.addresses.blocks

    @property
    def situation(self) -> Situation:
        """What the last decision stood on."""
        return self._situation

    def renew(self, cluster: Cluster) -> bool:
        """Decide anew what our blocks are. True: they have changed."""
        with self._turn:
            self._situation = replace(self._situation, cluster=cluster)
            if self.claims is not None:
                try:
                    self._situation = replace(self._situation, claims=self.claims.owners())
                    self.trouble = ""
                except ClaimsError as error:
                    self.trouble = str(error)
            return self._set()

    def claim(self, family: Family) -> str | None:
        """One more block of the family. None: it is there; else why not."""
        with self._turn:
            if self.claims is None:
                return ""
            try:
                choice = claim_next(self.claims, self._with, family)
                self._situation = self._with(self.claims.owners())
            except ClaimsError as error:
                self.trouble = str(error)
                return self.trouble
            if self._set():
                self._changed()
            return None if choice.why is Next.CLAIM else choice.text

    def has_more(self, family: Family) -> bool:
        """Whether there was a block to claim when we last looked."""
        return next_block(self._situation, family).why is Next.CLAIM

    def give_back(self, now: float, grace_s: float = GRACE_S) -> tuple[Block, ...]:
        """Give back what was claimed and has been empty for `grace_s`, but never the last block of
        a family that gives addresses. `now` is monotonic."""
        with self._turn:
            empty = {f.own.block for f in self.addresses.stock().fills if not f.in_use}
            since = self._empty_since
            self._empty_since = {block: since.get(block, now) for block in empty}
            given = []
            for own in self.own:
                waited_s = now - self._empty_since.get(own.block, now)
                is_spare = own.origin is Origin.CLAIMED and self._spare(own)
                if is_spare and waited_s >= grace_s and self._give_one_back(own):
                    given.append(own.block)
            return tuple(given)

    def _spare(self, own: OwnBlock) -> bool:
        """Whether it gives no addresses, or another block of the family does, too."""
        return own.gives is not Gives.YES or any(
            other.block != own.block
            and other.block.family is own.block.family
            and other.gives is Gives.YES
            for other in self.own
        )

    def _give_one_back(self, own: OwnBlock) -> bool:
        # First nothing is given out of it any more, then it may become another node's.
        if self.claims is None or not self.addresses.withdraw(own.block):
            return False
        try:
            self.claims.release(own.block, self._situation.node)
            self._situation = self._with(self.claims.owners())
        except ClaimsError as error:
            self.trouble = str(error)
        self._set()
        return True

    def _with(self, claims: Mapping[Block, str]) -> Situation:
        return replace(self._situation, claims=claims)

    def _set(self) -> bool:
        before = self.own
        self.addresses.set_blocks(own_blocks(self._situation), families(self._situation))
        return self.own != before

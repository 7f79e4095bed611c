"""Addresses for pods: our blocks and the store, together.

Used by `cni.operations` from many threads at once, and by the agent, which says what our blocks
are. `take` decides and keeps in one step: what it returns is on disk, and nobody else's. Where the
last block of a family is full it asks for another (`claim`), without holding up others meanwhile.

Refusals are `AddressError`, with a reason and a text that says what to do.

Not done here: what our blocks are (`plan.blocks`), claiming them (`cni.claims`), links and routes.
"""

from __future__ import annotations

import enum
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from samepath.cni.store import Attachment, Key, Store, Taken, host_link_name
from samepath.model.net import Address, Family, address_text, family_of
from samepath.plan.addresses import Block, first_unused, free_count, longest_free
from samepath.plan.blocks import Gives, OwnBlock


class Why(enum.Enum):
    """Why there is no address."""

    NO_BLOCKS = "this node has no block of pods' addresses"
    NO_BLOCK_OF_FAMILY = "this node has no block of the family"
    EXHAUSTED = "every address of this node's blocks is in use"
    ATTACHED = "the interface is attached already"
    STATIC_NOT_OURS = "the address that was asked for is in none of this node's blocks"
    STATIC_CLOSED = "the block of the address that was asked for gives no new addresses"
    STATIC_IN_USE = "the address that was asked for is in use"
    STATIC_FAMILY_TWICE = "two addresses of one family were asked for"

    __hash__ = object.__hash__


class AddressError(Exception):
    """No address; `owner` is the attachment that is in the way, if one is."""

    def __init__(self, why: Why, text: str, owner: Attachment | None = None) -> None:
        super().__init__(text)
        self.why = why
        self.owner = owner


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a block is."""

    own: OwnBlock
    in_use: int
    free: int
    """Addresses that would be given out unasked; 0 where the block gives none."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is to give, for STATUS."""

    fills: tuple[Fill, ...]
    exhausted: tuple[Family, ...]
    """Families of which there are blocks, but no free address, and no block to claim."""
    text: str = ""
    """What is missing, in words; empty: nothing."""


Claim = Callable[[Family], str | None]
"""Get us another block of the family: it calls `set_blocks` and returns None, or says why not."""

CLAIMS_LIMIT = 64
"""So often others may use up a block that we have claimed before we give up."""


def _no_claim(_family: Family) -> str | None:
    return ""


def _no_more(_family: Family) -> bool:
    return False


def mac_of(key: Key) -> bytes:
    """Locally administered, unicast, the same for the same attachment. IEEE 802-2014 §8.4."""
    digest = hashlib.blake2b("\0".join(key).encode(), digest_size=6, person=b"mac").digest()
    return bytes((digest[0] & 0xFC | 0x02,)) + digest[1:]


class Addresses:
    """Our blocks and who has which address of them."""

    def __init__(
        self,
        store: Store,
        blocks: Iterable[OwnBlock] = (),
        *,
        claim: Claim = _no_claim,
        more: Callable[[Family], bool] = _no_more,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._claim = claim
        self._more = more
        self._clock = clock
        self._turn = threading.RLock()
        self._claiming = threading.Lock()
        self._blocks: tuple[OwnBlock, ...] = ()
        self._families: tuple[Family, ...] = ()
        self._avoid: frozenset[Address] = frozenset()
        self._from: dict[Block, int] = {}
        """Where the search for a never-used address goes on, round the block."""
        self._forgotten: dict[Block, int] = {}
        """`store.forgotten()` when the search last came round."""
        self.set_blocks(blocks)

    @property
    def blocks(self) -> tuple[OwnBlock, ...]:
        return self._blocks

    def set_blocks(
        self, blocks: Iterable[OwnBlock], families: Iterable[Family] | None = None
    ) -> None:
        """Our blocks, and the families that every pod gets an address of (`plan.blocks`); left
        out: those of the blocks that give."""
        with self._turn:
            self._blocks = tuple(blocks)
            giving = {own.block.family for own in self._blocks if own.gives is Gives.YES}
            self._families = tuple(
                f for f in Family if f in (giving if families is None else families)
            )

    def withdraw(self, block: Block) -> bool:
        """Give nothing out of a block any more. False: one of its addresses is in use."""
        with self._turn:
            in_use = [a for attachment in self.store.all() for a in attachment.addresses]
            if any(block.contains(a) for a in (*in_use, *self._avoid)):
                return False
            self._blocks = tuple(own for own in self._blocks if own.block != block)
            self._from.pop(block, None)
            return True

    def avoid(self, addresses: Iterable[Address]) -> None:
        """Addresses that the kernel holds for pods that the store does not know: not given out."""
        with self._turn:
            before, self._avoid = self._avoid, frozenset(addresses)
            if before - self._avoid:
                self._from.clear()  # what was passed over is behind

    # -- One attachment -----------------------------------------------------------------------

    def take(
        self,
        key: Key,
        network: str,
        *,
        families: Collection[Family] | None = None,
        static: Sequence[Address] = (),
        sandbox: str = "",
        pod: str = "",
        mac: bytes | None = None,
    ) -> Attachment:
        """One address of each family of which we have blocks (or of `families`), on disk as
        RESERVED. `static` ones take the place of their family's. Raises AddressError, StoreError.
        """
        tried: dict[Family, str] = {}
        for _ in range(CLAIMS_LIMIT):
            with self._turn:
                if (old := self.store.get(key)) is not None:
                    text = f"{' '.join(key)} is attached already, as {_texts(old.addresses)}"
                    raise AddressError(Why.ATTACHED, text, old)
                found = self._choose(families, self._checked(static))
                missing = [f for f, address in found.items() if address is None]
                lacking = [f for f in missing if f in tried]
                if lacking:
                    raise self._exhausted(lacking[0], tried[lacking[0]])
                if not missing:
                    made = Attachment(
                        key=key,
                        network=network,
                        addresses=tuple(a for a in found.values() if a is not None),
                        mac=mac or mac_of(key),
                        host_link=host_link_name(key),
                        sandbox=sandbox,
                        pod=pod,
                        made_at=self._clock(),
                    )
                    return self._reserve(made)
            refused = self._claim_another(missing[0])
            if refused is not None:
                tried[missing[0]] = refused
        raise self._exhausted(missing[0], f"{CLAIMS_LIMIT} blocks that were claimed are full")

    def wired(self, key: Key) -> Attachment:
        """Raises KeyError for an unknown attachment, StoreError."""
        return self.store.wired(key)

    def release(self, key: Key) -> Attachment | None:
        """None: it was not known."""
        return self.store.release(key)

    def get(self, key: Key) -> Attachment | None:
        return self.store.get(key)

    def all(self) -> tuple[Attachment, ...]:
        return self.store.all()

    def keep(self, network: str, valid: Collection[Key]) -> tuple[Attachment, ...]:
        """GC: the attachments of the network that are not among the valid ones. CNI 1.1.0 "GC"."""
        known = set(valid)
        return tuple(a for a in self.store.all() if a.network == network and a.key not in known)

    # -- All of them --------------------------------------------------------------------------

    def stock(self) -> Stock:
        """How full each block is, and what is missing."""
        with self._turn:
            in_use = [a for attachment in self.store.all() for a in attachment.addresses]
            fills = tuple(self._fill(own, in_use) for own in self._blocks)
            exhausted = tuple(
                f for f in self._families if self._next(f) is None and not self._more(f)
            )
            text = "; ".join(self._lack(f) for f in exhausted)
            if not self._families:
                text = Why.NO_BLOCKS.value
            return Stock(fills, exhausted, text)

    def _fill(self, own: OwnBlock, in_use: Sequence[Address]) -> Fill:
        block = own.block
        inside = {a for a in in_use if block.contains(a)}
        if own.gives is not Gives.YES:
            return Fill(own, len(inside), 0)
        return Fill(own, len(inside), free_count(block, inside | self._avoid))

    # -- Deciding (with the turn held) --------------------------------------------------------

    def _checked(self, static: Sequence[Address]) -> dict[Family, Address]:
        """The addresses that were asked for. Raises AddressError."""
        asked_for: dict[Family, Address] = {}
        for address in static:
            text, family = address_text(address), family_of(address)
            if family in asked_for:
                raise AddressError(
                    Why.STATIC_FAMILY_TWICE,
                    f"{address_text(asked_for[family])} and {text} were asked for: an interface "
                    "has one address of a family",
                )
            own = next((o for o in self._blocks if o.block.contains(address)), None)
            if own is None:
                raise AddressError(
                    Why.STATIC_NOT_OURS,
                    f"{text} was asked for, but this node's blocks are {self._names(None)}",
                )
            if own.gives is not Gives.YES:
                raise AddressError(
                    Why.STATIC_CLOSED,
                    f"{text} was asked for, but block {own.block} gives no new addresses: "
                    f"{own.gives.value}",
                )
            owner = self.store.owner(address)
            if owner is not None or address in self._avoid:
                raise AddressError(
                    Why.STATIC_IN_USE, f"{text} was asked for, but {_owner_text(owner)}", owner
                )
            asked_for[family] = address
        return asked_for

    def _choose(
        self, families: Collection[Family] | None, asked_for: dict[Family, Address]
    ) -> dict[Family, Address | None]:
        """An address for each family that is wanted; None: there is none. Raises AddressError."""
        wanted = [f for f in Family if f in asked_for or f in (families or self._families)]
        if not wanted:
            raise AddressError(
                Why.NO_BLOCKS,
                f"{Why.NO_BLOCKS.value}: give it `pod_cidrs`, or its Node `spec.podCIDRs`, or "
                f"configure `block_claims` and an IPPool (blocks: {self._names(None)})",
            )
        return {f: asked_for[f] if f in asked_for else self._next(f) for f in wanted}

    def _next(self, family: Family) -> Address | None:
        giving = [
            own.block
            for own in self._blocks
            if own.gives is Gives.YES and own.block.family is family
        ]
        for block in giving:
            offset = self._first_unused(block)
            if offset < block.size:
                return block.at(offset)
        avoid = self._avoid
        return self.store.first_released(
            family, lambda released: longest_free(giving, (a for a in released if a not in avoid))
        )

    def _first_unused(self, block: Block) -> int:
        """The offset of a never-used address; the block's size if there is none."""
        start = self._from.get(block, 0)
        offset = first_unused(block, self._is_known, start)
        forgotten = self.store.forgotten(block.family)
        if offset == block.size and self._forgotten.get(block, 0) != forgotten:
            # Of those before, some have been free for so long that they count as never used.
            self._forgotten[block] = forgotten
            offset = first_unused(block, self._is_known)
        self._from[block] = offset
        return offset

    def _is_known(self, address: Address) -> bool:
        return self.store.is_known(address) or address in self._avoid

    def _reserve(self, made: Attachment) -> Attachment:
        try:
            return self.store.reserve(made)
        except Taken as error:
            # Its name was derived for another attachment: as good as never.
            raise AddressError(Why.ATTACHED, str(error), error.owner) from error

    def _claim_another(self, family: Family) -> str | None:
        """Another block, by us or by another thread since. Why there is none, in words."""
        with self._claiming:
            with self._turn:
                if self._next(family) is not None:
                    return None
            return self._claim(family)

    def _exhausted(self, family: Family, why: str) -> AddressError:
        reason = Why.EXHAUSTED
        if all(own.block.family is not family for own in self._blocks):
            reason = Why.NO_BLOCK_OF_FAMILY
        return AddressError(reason, self._lack(family) + (f"; {why}" if why else ""))

    def _lack(self, family: Family) -> str:
        if all(own.block.family is not family for own in self._blocks):
            return f"this node has no {family.label} block"
        return f"no {family.label} address is free in this node's blocks: {self._names(family)}"

    def _names(self, family: Family | None) -> str:
        """Our blocks, in words."""
        names = []
        for own in self._blocks:
            if family in (None, own.block.family):
                pool = f" of pool {own.pool}" if own.pool else ""
                closed = "" if own.gives is Gives.YES else f" ({own.gives.value})"
                names.append(f"{own.block}{pool}{closed}")
        return ", ".join(names) or "none"


def _owner_text(owner: Attachment | None) -> str:
    if owner is None:
        return "the kernel holds it for a pod that the store does not know"
    name = f"pod {owner.pod}, " if owner.pod else ""
    return f"{name}container {owner.key[0]} has it on {owner.key[1]}"


def _texts(addresses: Iterable[Address]) -> str:
    return ", ".join(address_text(a) for a in addresses)

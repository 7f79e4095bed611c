"""Which address of our blocks a new pod gets. Pure.

Called by `cni.addresses` with the blocks that give addresses, and what is in use or was.

First come addresses that were never used, in order; then the one that has been free for longest, so
that what still remembers a pod (a neighbour entry, a connection of a client, a rule) meets the next
pod of that address as late as can be. A block may be a /64: nothing is enumerated, the search walks
only over addresses that are known.

The first address of a block of four or more is not given out unless asked for by name. In IPv6 it
is the Subnet-Router anycast address; in IPv4 it ends in .0 wherever a block ends at an octet, which
some filters still refuse; and it leaves the node an address of its own among its pods, should it
need one. All others are: every pod has a host route, so there is no broadcast address, and no
gateway in the block. (host-local leaves out first, last and gateway; Calico none.)

Standards: RFC 4291 §2.6.1 (Subnet-Router anycast); RFC 1122 §3.2.1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from samepath.model.net import Address, Family, Nlri, nlri_address, prefix_text


@dataclass(frozen=True, slots=True)
class Block:
    """A prefix that one node owns."""

    family: Family
    nlri: Nlri

    @property
    def size(self) -> int:
        """How many addresses it has, whether given out or not."""
        return 1 << (self.family.bits - self.nlri[0])

    @property
    def first(self) -> int:
        return int.from_bytes(nlri_address(self.family, self.nlri), "big")

    @property
    def skipped(self) -> int:
        """How many of the first addresses are only given out by name."""
        return 1 if self.size >= 4 else 0

    @property
    def capacity(self) -> int:
        """How many addresses are given out unasked."""
        return self.size - self.skipped

    def contains(self, address: Address) -> bool:
        if len(address) != self.family.octets:
            return False
        return 0 <= int.from_bytes(address, "big") - self.first < self.size

    def overlaps(self, other: Block) -> bool:
        if self.family is not other.family:
            return False
        return self.first < other.first + other.size and other.first < self.first + self.size

    def at(self, offset: int) -> Address:
        return (self.first + offset).to_bytes(self.family.octets, "big")

    def __str__(self) -> str:
        return prefix_text(self.family, self.nlri)


def free_count(block: Block, taken: Iterable[Address]) -> int:
    """How many addresses are left to give out unasked; `taken`: different ones, of any block."""
    unasked = sum(
        1
        for address in taken
        if block.contains(address) and int.from_bytes(address, "big") - block.first >= block.skipped
    )
    return block.capacity - unasked


def first_unused(block: Block, is_known: Callable[[Address], bool], start: int = 0) -> int:
    """The offset of the first address from `start` on that is not known; `block.size` if there is
    none."""
    offset = max(start, block.skipped)
    while offset < block.size and is_known(block.at(offset)):
        offset += 1
    return offset


def longest_free(blocks: Iterable[Block], released: Iterable[Address]) -> Address | None:
    """The first of `released` (longest free first) that lies in one of the blocks, and is given
    out unasked."""
    spans = [(b.first + b.skipped, b.first + b.size, b.family.octets) for b in blocks]
    for address in released:
        value = int.from_bytes(address, "big")
        if any(low <= value < high and octets == len(address) for low, high, octets in spans):
            return address
    return None

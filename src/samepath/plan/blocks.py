"""Which blocks of pods' addresses are this node's, and which it should claim next. Pure.

Called by the agent whenever pools, nodes or claims have changed, and when the last block of a
family is full. A node's blocks are those of its configuration (`pod_cidrs`), else those of its Node
object, and those that it has claimed out of the pools. A block stays ours while it is in use,
whatever becomes of its pool; but whether it gives new addresses is asked anew each time (`Gives`).

A claim starts at a place that the node's name decides, and walks round the pool from there: nodes
that claim at once seldom want the same block, and a node finds its own neighbourhood again. It
walks over what is taken, not over blocks, so a pool may have any size.

Not done here: claiming (`cni.claims`); which address of a block (`plan.addresses`).

Standards: Calico's IPPool and IPAM for the vocabulary.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from samepath.model.cluster import Cluster, IPPool
from samepath.model.net import Family, make_nlri
from samepath.model.selector import selects
from samepath.plan.addresses import Block


class Origin(enum.Enum):
    """What makes a block ours."""

    CONFIGURED = "pod_cidrs of the configuration"
    NODE = "spec.podCIDRs of the Node"
    CLAIMED = "claimed"

    __hash__ = object.__hash__


class Gives(enum.Enum):
    """Whether a block of ours gives new addresses."""

    YES = "gives addresses"
    POOL_DISABLED = "its pool is disabled"
    NOT_SELECTED = "its pool's nodeSelector does not select this node any more"
    NO_POOL = "no pool contains it any more"

    __hash__ = object.__hash__


class Next(enum.Enum):
    """Which block to claim next, or why none."""

    CLAIM = "a free block"
    NO_CLAIMS = "blocks are not claimed here: no block_claims is configured"
    NO_POOL = "there is no IPPool of the family"
    POOLS_DISABLED = "every IPPool of the family is disabled"
    NO_POOL_SELECTS_NODE = "no IPPool of the family selects this node"
    POOL_EXHAUSTED = "every block of the IPPools that this node may use is taken"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class OwnBlock:
    block: Block
    origin: Origin
    gives: Gives = Gives.YES
    pool: str = ""
    """The pool that contains it; empty if none does."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the decisions here depend on."""

    cluster: Cluster
    node: str
    configured: tuple[Block, ...] = ()
    """`pod_cidrs` of the configuration."""
    claims: Mapping[Block, str] | None = field(default=None, hash=False)
    """Block -> node; None: blocks are not claimed."""


@dataclass(frozen=True, slots=True)
class Choice:
    why: Next
    family: Family
    block: Block | None = None
    pools: tuple[str, ...] = ()
    """The pools that were looked at."""

    @property
    def text(self) -> str:
        names = f" ({', '.join(self.pools)})" if self.pools else ""
        return f"{self.family.label}: {self.why.value}{names}"


def own_blocks(situation: Situation) -> tuple[OwnBlock, ...]:
    """Our blocks: configured ones, else the Node's; then claimed ones, sorted."""
    node = situation.cluster.nodes.get(situation.node)
    origin, fixed = Origin.CONFIGURED, situation.configured
    if not fixed and node is not None:
        origin, fixed = Origin.NODE, tuple(Block(f, n) for f, n in node.pod_cidrs)
    found = [_own(situation, block, origin) for block in dict.fromkeys(fixed)]
    claimed = [b for b, owner in (situation.claims or {}).items() if owner == situation.node]
    for block in sorted(claimed, key=lambda b: (b.family.bits, b.first, b.size)):
        if not any(block.overlaps(own.block) for own in found):
            found.append(_own(situation, block, Origin.CLAIMED))
    return tuple(found)


def _own(situation: Situation, block: Block, origin: Origin) -> OwnBlock:
    pool = pool_of(situation.cluster, block)
    if pool is None:
        # Nobody but the operator says that a configured block is for pods, and that is enough.
        gives = Gives.NO_POOL if origin is Origin.CLAIMED else Gives.YES
        return OwnBlock(block, origin, gives)
    if pool.disabled:
        return OwnBlock(block, origin, Gives.POOL_DISABLED, pool.name)
    if origin is Origin.CLAIMED and not selects(pool.node_selector, _labels(situation)):
        return OwnBlock(block, origin, Gives.NOT_SELECTED, pool.name)
    return OwnBlock(block, origin, Gives.YES, pool.name)


def owned_blocks(situation: Situation) -> list[tuple[Block, str, Origin]]:
    """Every block that has an owner: block, node, what makes it the node's; sorted."""
    owned = {(b, n, Origin.CLAIMED) for b, n in (situation.claims or {}).items()}
    owned |= {(b, situation.node, Origin.CONFIGURED) for b in situation.configured}
    for node in situation.cluster.nodes.values():
        if not (node.name == situation.node and situation.configured):
            owned |= {(Block(f, n), node.name, Origin.NODE) for f, n in node.pod_cidrs}
    return sorted(owned, key=lambda o: (o[0].family.bits, o[0].first, -o[0].size, o[1], o[2].value))


def pool_of(cluster: Cluster, block: Block) -> IPPool | None:
    """The pool that contains the block."""
    return next((p for p in _pools(cluster, block.family) if _holds(p, block)), None)


def usable_pools(situation: Situation, family: Family) -> tuple[IPPool, ...]:
    """The pools that this node may claim blocks of, by name."""
    labels = _labels(situation)
    return tuple(
        pool
        for pool in _pools(situation.cluster, family)
        if not pool.disabled and selects(pool.node_selector, labels)
    )


def families(situation: Situation) -> tuple[Family, ...]:
    """The families that a new pod gets an address of: those of which there is a block that gives,
    or a pool to claim one from."""
    giving = {own.block.family for own in own_blocks(situation) if own.gives is Gives.YES}
    claims = situation.claims is not None
    return tuple(f for f in Family if f in giving or (claims and usable_pools(situation, f)))


def next_block(situation: Situation, family: Family) -> Choice:
    """What to claim when the blocks of a family are full."""
    every = _pools(situation.cluster, family)
    if situation.claims is None:
        return Choice(Next.NO_CLAIMS, family)
    if not every:
        return Choice(Next.NO_POOL, family)
    enabled = tuple(p.name for p in every if not p.disabled)
    if not enabled:
        return Choice(Next.POOLS_DISABLED, family, pools=tuple(p.name for p in every))
    usable = usable_pools(situation, family)
    if not usable:
        return Choice(Next.NO_POOL_SELECTS_NODE, family, pools=enabled)
    taken = _taken(situation, family)
    for pool in usable:
        block = _free_block(pool, taken, situation.node)
        if block is not None:
            return Choice(Next.CLAIM, family, block, (pool.name,))
    return Choice(Next.POOL_EXHAUSTED, family, pools=tuple(p.name for p in usable))


def overlapping(pools: Iterable[IPPool]) -> dict[str, str]:
    """Pools that are to be refused -> the pool that each overlaps. The oldest stands, of one second
    the first by name: what is in use does not end with a slip in a new one."""
    refused: dict[str, str] = {}
    standing: list[IPPool] = []
    for pool in sorted(pools, key=lambda p: (p.created, p.name)):
        block = Block(pool.family, pool.cidr)
        other = next((o for o in standing if block.overlaps(Block(o.family, o.cidr))), None)
        if other is None:
            standing.append(pool)
        else:
            refused[pool.name] = other.name
    return refused


def _pools(cluster: Cluster, family: Family) -> list[IPPool]:
    return [p for _, p in sorted(cluster.pools.items()) if p.family is family]


def _holds(pool: IPPool, block: Block) -> bool:
    whole = Block(pool.family, pool.cidr)
    return whole.size >= block.size and whole.overlaps(block)


def _labels(situation: Situation) -> Mapping[str, str]:
    node = situation.cluster.nodes.get(situation.node)
    return node.labels if node is not None else {}


def _taken(situation: Situation, family: Family) -> list[tuple[int, int]]:
    """First and one past the last address of all that has an owner, whatever its size."""
    blocks = set(situation.claims or ()) | set(situation.configured)
    for node in situation.cluster.nodes.values():
        blocks.update(Block(f, n) for f, n in node.pod_cidrs)
    return sorted((b.first, b.first + b.size) for b in blocks if b.family is family)


def _free_block(pool: IPPool, taken: list[tuple[int, int]], node: str) -> Block | None:
    whole = Block(pool.family, pool.cidr)
    step = 1 << (pool.family.bits - pool.block_size)
    count = whole.size // step
    digest = hashlib.blake2b(f"{node}\0{pool.name}".encode(), digest_size=16).digest()
    start = int.from_bytes(digest, "big") % count
    for low, high in ((start, count), (0, start)):
        index = _first_gap(whole.first, step, low, high, taken)
        if index is not None:
            address = (whole.first + index * step).to_bytes(pool.family.octets, "big")
            return Block(pool.family, make_nlri(address, pool.block_size))
    return None


def _first_gap(
    base: int, step: int, low: int, high: int, taken: list[tuple[int, int]]
) -> int | None:
    """The first index in low..high-1 whose block touches nothing of `taken` (sorted)."""
    index = low
    for first, end in taken:
        if end <= base + index * step:
            continue
        if index >= high or first >= base + (index + 1) * step:
            break
        index = -(-(end - base) // step)
    return index if index < high else None

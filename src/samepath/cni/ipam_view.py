"""What there is of pools, blocks and attachments, as plain data. Pure.

Called by `cni.ipam` for `samepath ipam show`, by the agent and without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from samepath.cni.store import Attachment
from samepath.model.net import address_text, prefix_text
from samepath.model.selector import selects
from samepath.plan.addresses import Block, free_count
from samepath.plan.blocks import Gives, Origin, OwnBlock, Situation, owned_blocks, pool_of


def show(
    situation: Situation,
    own: Sequence[OwnBlock],
    attachments: Sequence[Attachment],
    trouble: Sequence[str] = (),
) -> dict[str, Any]:
    """Pools, blocks and attachments as plain data. Of other nodes' blocks it is not known how much
    of them is in use: None."""
    owned = owned_blocks(situation)
    return {
        "node": situation.node,
        "pools": [_pool_row(situation, name, owned) for name in sorted(situation.cluster.pools)],
        "blocks": _block_rows(situation, own, owned, attachments),
        "attachments": [_attachment_row(a) for a in attachments],
        "trouble": list(trouble),
    }


def _pool_row(
    situation: Situation, name: str, owned: Sequence[tuple[Block, str, Origin]]
) -> dict[str, Any]:
    pool = situation.cluster.pools[name]
    whole = Block(pool.family, pool.cidr)
    node = situation.cluster.nodes.get(situation.node)
    taken = {block for block, _, _ in owned if whole.overlaps(block)}
    return {
        "name": name,
        "family": pool.family.label,
        "cidr": prefix_text(pool.family, pool.cidr),
        "block_size": pool.block_size,
        "nat_outgoing": pool.nat_outgoing,
        "disabled": pool.disabled,
        "node_selector": pool.node_selector,
        "selects_this_node": selects(pool.node_selector, node.labels if node else {}),
        "blocks": 1 << (pool.block_size - pool.cidr[0]),
        "blocks_taken": len(taken),
        "addresses": whole.size,
        "addresses_taken": sum(min(block.size, whole.size) for block in taken),
    }


def _block_rows(
    situation: Situation,
    own: Sequence[OwnBlock],
    owned: Sequence[tuple[Block, str, Origin]],
    attachments: Sequence[Attachment],
) -> list[dict[str, Any]]:
    ours = {o.block: o for o in own}
    known = {block for block, _, _ in owned}
    in_use = [a for attachment in attachments for a in attachment.addresses]
    rows = []
    for block, node, origin in [
        *owned,
        # Ours, whatever the others say.
        *((b, situation.node, o.origin) for b, o in ours.items() if b not in known),
    ]:
        is_ours = node == situation.node
        mine = ours.get(block) if is_ours else None
        gives = mine.gives if mine else Gives.YES
        inside = [a for a in in_use if block.contains(a)]
        free = free_count(block, inside) if gives is Gives.YES else 0
        pool = pool_of(situation.cluster, block)
        rows.append(
            {
                "block": str(block),
                "family": block.family.label,
                "pool": pool.name if pool else "",
                "node": node,
                "ours": is_ours,
                "origin": origin.name.lower(),
                "gives": gives.value,
                "addresses": block.size,
                "in_use": len(inside) if is_ours else None,
                "free": free if is_ours else None,
            }
        )
    return rows


def _attachment_row(attachment: Attachment) -> dict[str, Any]:
    return {
        "container": attachment.key[0],
        "ifname": attachment.key[1],
        "network": attachment.network,
        "pod": attachment.pod,
        "addresses": [address_text(a) for a in attachment.addresses],
        "mac": attachment.mac.hex(":"),
        "link": attachment.host_link,
        "state": attachment.state.value,
        "made_at": attachment.made_at,
    }

"""What somebody has taken away of an attachment's side on the node, and how it comes back. Pure.

Routes and neighbour entries go when somebody flushes them, or sets the link down and up again.
Called by `programs.pods` with what the kernel holds; the ops are those that `cni.wiring` once did.
An attachment that is being worked at is not to be among those that are asked for.

Not done: the pod's side, which is the pod's own; links that are gone, or down.
"""

from __future__ import annotations

from collections.abc import Iterable

from samepath.cni.attachment import Attachment, State
from samepath.cni.wiring import (
    GATEWAYS,
    gateway_ops,
    host_neighbors,
    host_routes,
    is_link_of,
)
from samepath.model.net import Family, make_nlri
from samepath.netlink.objects import InterfaceAddress, Link, Neighbor, Route
from samepath.netlink.ops import Op, PutNeighbor, PutRoute


def missing(
    attachments: Iterable[Attachment],
    links: Iterable[Link],
    addresses: Iterable[InterfaceAddress],
    neighbors: Iterable[Neighbor],
    routes: Iterable[Route],
) -> list[Op]:
    by_name = {link.name: link for link in links}
    gateway = GATEWAYS[Family.IPV6]
    link_local = make_nlri(gateway, 64)
    with_gateway = {a.index for a in addresses if a.address == gateway}
    entries, ways = set(neighbors), set(routes)
    with_link_local = {r.oif for r in ways if r.nlri == link_local}
    ops: list[Op] = []
    for attachment in attachments:
        link = by_name.get(attachment.host_link)
        if attachment.state is not State.WIRED or link is None or not link.up:
            continue
        if not is_link_of(link, attachment.key):
            continue
        index, own = link.index, attachment.addresses
        if any(len(a) == Family.IPV6.octets for a in own):
            address, route = gateway_ops(index)
            ops += [address] if index not in with_gateway else []
            ops += [route] if index not in with_link_local else []
        wanted = host_neighbors(index, own, attachment.mac)
        ops += [PutNeighbor(entry) for entry in wanted if entry not in entries]
        wanted_routes = host_routes(index, own)
        ops += [PutRoute(r, exclusive=True) for r in wanted_routes if r not in ways]
    return ops

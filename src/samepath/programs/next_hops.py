"""Our own addresses as next hops, where the configuration leaves them out.

A neighbour is told of routes through us by the addresses of the link that it is on: the session's
own for one family, and the first global address of the same link for the other. Called when the
configuration is read, by the programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from samepath.model.config import Bgp
from samepath.model.neighbor import Neighbor
from samepath.model.net import (
    Address,
    Family,
    address_text,
    family_of,
    nlri_address,
    parse_address,
    parse_prefix,
)
from samepath.netlink import uapi
from samepath.netlink.connected import Connected
from samepath.netlink.objects import InterfaceAddress

Config = TypeVar("Config", bound=Bgp)


def with_next_hops(
    config: Config, connected: Connected, addresses: Iterable[InterfaceAddress]
) -> Config:
    """`config` with every neighbour's `next_hops` filled in as far as its link has addresses."""
    known = [a for a in addresses if _is_global(a)]
    neighbors = [_filled(n, config, connected, known) for n in config.neighbors]
    return msgspec.structs.replace(config, neighbors=neighbors)


def _filled(
    neighbor: Neighbor, config: Bgp, connected: Connected, addresses: list[InterfaceAddress]
) -> Neighbor:
    chosen = {
        family_of(parse_address(t)): t for t in (*config.next_hops, *neighbor.next_hops)
    }  # the neighbour's own word comes last and stands
    link = connected(_address_of(neighbor))
    for family in Family:
        if family not in chosen and link is not None:
            found = _first_global(family, link, addresses)
            # Over the session's own family the session knows better: its local address.
            if found is not None and family is not family_of(_address_of(neighbor)):
                chosen[family] = address_text(found)
    texts = [chosen[family] for family in Family if family in chosen]
    return msgspec.structs.replace(neighbor, next_hops=texts)


def _first_global(family: Family, link: int, addresses: list[InterfaceAddress]) -> Address | None:
    for item in addresses:
        if item.index == link and family_of(item.address) is family:
            return item.address
    return None


def _is_global(item: InterfaceAddress) -> bool:
    """And has a network: service addresses, thousands maybe, have none."""
    return item.scope == uapi.RT_SCOPE_UNIVERSE and item.prefix_length < 8 * len(item.address)


def _address_of(neighbor: Neighbor) -> Address:
    """An address by which to ask which link the neighbour is on."""
    if neighbor.address is not None:
        return parse_address(neighbor.address)
    family, nlri = parse_prefix(neighbor.range or "")
    return nlri_address(family, nlri)

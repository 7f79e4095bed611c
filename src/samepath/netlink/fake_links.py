"""How a fake kernel makes, changes and removes links: for `fake`.

A veth's other end may be in another `FakeWorld`, another namespace. The texts and error numbers are
the real kernel's, as tests/netlink/test_links_both.py finds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from errno import EADDRNOTAVAIL, EBADF, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, ERANGE

from samepath.netlink import uapi
from samepath.netlink.fake_world import LO, FakeWorld, Refused
from samepath.netlink.objects import Link
from samepath.netlink.ops import CreateVeth, SetLink

_LEAST_MTU, _LARGEST_MTU = 68, 65535
_ALIAS_OCTETS = 255
_POLICY = "Attribute failed policy validation"


def create_veth(world: FakeWorld, op: CreateVeth, namespaces: Mapping[int, FakeWorld]) -> None:
    far = namespaces.get(op.peer_namespace)
    if far is None:
        raise Refused(EBADF)
    for name, mac in ((op.name, op.mac), (op.peer_name, op.peer_mac)):
        _check_name(name)
        _check_mac(mac)
    if not _LEAST_MTU <= op.mtu <= _LARGEST_MTU:
        raise Refused(EINVAL)
    if _by_name(world, op.name) or _by_name(far, op.peer_name):
        raise Refused(EEXIST)
    there = far.new_index()
    far.links[there] = Link(there, op.peer_name, False, False, op.mtu, op.peer_mac, "veth")
    here = world.new_index()
    world.links[here] = Link(here, op.name, False, False, op.mtu, op.mac, "veth", peer=there)
    far.links[there] = replace(far.links[there], peer=here)
    world.ends[here], far.ends[there] = (far, there), (world, here)


def set_link(world: FakeWorld, op: SetLink) -> None:
    link = world.links.get(op.link) if isinstance(op.link, int) else _by_name(world, op.link)
    if link is None:
        raise Refused(ENODEV)
    if op.alias is not None and len(op.alias.encode()) > _ALIAS_OCTETS:
        raise Refused(ERANGE, _POLICY)
    if op.name is not None and op.name != link.name:
        _check_name(op.name)
        if _by_name(world, op.name):
            raise Refused(EEXIST)
        link = replace(link, name=op.name)
    if op.mac is not None:
        _check_mac(op.mac)
        link = replace(link, address=op.mac)
    if op.mtu is not None:
        if op.mtu < _LEAST_MTU:
            raise Refused(EINVAL, "mtu less than device minimum")
        if op.mtu > _LARGEST_MTU:
            raise Refused(EINVAL, "mtu greater than device maximum")
        link = replace(link, mtu=op.mtu)
    if op.alias is not None:
        link = replace(link, alias=op.alias)
    world.links[link.index] = link
    if op.up is not None:
        set_up(world, link.index, op.up)


def set_up(world: FakeWorld, index: int, up: bool) -> None:
    """Up or down; the other end of a veth loses or gets its carrier."""
    end = world.ends.get(index)
    far_up = end[0].links[end[1]].up if end else True
    world.set_link(index, up=up, carrier=up and far_up)
    if end is not None:
        far, there = end
        if far_up and far.links[there].carrier != up:
            far.set_link(there, up=True, carrier=up)


def delete_link(world: FakeWorld, index: int) -> None:
    if index not in world.links:
        return
    if index == LO:
        raise Refused(EOPNOTSUPP)
    end = world.ends.get(index)
    world.remove_link(index)
    if end is not None:
        end[0].remove_link(end[1])


def _by_name(world: FakeWorld, name: str) -> Link | None:
    return next((link for link in world.links.values() if link.name == name), None)


def _check_name(name: str) -> None:
    if len(name.encode()) >= uapi.IFNAMSIZ:
        raise Refused(ERANGE, _POLICY)
    if name in ("", ".", "..") or re.search(r"[\s/:]", name):
        raise Refused(EINVAL)


def _check_mac(mac: bytes) -> None:
    if len(mac) != 6:
        raise Refused(EINVAL)
    if mac[0] & 1 or not any(mac):
        raise Refused(EADDRNOTAVAIL)

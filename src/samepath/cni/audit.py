"""Does the kernel agree with the store, and do the blocks with both? Pure, over plain data.

Called by `cni.ipam` for `samepath ipam check`. `check` compares four accounts of the same
addresses: the attachments of the store, the links that bear our alias, the host routes by these
links, and who owns which block. A finding's `fix` says what may be done about it without asking
anybody: a link that carries traffic is never removed, it is taken into the store; an attachment is
dropped only when its link is gone; blocks are never taken away.

What is on its way (an attachment that is RESERVED for less than `UNDER_WAY_S`) is left alone.

Not done here: reading, and doing what a fix says (`cni.ipam`).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from samepath.cni.attachment import (
    Attachment,
    Key,
    State,
    host_link_name,
    key_of_alias,
    network_of_alias,
)
from samepath.model.net import Address, address_text, nlri_address
from samepath.model.ours import PROTOCOL
from samepath.netlink.objects import Link, Neighbor, Route
from samepath.plan.blocks import OwnBlock, Situation, owned_blocks

UNDER_WAY_S = 120.0
"""An ADD takes milliseconds; after so long nobody is at it any more."""


class Problem(enum.Enum):
    NO_LINK = "attachment without a link"
    NO_ROUTE = "attachment without a route"
    UNFINISHED = "attachment that was never completed"
    LINK_UNKNOWN = "link without an attachment"
    LINK_EMPTY = "link without an attachment and without an address"
    ADDRESS_TWICE = "address on two links"
    ROUTE_UNKNOWN = "route without an attachment"
    OUTSIDE_BLOCKS = "address outside of this node's blocks"
    BLOCK_TWICE = "block with two owners"
    BLOCK_OWNER_UNKNOWN = "block of a node that is not there"
    STORE = "store that cannot be read"
    CLAIMS = "claims that cannot be read"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Release:
    """Drop an attachment, if it is still as it was found."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take what the kernel has into the store, if its addresses are nobody's."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """Remove a link, if the store still knows nothing of it."""

    key: Key
    link: Link


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """Remove a host route, if its address still belongs to the same attachment, or to none."""

    route: Route
    owner: Key | None = None


Fix = Release | Adopt | RemoveLink | RemoveRoute


@dataclass(frozen=True, slots=True)
class Finding:
    problem: Problem
    subject: str
    text: str
    """What it is, and where `fix` is None, what to do."""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class PodLink:
    """A link of ours in the kernel, and the addresses that are routed by it."""

    key: Key
    link: Link
    addresses: tuple[Address, ...] = ()
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel holds of pods."""

    links: tuple[PodLink, ...] = ()
    routes: tuple[Route, ...] = ()
    """Host routes of ours, by any link."""
    names: Mapping[int, str] = field(default_factory=dict, hash=False)
    """Link index -> name, of all links."""


def kernel_view(
    links: Iterable[Link], routes: Iterable[Route], neighbors: Iterable[Neighbor]
) -> Kernel:
    """What of the kernel's tables is about pods."""
    links = tuple(links)
    hosts = tuple(r for r in routes if _is_host_route(r))
    by_link: dict[int, list[Address]] = {}
    for route in hosts:
        by_link.setdefault(route.oif or 0, []).append(nlri_address(route.family, route.nlri))
    macs = {(n.index, n.address): n.mac for n in neighbors if n.mac}
    found = []
    for link in links:
        key = key_of_alias(link.alias)
        if key is not None:
            addresses = tuple(sorted(by_link.get(link.index, ()), key=lambda a: (len(a), a)))
            mac = next((macs[link.index, a] for a in addresses if (link.index, a) in macs), b"")
            found.append(PodLink(key, link, addresses, mac))
    return Kernel(tuple(found), hosts, {link.index: link.name for link in links})


def _is_host_route(route: Route) -> bool:
    return (
        route.protocol == PROTOCOL
        and route.nlri[0] == route.family.bits
        and route.oif is not None
        and route.gateway is None
        and route.nexthop_id is None
    )


def attachment_of(found: PodLink, known: Attachment | None, boot_id: str) -> Attachment:
    """What the store would hold of a link; `known`: what a damaged store still tells of it."""
    made = known or Attachment(
        found.key, network_of_alias(found.link.alias), (), b"", host_link_name(found.key)
    )
    return replace(
        made,
        addresses=found.addresses,
        mac=found.mac or made.mac,
        host_link=found.link.name,
        boot_id=boot_id,
        state=State.WIRED,
    )


def settled(
    before: Iterable[Attachment], kernel: Kernel, after: Iterable[Attachment]
) -> tuple[tuple[Attachment, ...], Kernel]:
    """Without what changed in the store while the kernel was read: of that, the one account may
    tell what the other does not yet."""
    old, new = {a.key: a for a in before}, {a.key: a for a in after}
    moving = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    theirs = {
        address
        for attachments in (old, new)
        for key in moving & attachments.keys()
        for address in attachments[key].addresses
    }
    indices = {found.link.index for found in kernel.links if found.key in moving}
    links = tuple(found for found in kernel.links if found.key not in moving)
    routes = tuple(
        route
        for route in kernel.routes
        if route.oif not in indices and nlri_address(route.family, route.nlri) not in theirs
    )
    return tuple(a for a in new.values() if a.key not in moving), replace(
        kernel, links=links, routes=routes
    )


# -- Checking ---------------------------------------------------------------------------------


def check(
    attachments: Sequence[Attachment],
    kernel: Kernel,
    own: Sequence[OwnBlock],
    situation: Situation | None = None,
    *,
    now: float,
    boot_id: str = "",
) -> tuple[Finding, ...]:
    """What is wrong with what is `settled`. `now` is wall clock, as in `made_at`."""
    links = {found.key: found for found in kernel.links}
    findings: list[Finding] = []
    for attachment in attachments:
        findings += _check_attachment(attachment, links.get(attachment.key), now)
    known = {a.key: a for a in attachments}
    holders = {address: a for a in attachments for address in a.addresses}
    for found in kernel.links:
        if found.key not in known:
            findings.append(_unknown_link(found, holders, boot_id))
    findings += _check_routes(kernel, known, holders)
    if own:  # else the blocks are not known, or there never was one
        findings += _check_blocks(attachments, own)
    if situation is not None:
        findings += _check_owners(situation)
    return tuple(findings)


def _check_attachment(
    attachment: Attachment, found: PodLink | None, now: float
) -> Iterable[Finding]:
    name = _name(attachment)
    is_wired = attachment.state is State.WIRED
    if not is_wired and now - attachment.made_at < UNDER_WAY_S:
        return
    if found is None:
        what = ", ".join(address_text(a) for a in attachment.addresses)
        problem = Problem.NO_LINK if is_wired else Problem.UNFINISHED
        text = f"{what} would stay in use for ever; link {attachment.host_link} is gone"
        yield Finding(problem, name, text, Release(attachment))
        return
    for address in attachment.addresses:
        if address not in found.addresses:
            text = f"{address_text(address)} is not routed by {found.link.name}; the agent mends it"
            yield Finding(Problem.NO_ROUTE, name, text)


def _unknown_link(found: PodLink, holders: Mapping[Address, Attachment], boot_id: str) -> Finding:
    subject = f"link {found.link.name}"
    key = " ".join(found.key)
    if not found.addresses:
        text = f"no address is routed by the link of {key}"
        return Finding(Problem.LINK_EMPTY, subject, text, RemoveLink(found.key, found.link))
    what = ", ".join(address_text(a) for a in found.addresses)
    owners = [_name(holders[a]) for a in found.addresses if a in holders]
    if owners:
        text = f"{what} of {key} is also that of {', '.join(owners)}: remove one of the two pods"
        return Finding(Problem.ADDRESS_TWICE, subject, text)
    text = f"{key} has {what}, which the store does not know"
    return Finding(Problem.LINK_UNKNOWN, subject, text, Adopt(attachment_of(found, None, boot_id)))


def _check_routes(
    kernel: Kernel, known: Mapping[Key, Attachment], holders: Mapping[Address, Attachment]
) -> Iterable[Finding]:
    keys = {found.link.index: found.key for found in kernel.links}
    counts = Counter((r.family, r.nlri) for r in kernel.routes)
    for route in kernel.routes:
        address = nlri_address(route.family, route.nlri)
        key, holder = keys.get(route.oif or 0), holders.get(address)
        by = kernel.names.get(route.oif or 0, f"link {route.oif}")
        subject = f"route {address_text(address)} by {by}"
        if key is not None and key not in known:
            continue  # said of its link
        if holder is not None and holder.key == key:
            continue
        if holder is None:
            text = "no attachment has this address"
            yield Finding(Problem.ROUTE_UNKNOWN, subject, text, RemoveRoute(route))
        elif counts[route.family, route.nlri] > 1:
            text = f"the address is {_name(holder)}'s, which has a route of its own"
            yield Finding(Problem.ADDRESS_TWICE, subject, text, RemoveRoute(route, holder.key))
        else:
            text = f"the address is {_name(holder)}'s: its link is {holder.host_link}"
            yield Finding(Problem.ADDRESS_TWICE, subject, text)


def _check_blocks(attachments: Sequence[Attachment], own: Sequence[OwnBlock]) -> Iterable[Finding]:
    for attachment in attachments:
        for address in attachment.addresses:
            if not any(o.block.contains(address) for o in own):
                text = (
                    f"{address_text(address)} is in none of this node's blocks, so nobody finds "
                    "it: give the block back to the node, or start the pod anew"
                )
                yield Finding(Problem.OUTSIDE_BLOCKS, _name(attachment), text)


def _check_owners(situation: Situation) -> Iterable[Finding]:
    owned = owned_blocks(situation)
    for i, (block, owner, _) in enumerate(owned):
        for other, another, _ in owned[i + 1 :]:
            if other.family is not block.family or other.first >= block.first + block.size:
                break
            if owner != another:
                text = f"{owner} has {block}, {another} has {other}: only one can be found"
                yield Finding(Problem.BLOCK_TWICE, f"block {other}", text)
    nodes = situation.cluster.nodes
    for block, owner in (situation.claims or {}).items():
        if nodes and owner not in nodes:
            text = (
                f"claimed by {owner}, of which there is no Node: if it is gone for good, take the "
                "line out of the claims"
            )
            yield Finding(Problem.BLOCK_OWNER_UNKNOWN, f"block {block}", text)


def _name(attachment: Attachment) -> str:
    key = f"{attachment.key[0][:12]} {attachment.key[1]}"
    return f"{attachment.pod} ({key})" if attachment.pod else key


def finding_row(finding: Finding, fixed: str = "") -> dict[str, Any]:
    """`fixed`: what came of the fix."""
    return {
        "problem": finding.problem.name,
        "what": finding.problem.value,
        "subject": finding.subject,
        "text": finding.text,
        "fixable": finding.fix is not None,
        "fixed": fixed,
    }

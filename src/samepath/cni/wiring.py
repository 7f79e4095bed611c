"""A pod's link: a veth with one end in the pod and one on the node, addresses, routes, neighbours.

    pod                                             node
    eth0  10.244.1.7/32, fd10::7/128                smp1c7a…  (ee:ee:ee:ee:ee:ee, fe80::ecee:…:eeee)
    169.254.1.1 dev eth0 scope link                 10.244.1.7/32 dev smp1c7a…   protocol 83
    default via 169.254.1.1 dev eth0                fd10::7/128 dev smp1c7a…     protocol 83
    default via fe80::ecee:eeff:feee:eeee           neighbours 10.244.1.7, fd10::7: the pod's MAC
    neighbours of both gateways: ee:ee:ee:ee:ee:ee

Calico's wiring, with permanent neighbour entries in place of proxy ARP. Both ends are made at once,
each where it belongs, by one message from the node (an end that is moved to its namespace costs as
much as all of this). A few sends do it all: the link; what is in the pod; what is on the node; a
look whether the carrier has come, since packets sent before are lost. Whatever fails, the link is
taken away again, and everything with it.

A pod's further interfaces must not take its way out from the first one: their routes have a metric
that is worse than any usual one, so they count for what is bound to that interface only.

Called by `cni.operations` in its threads, and by `programs.pods` for repair. Blocking: 0.8 ms.
Not done: settings of the pod's namespace, but for IPv6 that is switched off where it is needed.

Standards: RFC 3927 (169.254/16), RFC 4291 §2.5.6; veth(4), rtnetlink(7).
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EACCES, EBADF, EEXIST, EINVAL

from samepath.cni.namespaces import OpenKernel, open_kernel, write_setting
from samepath.model.net import (
    Address,
    Family,
    address_text,
    family_of,
    host_nlri,
    parse_address,
)
from samepath.model.ours import PROTOCOL
from samepath.netlink import uapi
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Link, Neighbor, Route
from samepath.netlink.ops import (
    ApplyError,
    CreateVeth,
    DeleteLink,
    Op,
    PutAddress,
    PutNeighbor,
    PutRoute,
    SetLink,
)
from samepath.netlink.socket import NetlinkError

HOST_MAC = b"\xee" * 6
GATEWAYS = {
    Family.IPV4: parse_address("169.254.1.1"),
    Family.IPV6: parse_address("fe80::ecee:eeff:feee:eeee"),
}
"""The node, as every pod sees it. The IPv6 one is made of HOST_MAC (RFC 4291, appendix A)."""

METRIC = 1
"""Of a pod's route on the node: before whatever BGP may bring."""
DEFAULT_METRIC = {Family.IPV4: 0, Family.IPV6: 1024}
"""Of the pod's own routes: what the kernel takes when nothing is said."""
FURTHER_METRIC = 2000
"""And the index of the link: of the routes of a pod's further interfaces."""
CARRIER_LIMIT_S = 1.0
DEFAULT = b"\0"
"""The prefix of length 0."""


class Why(enum.Enum):
    """Why a pod could not be wired."""

    INTERFACE_EXISTS = "the pod has an interface of that name"
    LINK_EXISTS = "the node has a link of the name that belongs to this attachment"
    NAMESPACE_GONE = "the pod's namespace cannot be entered"
    ADDRESS_ROUTED = "the node has a route to the address already"
    REFUSED = "the kernel refused"
    NO_CARRIER = "the link has no carrier"

    __hash__ = object.__hash__


class WiringError(Exception):
    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pod's link as it is to be."""

    host_link: str
    """Name of the end on the node."""
    alias: str
    """Of the same end: whose it is."""
    ifname: str
    """Name of the end in the pod."""
    addresses: tuple[Address, ...]
    mac: bytes
    """Of the end in the pod."""
    mtu: int
    first: bool = True
    """No other interface of the pod is ours: its default routes are by this one."""

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(f for f in Family if any(len(a) == f.octets for a in self.addresses))


@dataclass(frozen=True, slots=True)
class Wired:
    host_index: int
    pod_index: int
    defaults: tuple[Family, ...]
    """Families in which the pod's way out is by this link."""


def nothing(_step: str) -> None:
    """The seam for tests: called with the name of each step when it is done."""


def attach(
    node: Kernel,
    namespace: int,
    wanted: Wanted,
    *,
    inside: OpenKernel = open_kernel,
    step: Callable[[str], None] = nothing,
) -> Wired:
    """Make it. Raises WiringError, and then nothing is left of it."""
    link = _create(node, namespace, wanted)
    try:
        step("created")
        try:
            pod = inside(namespace)
        except OSError as error:
            raise WiringError(Why.NAMESPACE_GONE, f"{error.strerror}") from error
        try:
            defaults = _set_up_pod(pod, namespace, link.peer, wanted)
            step("pod")
            _set_up_host(node, link.index, wanted)
            step("host")
            _wait_for_carrier(node, link.index)
            _wait_for_carrier(pod, link.peer)
        finally:
            pod.close()
    except BaseException:
        node.apply([DeleteLink(link.index)])
        raise
    return Wired(link.index, link.peer, defaults)


def detach(node: Kernel, host_link: str, alias: str) -> bool:
    """Remove the link if it is there. True if it was. Raises WiringError if it is somebody else's,
    or the kernel refuses."""
    link = node.link(host_link)
    if link is None:
        return False
    if link.kind != "veth" or link.alias not in ("", alias):
        raise WiringError(
            Why.LINK_EXISTS, f"link {host_link} is not ours (kind {link.kind}, {link.alias!r})"
        )
    _all_or_error(node.apply([DeleteLink(link.index)]))
    return True


# -- Making ------------------------------------------------------------------------------------


def _create(node: Kernel, namespace: int, wanted: Wanted) -> Link:
    veth = CreateVeth(wanted.host_link, wanted.ifname, namespace, wanted.mtu, HOST_MAC, wanted.mac)
    mark = SetLink(wanted.host_link, up=True, alias=wanted.alias, link_local=False)
    made, marked = node.apply([veth, mark])
    if made is not None:
        raise _not_made(node, made, wanted)
    link = node.link(wanted.host_link)
    if link is None:  # the pod's namespace has just ended, and with it both ends
        raise WiringError(Why.NAMESPACE_GONE, Why.NAMESPACE_GONE.value)
    if marked is not None:
        node.apply([DeleteLink(link.index)])
        raise WiringError(Why.REFUSED, marked.text)
    return link


def _not_made(node: Kernel, error: ApplyError, wanted: Wanted) -> WiringError:
    if error.errno == EEXIST:
        if node.link(wanted.host_link) is not None:
            return WiringError(Why.LINK_EXISTS, f"{Why.LINK_EXISTS.value}: {wanted.host_link}")
        return WiringError(Why.INTERFACE_EXISTS, f"{Why.INTERFACE_EXISTS.value}: {wanted.ifname}")
    if error.errno == EBADF:
        return WiringError(Why.NAMESPACE_GONE, error.text)
    return WiringError(Why.REFUSED, error.text)


def _set_up_pod(pod: Kernel, namespace: int, index: int, wanted: Wanted) -> tuple[Family, ...]:
    """Families whose default route is by this link."""
    parts: list[tuple[Family, list[Op]]] = [
        (family, pod_ops(index, wanted, family)) for family in wanted.families
    ]
    ops: list[Op] = [SetLink("lo", up=True), SetLink(index, up=True)]
    results = pod.apply([*ops, *(op for _, part in parts for op in part)])
    _all_or_error(results[: len(ops)])
    at, defaults = len(ops), []
    for family, part in parts:
        outcome = results[at : at + len(part)]
        at += len(part)
        if any(e is not None and e.errno == EACCES for e in outcome):
            _switch_ipv6_on(namespace, wanted.ifname)
            outcome = pod.apply(part)
        if wanted.first and any(_is_route_there_already(e) for e in outcome):
            # Another plugin has given the pod a way out.
            further = pod_ops(index, wanted, family, first=False)
            outcome = pod.apply(further)
        elif wanted.first:
            defaults.append(family)
        _all_or_error(outcome)
    return tuple(defaults)


def pod_ops(index: int, wanted: Wanted, family: Family, *, first: bool | None = None) -> list[Op]:
    """What one family needs in the pod; the routes last, and refused where there are others."""
    first = wanted.first if first is None else first
    metric = DEFAULT_METRIC[family] if first else FURTHER_METRIC + index
    gateway = GATEWAYS[family]
    ops: list[Op] = [
        PutAddress(index, address, family.bits)
        for address in wanted.addresses
        if family_of(address) is family
    ]
    ops.append(PutNeighbor(_neighbor(index, gateway, HOST_MAC)))
    ops += [PutRoute(route, exclusive=True) for route in _pod_routes(index, family, metric)]
    return ops


def _pod_routes(index: int, family: Family, metric: int) -> list[Route]:
    gateway = GATEWAYS[family]
    way_out = Route(family, DEFAULT, metric=metric, gateway=gateway, oif=index)
    if family is Family.IPV6:
        return [way_out]
    scope = uapi.RT_SCOPE_LINK
    return [Route(family, host_nlri(gateway), metric=metric, oif=index, scope=scope), way_out]


def _is_route_there_already(error: ApplyError | None) -> bool:
    return error is not None and error.errno == EEXIST and isinstance(error.op, PutRoute)


def _set_up_host(node: Kernel, index: int, wanted: Wanted) -> None:
    if Family.IPV6 in wanted.families:
        # A pod is no router of ours, whatever the node takes from others.
        with contextlib.suppress(FileNotFoundError):
            write_setting(None, f"net/ipv6/conf/{wanted.host_link}/accept_ra", "0")
    ops = host_ops(index, wanted.addresses, wanted.mac)
    results = node.apply(ops)
    if any(e is not None and e.errno == EACCES for e in results):
        _switch_ipv6_on(None, wanted.host_link)
        again = [e.op for e in results if e is not None]
        results = node.apply(again)
    for error in results:
        if _is_route_there_already(error):
            assert error is not None
            raise WiringError(Why.ADDRESS_ROUTED, f"{Why.ADDRESS_ROUTED.value}: {error.op}")
    _all_or_error(results)


def host_ops(index: int, addresses: Sequence[Address], mac: bytes) -> list[Op]:
    """What the node needs; a route of somebody else for the same address is not replaced."""
    ops: list[Op] = []
    if any(len(a) == Family.IPV6.octets for a in addresses):
        ops.append(PutAddress(index, GATEWAYS[Family.IPV6], 64))
    ops += [PutNeighbor(entry) for entry in host_neighbors(index, addresses, mac)]
    ops += [PutRoute(route, exclusive=True) for route in host_routes(index, addresses)]
    return ops


def host_neighbors(index: int, addresses: Sequence[Address], mac: bytes) -> list[Neighbor]:
    return [_neighbor(index, address, mac) for address in addresses]


def _neighbor(index: int, address: Address, mac: bytes) -> Neighbor:
    return Neighbor(index, address, uapi.NUD_PERMANENT, mac, protocol=PROTOCOL)


def host_routes(index: int, addresses: Sequence[Address]) -> list[Route]:
    return [
        Route(
            family_of(address),
            host_nlri(address),
            metric=METRIC,
            oif=index,
            scope=uapi.RT_SCOPE_LINK if len(address) == 4 else uapi.RT_SCOPE_UNIVERSE,
        )
        for address in addresses
    ]


def _switch_ipv6_on(namespace: int | None, ifname: str) -> None:
    try:
        write_setting(namespace, f"net/ipv6/conf/{ifname}/disable_ipv6", "0")
    except OSError as error:
        raise WiringError(
            Why.REFUSED, f"IPv6 is off on {ifname}, and cannot be switched on: {error.strerror}"
        ) from error


def _wait_for_carrier(kernel: Kernel, index: int) -> None:
    """Until then what is sent is lost. Since Linux 6.8 the question itself makes the kernel take
    note; before that it does so within a moment."""
    end = time.monotonic() + CARRIER_LIMIT_S
    while True:
        link = kernel.link(index)
        if link is None:
            raise WiringError(Why.NAMESPACE_GONE, Why.NAMESPACE_GONE.value)
        if link.carrier and link.running:
            return
        if time.monotonic() >= end:
            raise WiringError(
                Why.NO_CARRIER, f"{link.name} has no carrier after {CARRIER_LIMIT_S:g} s"
            )
        time.sleep(0.0005)


def _all_or_error(results: Sequence[ApplyError | None]) -> None:
    for error in results:
        if error is None:
            continue
        refused_namespace = error.errno == EINVAL and isinstance(error.op, CreateVeth)
        why = Why.NAMESPACE_GONE if refused_namespace else Why.REFUSED
        raise WiringError(why, error.text)


# -- Looking -----------------------------------------------------------------------------------


def inspect(
    node: Kernel, namespace: int, wanted: Wanted, *, inside: OpenKernel = open_kernel
) -> list[str]:
    """What differs from what `attach` made, each in words; empty: nothing. What others have added
    is no difference. Raises WiringError if the namespace cannot be entered."""
    try:
        pod = inside(namespace)
    except OSError as error:
        raise WiringError(Why.NAMESPACE_GONE, f"{error.strerror}") from error
    try:
        here, there = node.link(wanted.host_link), pod.link(wanted.ifname)
        found = _link_faults("the pod", there, wanted.ifname, wanted.mac, wanted.mtu)
        found += _link_faults("the node", here, wanted.host_link, HOST_MAC, wanted.mtu)
        if here is not None and there is not None:
            if here.peer != there.index or there.peer != here.index:
                found.append(f"{here.name} is not the other end of the pod's {there.name}")
            found += _pod_faults(pod, there.index, wanted)
        if here is not None:
            found += _host_faults(node, here.index, wanted)
        return found
    finally:
        pod.close()


def _link_faults(where: str, link: Link | None, name: str, mac: bytes, mtu: int) -> list[str]:
    if link is None:
        return [f"{where} has no interface {name}"]
    found = []
    if link.address != mac:
        found.append(f"{name} in {where} has the MAC {link.address.hex(':')}, not {mac.hex(':')}")
    if link.mtu != mtu:
        found.append(f"{name} in {where} has the MTU {link.mtu}, not {mtu}")
    if not link.up:
        found.append(f"{name} in {where} is down")
    return found


def _pod_faults(pod: Kernel, index: int, wanted: Wanted) -> list[str]:
    own = {a.address for a in pod.addresses() if a.index == index}
    found = [
        f"{wanted.ifname} has not the address {address_text(address)}"
        for address in wanted.addresses
        if address not in own
    ]
    if wanted.first:
        for family in wanted.families:
            # Another plugin's way out serves as well: then ours stands behind it.
            if not any(r.nlri == DEFAULT for r in pod.routes(family)):
                found.append(f"the pod has no {family.label} default route")
    for family in wanted.families:
        gateway = GATEWAYS[family]
        if _neighbor(index, gateway, HOST_MAC) not in pod.neighbors(index):
            found.append(f"the pod has no neighbour entry for its gateway {address_text(gateway)}")
    return found


def _host_faults(node: Kernel, index: int, wanted: Wanted) -> list[str]:
    neighbors = node.neighbors(index)
    found = [
        f"the node has no neighbour entry for {address_text(entry.address)}"
        for entry in host_neighbors(index, wanted.addresses, wanted.mac)
        if entry not in neighbors
    ]
    for address in wanted.addresses:
        if not _leads_to(node, address, index):
            found.append(f"the node has no route to {address_text(address)} by {wanted.host_link}")
    return found


def _leads_to(node: Kernel, address: Address, index: int) -> bool:
    try:
        way = node.route_get(address)
    except NetlinkError:
        return False
    return way.oif == index

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

from samepath.cni.attachment import Key, host_link_name, key_of_alias
from samepath.cni.namespaces import OpenKernel, open_kernel, write_setting
from samepath.model.net import (
    Address,
    Family,
    family_of,
    host_nlri,
    make_nlri,
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
LINK_LOCAL_METRIC = 1024
"""And the index of the link: of the way to its other end's link-local address."""
DEFAULT_METRIC = {Family.IPV4: 0, Family.IPV6: 1024}
"""Of the pod's own routes: what the kernel takes when nothing is said."""
FURTHER_METRIC = 2000
"""And the index of the link: of the routes of a pod's further interfaces."""
WAIT_LIMIT_S = 5.0
"""The kernel has so long for what it does in its own time; it takes 0.1 ms, or more under load."""
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
    NOT_LOCAL = "the pod does not take its IPv6 address for its own"

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
    """0: CHECK does not ask."""
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
        pod = open_pod(namespace, inside)
        try:
            defaults = _set_up_pod(pod, namespace, link.peer, wanted)
            step("pod")
            _set_up_host(node, link.index, wanted)
            step("host")
            _wait_for_carrier(node, link.index)
            _wait_for_carrier(pod, link.peer)
            _wait_for_addresses(pod, wanted)
        finally:
            pod.close()
    except BaseException:
        node.apply([DeleteLink(link.index)])
        raise
    return Wired(link.index, link.peer, defaults)


def detach(node: Kernel, key: Key) -> bool:
    """Remove the attachment's link if it is there. True if it was; a link of somebody else that has
    taken the name is none. Raises WiringError if the kernel refuses."""
    link = node.link(host_link_name(key))
    if link is None or not is_link_of(link, key):
        return False
    _all_or_error(node.apply([DeleteLink(link.index)]))
    return True


def is_link_of(link: Link, key: Key) -> bool:
    """A link without alias but of the name counts: we were killed before we could mark it."""
    if link.kind != "veth" or link.name != host_link_name(key):
        return False
    return not link.alias or key_of_alias(link.alias) == key


def is_alive(node: Kernel, namespace: int, key: Key, *, inside: OpenKernel = open_kernel) -> bool:
    """Whether the attachment's link leads into this very namespace. Raises WiringError."""
    here = node.link(host_link_name(key))
    if here is None or not is_link_of(here, key):
        return False
    pod = open_pod(namespace, inside)
    try:
        there = pod.link(key[1])
    finally:
        pod.close()
    return there is not None and (there.index, there.peer) == (here.peer, here.index)


def open_pod(namespace: int, inside: OpenKernel) -> Kernel:
    """Raises WiringError."""
    try:
        return inside(namespace)
    except OSError as error:
        raise WiringError(Why.NAMESPACE_GONE, f"{error.strerror}") from error


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
    ops.append(PutNeighbor(permanent(index, gateway, HOST_MAC)))
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
        ops += gateway_ops(index)
    ops += [PutNeighbor(entry) for entry in host_neighbors(index, addresses, mac)]
    ops += [PutRoute(route, exclusive=True) for route in host_routes(index, addresses)]
    return ops


def gateway_ops(index: int) -> list[Op]:
    """The IPv6 gateway, and the way to the pod's link-local address.

    A /128 and a route, not a /64: with that a router joins the subnet's anycast address, and when
    the link goes the kernel then waits for a second RCU grace period, 15 ms a DEL.
    """
    link_local = make_nlri(GATEWAYS[Family.IPV6], 64)
    return [
        PutAddress(index, GATEWAYS[Family.IPV6], 128),
        # By its metric alone it differs from that of another pod's link.
        PutRoute(Route(Family.IPV6, link_local, metric=LINK_LOCAL_METRIC + index, oif=index)),
    ]


def host_neighbors(index: int, addresses: Sequence[Address], mac: bytes) -> list[Neighbor]:
    return [permanent(index, address, mac) for address in addresses]


def permanent(index: int, address: Address, mac: bytes) -> Neighbor:
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

    def is_there() -> bool:
        link = kernel.link(index)
        if link is None:
            raise WiringError(Why.NAMESPACE_GONE, Why.NAMESPACE_GONE.value)
        return link.carrier and link.running

    _wait(is_there, Why.NO_CARRIER)


def _wait_for_addresses(pod: Kernel, wanted: Wanted) -> None:
    """Linux makes the local route of an IPv6 address in a work queue, even where the address needs
    no duplicate address detection; until then the pod does not take what is sent to it."""
    for address in wanted.addresses:
        if family_of(address) is Family.IPV6:
            _wait(lambda a=address: _is_local(pod, a), Why.NOT_LOCAL)  # type: ignore[misc]


def _is_local(pod: Kernel, address: Address) -> bool:
    try:
        return pod.route_get(address).type == uapi.RTN_LOCAL
    except NetlinkError:
        return False


def _wait(condition: Callable[[], bool], why: Why) -> None:
    end, pause_s = time.monotonic() + WAIT_LIMIT_S, 0.0001
    while not condition():
        if time.monotonic() >= end:
            raise WiringError(why, f"{why.value} after {WAIT_LIMIT_S:g} s")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.005)


def _all_or_error(results: Sequence[ApplyError | None]) -> None:
    for error in results:
        if error is None:
            continue
        refused_namespace = error.errno == EINVAL and isinstance(error.op, CreateVeth)
        why = Why.NAMESPACE_GONE if refused_namespace else Why.REFUSED
        raise WiringError(why, error.text)

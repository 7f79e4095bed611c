"""Whether a pod's link is still as `cni.wiring` made it: what CHECK finds.

Each difference is said in words. What others have added is no difference.

Called by `cni.operations` in its threads.

Standards: CNI 1.1.0, "CHECK".
"""

from __future__ import annotations

from samepath.cni.namespaces import OpenKernel, open_kernel
from samepath.cni.wiring import (
    DEFAULT,
    GATEWAYS,
    HOST_MAC,
    Wanted,
    host_neighbors,
    open_pod,
    permanent,
)
from samepath.model.net import Address, address_text
from samepath.netlink.kernel import Kernel
from samepath.netlink.objects import Link
from samepath.netlink.socket import NetlinkError


def inspect(
    node: Kernel, namespace: int, wanted: Wanted, *, inside: OpenKernel = open_kernel
) -> list[str]:
    """What differs from what `attach` made, each in words; empty: nothing. What others have added
    is no difference. Raises WiringError if the namespace cannot be entered."""
    pod = open_pod(namespace, inside)
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
    if mtu and link.mtu != mtu:
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
        if permanent(index, gateway, HOST_MAC) not in pod.neighbors(index):
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

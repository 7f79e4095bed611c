"""What ADD answers, and what CHECK compares of it: out of a request and what was made. Pure.

Called by `cni.operations`. A result goes on from that of earlier plugins of the chain. Of routes it
has those that lead out of the pod; the one to the link-local gateway is no business of anybody's.

Standards: CNI 1.1.0, "ADD Success", "CHECK".
"""

from __future__ import annotations

from collections.abc import Iterable

from samepath.cni.attachment import Attachment, State
from samepath.cni.result import Dns, Interface, IpConfig, Result, Route
from samepath.cni.spec import Request
from samepath.cni.wiring import GATEWAYS, HOST_MAC, Wanted
from samepath.model.net import Address, Family, address_text, family_of


def result_of(request: Request, wanted: Wanted, defaults: Iterable[Family]) -> Result:
    """With what earlier plugins of the chain have made."""
    before, ways_out = request.prev_result or Result(), tuple(defaults)
    host = Interface(wanted.host_link, HOST_MAC.hex(":"), wanted.mtu)
    pod = Interface(wanted.ifname, wanted.mac.hex(":"), wanted.mtu, request.netns)
    number = len(before.interfaces) + 1
    ips = [
        IpConfig(
            address,
            len(address) * 8,
            GATEWAYS[family_of(address)] if family_of(address) in ways_out else None,
            number,
        )
        for address in wanted.addresses
    ]
    routes = [Route(bytes(family.octets), 0, GATEWAYS[family]) for family in ways_out]
    return Result(
        (*before.interfaces, host, pod),
        (*before.ips, *ips),
        (*before.routes, *routes),
        before.dns if request.config.dns == Dns() else request.config.dns,
    )


def pod_interface(told: Result, ifname: str) -> Interface | None:
    """The pod's end, as a runtime remembers it."""
    return next((i for i in told.interfaces if i.name == ifname and i.sandbox), None)


def differences(told: Result, known: Attachment) -> list[str]:
    """Where the runtime's memory of ADD and ours differ."""
    ifname = known.key[1]
    end = pod_interface(told, ifname)
    if end is None:
        return [f"prevResult has no interface {ifname} in the pod"]
    faults = []
    if end.mac and end.mac != known.mac.hex(":"):
        faults.append(f"prevResult has the MAC {end.mac}, given was {known.mac.hex(':')}")
    number = told.interfaces.index(end)
    theirs = {ip.address for ip in told.ips if ip.interface == number}
    if theirs != set(known.addresses):
        faults.append(
            f"prevResult has the addresses {_texts(theirs)}, given were {_texts(known.addresses)}"
        )
    if known.state is not State.WIRED:
        faults.append("its ADD never ended")
    return faults


def _texts(addresses: Iterable[Address]) -> str:
    return ", ".join(sorted(map(address_text, addresses))) or "none"


def has_way_out(told: Result) -> bool:
    """Whether the pod's default routes were by this attachment."""
    return any(r.prefix_length == 0 and r.gw in GATEWAYS.values() for r in told.routes)

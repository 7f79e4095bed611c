"""Whether the running kernel hashes flows as `hashing.flow` says. Asked once a family at start.

The kernel promises no stability of its flow hash across versions, and `samepath trace` and the
comparison of gateways lean on it. So, as soon as a service has a table with several owners, a few
lookups (`ip route get`, by netlink) are compared with the prediction. A difference breaks no
connection: buckets are the kernel's, whichever hash picks them. It is said, not repaired.
"""

from __future__ import annotations

from samepath.apply.row import Row
from samepath.hashing.flow import probes
from samepath.model.net import Address, Family, address_text, nlri_address
from samepath.netlink.kernel import Kernel
from samepath.netlink.socket import NetlinkError

PROBES = 32


def enough(row: Row) -> bool:
    """Whether this row's table can tell a right hash from a wrong one."""
    if not row.in_kernel or row.present is None or row.nlris <= row.unrouted:
        return False
    return len(row.present.members) > 1


def check(kernel: Kernel, row: Row, source: Address, seed: int) -> str:
    """What is wrong, for people; empty if the kernel did as predicted. `source` is an address of
    this host, of the row's family."""
    assert row.present is not None
    # The longest: a shorter one's first address may be another service's, by another table.
    longest = max(row.nlris - row.unrouted, key=lambda nlri: nlri[0])
    destination = nlri_address(row.family, longest)
    wrong = []
    for flow, value in probes(seed, source, destination, PROBES):
        try:
            found = kernel.route_get(
                flow.destination, flow.source, flow.protocol, flow.source_port,
                flow.destination_port,
            )  # fmt: skip
        except NetlinkError as error:
            return f"the flow hash of {row.family.label} could not be checked: {error}"
        expected = row.present.owner(value % row.present.buckets)
        if found.gateway != expected:
            wrong.append((flow, expected, found.gateway))
    if not wrong:
        return ""
    flow, expected, gateway = wrong[0]
    went = address_text(gateway) if gateway is not None else "elsewhere"
    return (
        f"the kernel's {row.family.label} flow hash is not as predicted in {len(wrong)} of "
        f"{PROBES} lookups (a flow to {address_text(destination)} port {flow.destination_port} "
        f"from port {flow.source_port} goes to {went}, expected {address_text(expected)}): "
        "`samepath trace` is not to be trusted here, and other gateways may disagree; "
        "connections are still kept"
    )


def own_address(addresses: list[Address], family: Family) -> Address | None:
    """An address of this host to ask from."""
    return next((a for a in addresses if len(a) == family.octets and not _is_local(a)), None)


def _is_local(address: Address) -> bool:
    """Loopback or link-local."""
    if len(address) == 4:
        return address[0] == 127 or address[:2] == b"\xa9\xfe"
    return address == bytes(15) + b"\1" or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)

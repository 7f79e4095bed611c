"""What a Service asks of whoever gives it its addresses, who may use them, and what was given.

Called by `kube.core`. Annotations and `spec.loadBalancerIP` are free text to the API server, so
nothing of them refuses a Service: it would lose the addresses that it has. What is wrong is said in
`Request.problem`, and the controller assigns nothing until it is mended.

Of each annotation ours counts, else MetalLB's present name, else its former one.

Standards: core/v1 Service; MetalLB's annotations `metallb.io/...`, `metallb.universe.tf/...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from samepath.kube.reading import NAME, Condition, Context, each, masked_prefix, unicast
from samepath.model.cluster import Allocation, Request
from samepath.model.net import Address, Family, Nlri, family_of, host_nlri

ADDRESSES = (
    "samepath.dev/load-balancer-ips",
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
)
POOLS = (
    "samepath.dev/address-pool",
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
)
SHARED = (
    "samepath.dev/allow-shared-ip",
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
)
ALLOCATED_FROM = "samepath.dev/ip-allocated-from-pool"
"""The controller's: the pools that a Service's addresses are from."""
ASSIGNED = "samepath.dev/AddressAssigned"
"""The controller's condition on a Service."""
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"

NOBODY = tuple((family, host_nlri(bytes(family.octets))) for family in Family)
"""Source ranges that no packet comes from: for an annotation of which nothing can be understood."""

_FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}


def read_request(
    annotations: Mapping[str, str],
    load_balancer_ip: str | None,
    *,
    families: tuple[str, ...],
    policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"],
    selector: Mapping[str, str],
    problem: str = "",
) -> Request:
    problems = [problem] if problem else []
    where, texts = _listed(annotations, ADDRESSES)
    if where is None and load_balancer_ip:
        where, texts = "spec.loadBalancerIP", [load_balancer_ip]
    addresses: list[Address] = []
    for text in texts:
        try:
            addresses.append(unicast(text))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if len({family_of(a) for a in addresses}) != len(addresses):
        problems.append(f"{where}: more than one address of a family")
    where, pools = _listed(annotations, POOLS)
    problems += [f"{where}: {p!r} is no name of a pool" for p in pools if not NAME.match(p)]
    return Request(
        addresses=tuple(addresses),
        pools=tuple(dict.fromkeys(pools)),
        sharing_key=next((annotations[n] for n in SHARED if annotations.get(n)), None),
        families=tuple(_FAMILIES[name] for name in families),
        dual_stack=policy,
        selector=selector,
        problem="; ".join(problems),
    )


def read_allocation(annotations: Mapping[str, str], conditions: Iterable[Condition]) -> Allocation:
    """What the controller has written. It is ours, so nothing in it is refused."""
    _, pools = _listed(annotations, (ALLOCATED_FROM,))
    said = next((c for c in conditions if c.type == ASSIGNED), Condition(type=ASSIGNED))
    return Allocation(tuple(pools), said.reason or "", said.message or "")


def _listed(annotations: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """The first of the annotations that says anything, and its list."""
    for name in names:
        texts = [part.strip() for part in annotations.get(name, "").split(",")]
        if found := [text for text in texts if text]:
            return name, found
    return None, []


def source_ranges(
    texts: list[str], annotations: Mapping[str, str], context: Context
) -> tuple[tuple[tuple[Family, Nlri], ...], str]:
    """`spec.loadBalancerSourceRanges`, else the annotation; and what is wrong with the latter.

    An annotation that is wrong lets in less, not more. Raises DocumentError for the spec's, which
    the API server has checked.
    """
    if texts:
        path = "spec.loadBalancerSourceRanges"
        return tuple(each(context, path, [t.strip() for t in texts], masked_prefix)), ""
    found: list[tuple[Family, Nlri]] = []
    problem = ""
    _, listed = _listed(annotations, (SOURCE_RANGES,))
    for text in listed:
        try:
            found.append(masked_prefix(text))
        except ValueError as error:
            problem = f"{SOURCE_RANGES}: {error}"
    return (tuple(found) or NOBODY if problem else tuple(found)), problem

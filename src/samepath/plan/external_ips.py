"""External IPs: which of them a Service may have. Pure.

Called by `programs.agent` for each new state of the cluster, before anything is planned. Whoever
may make a Service may write any address into `spec.externalIPs`, and the API server does not look.
It is given to nobody, so it must not take what is somebody's:

- a Node's, or a pod's: their packets would go to the Service's endpoints instead;
- a cluster IP, or a load balancer's address, of another Service (own ones change nothing).

Such an address is taken out of the Service, with a reason; the rest of the Service stays. Which of
the remaining ones are told by BGP, and are put on the node, is the configuration's
(`advertise.external_ips`); all of them are served on the Service's ports, as kube-proxy does.

Not done: addresses that are no part of the cluster (a resolver, say): kube-proxy draws them as
well, and it takes the API server's DenyServiceExternalIPs to prevent it.

Standards: core/v1 Service; CVE-2020-8554.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from samepath.model.cluster import Cluster, Service
from samepath.model.net import Address, PrefixSet, address_text


class WhyRefused(enum.Enum):
    NODE = "is the address of a Node"
    POD = "is within the pods' addresses"
    ANOTHERS = "is the address of another Service"


@dataclass(frozen=True, slots=True)
class Refused:
    service: str
    """namespace/name"""
    address: Address
    why: WhyRefused

    @property
    def text(self) -> str:
        what = f"Service {self.service}: spec.externalIPs: {address_text(self.address)}"
        return f"{what} {self.why.value}: not served"


def pared(cluster: Cluster, pods: Iterable[str]) -> tuple[Cluster, tuple[Refused, ...]]:
    """The cluster without what no Service may have as an external IP, and what that was. `pods`:
    the prefixes of their addresses."""
    asking = {key: s for key, s in cluster.services.items() if s.external_ips}
    if not asking:
        return cluster, ()
    nodes = frozenset(a for node in cluster.nodes.values() for a in node.addresses)
    owners = _owners(cluster, frozenset(a for s in asking.values() for a in s.external_ips))
    within = PrefixSet(pods)
    refused: list[Refused] = []
    changed: dict[str, Service] = {}
    for key, service in sorted(asking.items()):
        found = [
            Refused(key, address, why)
            for address in service.external_ips
            if (why := _why(key, address, nodes, within, owners)) is not None
        ]
        if found:
            gone = {one.address for one in found}
            stay = tuple(a for a in service.external_ips if a not in gone)
            changed[key] = replace(service, external_ips=stay)
            refused += found
    if not changed:
        return cluster, ()
    return replace(cluster, services={**cluster.services, **changed}), tuple(refused)


def _owners(cluster: Cluster, wanted: frozenset[Address]) -> Mapping[Address, set[str]]:
    """The Services to which these addresses were given."""
    owners: dict[Address, set[str]] = {}
    for key, service in cluster.services.items():
        for address in (*service.cluster_ips, *service.load_balancer_ips):
            if address in wanted:
                owners.setdefault(address, set()).add(key)
    return owners


def _why(
    key: str,
    address: Address,
    nodes: frozenset[Address],
    pods: PrefixSet,
    owners: Mapping[Address, set[str]],
) -> WhyRefused | None:
    if address in nodes:
        return WhyRefused.NODE
    if pods.contains(address):
        return WhyRefused.POD
    # One that was given to this Service is its own, whoever shares it.
    return WhyRefused.ANOTHERS if key not in owners.get(address, {key}) else None

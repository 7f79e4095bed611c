"""The rights that each program needs of the API server, and no more.

`samepath install check` asks the server for each of them; a test compares them with the roles in
the chart (deploy/helm/samepath), and others run the programs with these rights alone. Pure.

Standards: Kubernetes RBAC (apiGroups, resources, verbs, resourceNames); SelfSubjectAccessReview.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from samepath.kube import resources as kinds
from samepath.kube.resources import Resource


@dataclass(frozen=True, slots=True)
class Right:
    group: str
    resource: str
    """`nodes`, `nodes/status`."""
    verb: str
    ours: bool = False
    """In our own namespace alone; else in all of the cluster."""
    name: str = ""
    """Of this object alone."""

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        name = f" {self.name}" if self.name else ""
        return f"{self.verb} {what}{name}{' (own namespace)' if self.ours else ''}"

    @property
    def attributes(self) -> dict[str, str]:
        """`spec.resourceAttributes` of a SelfSubjectAccessReview, without the namespace."""
        resource, _, subresource = self.resource.partition("/")
        return {
            "group": self.group,
            "resource": resource,
            "subresource": subresource,
            "verb": self.verb,
            "name": self.name,
        }


AGENT = "samepath-agent"
CONTROLLER = "samepath-controller"
GATEWAY = "samepath-gateway"
"""Names of service accounts and roles; of the DaemonSet and the Lease, too."""

_READ = ("list", "watch")


def _on(
    resource: Resource, *verbs: str, sub: str = "", ours: bool = False, name: str = ""
) -> Iterator[Right]:
    plural = f"{resource.plural}/{sub}" if sub else resource.plural
    return (Right(resource.group, plural, verb, ours, name) for verb in verbs)


RIGHTS: dict[str, frozenset[Right]] = {
    AGENT: frozenset(
        (
            *_on(kinds.NODES, *_READ),
            *_on(kinds.NODES, "patch", sub="status"),
            *_on(kinds.SERVICES, *_READ),
            *_on(kinds.ENDPOINT_SLICES, *_READ),
            *_on(kinds.BGP_PEERS, *_READ),
            *_on(kinds.BGP_ADVERTISEMENTS, *_READ),
            *_on(kinds.IP_ADDRESS_POOLS, *_READ),
            *_on(kinds.IP_POOLS, *_READ),
            *_on(kinds.BFD_PROFILES, *_READ),
            *_on(kinds.COMMUNITIES, *_READ),
            *_on(kinds.BLOCK_CLAIMS, "get", *_READ, "create", "patch", "delete"),
            *_on(kinds.SERVICE_BGP_STATUSES, "get", "list", "create", "delete"),
            *_on(kinds.SERVICE_BGP_STATUSES, "patch", sub="status"),
            *_on(kinds.BGP_SESSION_STATES, "get", "list", "create", "delete"),
            *_on(kinds.BGP_SESSION_STATES, "patch", sub="status"),
            *_on(kinds.SECRETS, *_READ, ours=True),
            *_on(kinds.DAEMON_SETS, "get", ours=True, name=AGENT),
        )
    ),
    CONTROLLER: frozenset(
        (
            *_on(kinds.NODES, *_READ),
            *_on(kinds.NAMESPACES, *_READ),
            *_on(kinds.SERVICES, "get", *_READ, "patch"),
            *_on(kinds.SERVICES, "patch", sub="status"),
            *_on(kinds.IP_ADDRESS_POOLS, *_READ),
            *_on(kinds.IP_ADDRESS_POOLS, "patch", sub="status"),
            *_on(kinds.IP_POOLS, *_READ),
            *_on(kinds.BLOCK_CLAIMS, *_READ, "delete"),
            *_on(kinds.SERVICE_BGP_STATUSES, "list", "delete"),
            *_on(kinds.EVENTS, "create", "patch"),
            *_on(kinds.LEASES, "create", ours=True),
            *_on(kinds.LEASES, "get", "update", ours=True, name=CONTROLLER),
        )
    ),
    GATEWAY: frozenset(
        (
            *_on(kinds.NODES, *_READ),
            *_on(kinds.IP_ADDRESS_POOLS, *_READ),
            *_on(kinds.IP_POOLS, *_READ),
            *_on(kinds.BLOCK_CLAIMS, *_READ),
            *_on(kinds.BGP_ADVERTISEMENTS, *_READ),
            *_on(kinds.GATEWAY_TIERS, *_READ),
        )
    ),
}

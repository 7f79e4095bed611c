"""What a load balancer in front of the nodes is told on a service's healthCheckNodePort. Pure.

Asked by `programs.serving`, told by `programs.health_checks`. With externalTrafficPolicy Local a
node is to get flows of a service only while it has a ready endpoint of it, and not while the node
drains. As with kube-proxy, endpoints that merely still serve count for nothing here: no new flow
is to come for their sake.

Kubernetes API: `spec.healthCheckNodePort`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from samepath.model.cluster import Cluster, Service
from samepath.model.memo import Last, Memo
from samepath.model.net import Family


@dataclass(frozen=True, slots=True)
class Check:
    """What is said of one service."""

    namespace: str
    name: str
    endpoints: int
    """Ready ones on this node; a pod with addresses of both families is one."""
    is_draining: bool = False
    """The node takes no new flows."""

    @property
    def is_fit(self) -> bool:
        """Whether new flows may come, as far as endpoints and node are concerned."""
        return self.endpoints > 0 and not self.is_draining


class Known:
    """What `checks` has found; kept by the caller between calls."""

    def __init__(self) -> None:
        self.asking: Last[Mapping[str, Service]] = Last()
        self.ready: Memo[str, int] = Memo()


def checks(
    cluster: Cluster, node: str, known: Known | None = None
) -> tuple[Mapping[int, Check], tuple[str, ...]]:
    """By port; and which services ask for one that they cannot have: the first by name has it."""
    known = known or Known()
    asking = known.asking.of(
        lambda: {key: service for key, service in cluster.services.items() if _asks(service)},
        cluster.services,
    )
    ready = known.ready.update(
        lambda key: _ready_here(cluster, asking[key], node), (asking, cluster.slices), node
    )
    own = cluster.nodes.get(node)
    is_draining = own is None or own.drain is not None
    found: dict[int, Check] = {}
    conflicts = []
    for key in sorted(asking):
        service = asking[key]
        port = service.health_check_node_port
        assert port is not None
        if not 1 <= port <= 65535:
            conflicts.append(f"{key}: {port} is no port")
            continue
        if port in found:
            first = found[port]
            conflicts.append(f"{key}: port {port} is that of {first.namespace}/{first.name}")
            continue
        found[port] = Check(service.namespace, service.name, ready[key], is_draining)
    return found, tuple(conflicts)


def _asks(service: Service) -> bool:
    has_port = service.health_check_node_port is not None
    return has_port and service.load_balancer and service.external_local


def _ready_here(cluster: Cluster, service: Service, node: str) -> int:
    most = 0
    for family in Family:
        ready = {
            target.address
            for port in service.ports
            for target in cluster.targets(service, port, family, node)
            if target.local and target.ready
        }
        most = max(most, len(ready))
    return most

"""The files that the lab's programs read: pure functions from topology to text.

`bird.conf` for the upstream router, `gateway.yaml` and `agent.yaml` for ours, and the folder of
Kubernetes manifests that every agent follows. `lab.running` writes them, each by rename.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from samepath.lab import foreign_config
from samepath.lab.topology import (
    BLOCK_SIZES,
    CLUSTER_ADDRESSES,
    GATEWAY_AS,
    POD_POOLS,
    POD_PORT,
    SEGMENT,
    SERVICE_ADDRESSES,
    SERVICE_POOLS,
    SERVICE_PORT,
    UPSTREAM_AS,
    Gateway,
    Node,
    Pod,
    Topology,
)

Dataplane = Literal["kernel", "plain", "bpf"]

SERVICE = "web"
DRAIN_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"


class Condition(enum.Enum):
    """What the EndpointSlice says of a pod: (ready, serving, terminating)."""

    READY = (True, True, False)
    TERMINATING = (False, True, True)
    UNREADY = (False, False, False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    pod: Pod
    condition: Condition


def gateway_config(
    topology: Topology,
    gateway: Gateway,
    dataplane: Dataplane,
    run_dir: str,
    expected_peers: int,
    kubeconfig: str | None = None,
) -> str:
    """`gateway.yaml`. The two data planes differ in one line. With a kubeconfig the cluster's Nodes
    are the neighbours, and it says how many to expect."""
    spec = topology.spec
    nodes: dict[str, Any] = {
        "range": SEGMENT[0],
        "remote_as": GATEWAY_AS,
        "next_hops": [gateway.segment4, gateway.segment6],
        "hold_time_s": spec.hold_time_s,
        "import": {"services": list(SERVICE_POOLS), "pods": list(POD_POOLS)},
        "export": ["pods", "default"],
    }
    listen, over4_and_6 = [gateway.segment4, gateway.uplink4], [nodes]
    if spec.speaker != "agent":
        listen.append(gateway.segment6)
        expected_peers *= 2  # each node by its two addresses
        # All nodes are in one AS: a block of one would be a loop to the others.
        nodes |= {"remote_as": foreign_config.NODE_AS, "export": ["default"]}
        nodes["import"] = nodes["import"] | {"next_hop": "peer"}
        over4_and_6 = [
            nodes | {"families": ["ipv4"], "next_hops": [gateway.segment4]},
            nodes | {"range": SEGMENT[1], "families": ["ipv6"], "next_hops": [gateway.segment6]},
        ]
        if spec.speaker == "frr":
            over4_and_6 = [each for x in over4_and_6 for each in _by_address(topology, x)]
    source: dict[str, Any] = {}
    if kubeconfig is not None and spec.speaker == "agent":
        terms = {name: value for name, value in nodes.items() if name != "range"}
        source = {"kubernetes": {"kubeconfig": kubeconfig}, "nodes": terms}
        over4_and_6, expected_peers = [], 0
    upstream = {
        "address": gateway.upstream4,
        "remote_as": UPSTREAM_AS,
        "local_address": gateway.uplink4,
        "next_hops": [gateway.uplink4, gateway.uplink6],
        "hold_time_s": spec.hold_time_s,
        "connect_retry_s": 1,
        "import": {"routes": ["0.0.0.0/0", "::/0"]},
        "export": ["services", "pods"],
    }
    return _yaml(
        {
            "router_id": gateway.segment4,
            "as": GATEWAY_AS,
            "listen": listen,
            **source,
            "neighbors": [*over4_and_6, upstream],
            "run_dir": run_dir,
            "buckets": spec.buckets,
            "hash_seed": spec.hash_seed,
            "idle_timer_s": spec.idle_timer_s,
            "transition_idle_s": spec.transition_idle_s,
            "expected_peers": expected_peers,
            "dataplane": dataplane,
        }
    )


def _by_address(topology: Topology, neighbor: dict[str, Any]) -> list[dict[str, Any]]:
    """Every node named, so that we connect: FRR waits for a gateway that restarts to do so."""
    terms = {name: value for name, value in neighbor.items() if name != "range"} | {
        "connect_retry_s": 1
    }
    six = "ipv6" in neighbor["families"]
    return [{"address": n.segment6 if six else n.segment4} | terms for n in topology.nodes]


@dataclass(frozen=True, slots=True)
class Places:
    """Where an agent finds and keeps things: paths."""

    manifests: str
    run_dir: str
    store: str
    block_claims: str
    """One file for all nodes."""
    kubeconfig: str | None = None
    """The objects come from the API server, and blocks are claimed there."""


def agent_config(topology: Topology, node: Node, places: Places) -> str:
    """`agent.yaml`: every gateway is a neighbour; blocks are claimed when they are needed. Beside
    another speaker it has no neighbours, and blocks that are known beforehand."""
    is_ours = topology.spec.speaker == "agent"
    source: dict[str, Any] = {"manifests": places.manifests}
    if places.kubeconfig is not None:
        source = {"kubernetes": {"kubeconfig": places.kubeconfig}}
    claims = is_ours and places.kubeconfig is None
    neighbors = [
        {
            "address": gateway.segment4,
            "remote_as": GATEWAY_AS,
            "local_address": node.segment4,
            "hold_time_s": topology.spec.hold_time_s,
            "connect_retry_s": 1,
            "import": {"pods": list(POD_POOLS), "routes": ["0.0.0.0/0", "::/0"]},
        }
        for gateway in topology.gateways
    ]
    return _yaml(
        {
            "router_id": node.segment4,
            "as": GATEWAY_AS,
            "next_hops": [node.segment4, node.segment6],
            "neighbors": neighbors if is_ours else [],
            "run_dir": places.run_dir,
            "node": node.name,
            **source,
            "pod_cidrs": [] if is_ours else list(foreign_config.blocks(topology, node)),
            "cni": {"store": places.store}
            | ({"block_claims": places.block_claims} if claims else {}),
        }
    )


def bird_config(topology: Topology, log: str) -> str:
    """`bird.conf`: plain ECMP over all gateways (`merge paths`), graceful restart as a helper."""
    neighbors = "\n".join(_bird_neighbor(topology, g) for g in topology.gateways)
    return f"""\
# The upstream router of the lab: somebody else's software, plain ECMP.
log "{log}" all;
timeformat base iso long ms;
timeformat log iso long ms;
timeformat protocol iso long ms;
timeformat route iso long ms;
router id 192.0.2.1;
debug protocols {{ states }};

protocol device {{ scan time 2; }}
protocol static default4 {{ ipv4; route 0.0.0.0/0 blackhole; }}
protocol static default6 {{ ipv6; route ::/0 blackhole; }}
protocol kernel kernel4 {{
  merge paths on;
  ipv4 {{ import none; export where source = RTS_BGP; }};
}}
protocol kernel kernel6 {{
  merge paths on;
  ipv6 {{ import none; export where source = RTS_BGP; }};
}}

{neighbors}"""


def _bird_neighbor(topology: Topology, gateway: Gateway) -> str:
    return f"""\
protocol bgp {gateway.name} {{
  local {gateway.upstream4} as {UPSTREAM_AS};
  neighbor {gateway.uplink4} as {GATEWAY_AS};
  direct;
  hold time {topology.spec.hold_time_s};
  connect retry time 2;
  connect delay time 1;
  error wait time 1, 3;
  graceful restart aware;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop address {gateway.upstream6}; }};
}}
"""


def manifests(
    nodes: Iterable[Node], draining: Iterable[str], endpoints: Iterable[Endpoint]
) -> dict[str, str]:
    """File name to text: a Node a file, the Service, an IPPool and an EndpointSlice a family."""
    found = objects(nodes, draining, endpoints)
    return {name: _yaml(document) for name, document in found.items()}


def objects(
    nodes: Iterable[Node], draining: Iterable[str], endpoints: Iterable[Endpoint]
) -> dict[str, dict[str, Any]]:
    """The same as data, for the API server."""
    drained = set(draining)
    listed = sorted(endpoints, key=lambda e: e.pod.name)
    found = {f"node-{n.name}.yaml": _node(n, n.name in drained) for n in nodes}
    for family, cidr, size in zip(("ipv4", "ipv6"), POD_POOLS, BLOCK_SIZES, strict=True):
        found[f"pool-{family}.yaml"] = _pool(f"pods-{family}", cidr, size)
    found["service.yaml"] = _service()
    found["endpoints-ipv4.yaml"] = _slice("IPv4", listed)
    found["endpoints-ipv6.yaml"] = _slice("IPv6", listed)
    return found


def _node(node: Node, draining: bool) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": node.name}
    if draining:
        labels[DRAIN_LABEL] = ""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.segment4},
                {"type": "InternalIP", "address": node.segment6},
            ]
        },
    }


def _pool(name: str, cidr: str, block_size: int) -> dict[str, Any]:
    return {
        "apiVersion": "samepath.dev/v1",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": block_size},
    }


def _service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": CLUSTER_ADDRESSES[0],
            "clusterIPs": list(CLUSTER_ADDRESSES),
            "selector": {"app": SERVICE},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": POD_PORT}
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": a} for a in SERVICE_ADDRESSES]}},
    }


def _slice(family: Literal["IPv4", "IPv6"], endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{SERVICE}-{family.lower()}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": family,
        "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT}],
        "endpoints": [_endpoint(family, e) for e in endpoints],
    }


def _endpoint(family: Literal["IPv4", "IPv6"], endpoint: Endpoint) -> dict[str, Any]:
    ready, serving, terminating = endpoint.condition.value
    pod = endpoint.pod
    return {
        "addresses": [pod.address4 if family == "IPv4" else pod.address6],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod.node,
        "targetRef": {"kind": "Pod", "namespace": "default", "name": pod.name},
    }


def pod_object(pod: Pod) -> dict[str, Any]:
    """For people, who look for Pods; no program of ours reads them."""
    container = {"name": SERVICE, "image": "lab/web", "ports": [{"containerPort": POD_PORT}]}
    addresses = [pod.address4, pod.address6]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": "default", "labels": {"app": SERVICE}},
        "spec": {"nodeName": pod.node, "containers": [container]},
        "status": {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": SERVICE, "ready": True, "restartCount": 0}],
        },
    }


def _yaml(document: dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False))

"""A large cluster as objects, and the API server that has them: what `scale` runs its programs on.

As a process (`python -m benchmarks.scale_cluster ADDRESS:PORT KUBECONFIG`) it serves them, says
"ready", and from then on makes one change for each line that it reads: `endpoint N READY` makes the
first endpoint of service N ready or not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samepath.lab.api_server import ApiServer

NODES = 1_000
SERVICES = 5_000
PER_SERVICE = 10
"""Endpoints: 50,000 in all, in one slice a service."""
NODE_ADDRESS = "10.83.1.1"
"""Of the first Node, where the agent runs."""

Json = dict[str, Any]


def node_address(index: int) -> str:
    return f"10.83.{1 + index // 250}.{1 + index % 250}"


def service_address(index: int) -> str:
    return f"198.18.{index // 250}.{1 + index % 250}"


def pod_address(node: int, number: int) -> str:
    return f"10.{128 + node // 250}.{node % 250}.{1 + number}"


def nodes() -> Iterator[Json]:
    for index in range(NODES):
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"n{index}",
                "labels": {"kubernetes.io/hostname": f"n{index}", "kubernetes.io/os": "linux"},
            },
            "spec": {"podCIDRs": [f"10.{128 + index // 250}.{index % 250}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": node_address(index)}]},
        }


def services() -> Iterator[Json]:
    """One in ten has the policy Local."""
    for index in range(SERVICES):
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"s{index}", "namespace": "default"},
            "spec": {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": False,
                "clusterIP": f"10.97.{index // 250}.{1 + index % 250}",
                "externalTrafficPolicy": "Local" if index % 10 == 0 else "Cluster",
                "selector": {"app": f"s{index}"},
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": service_address(index)}]}},
        }


def slices() -> Iterator[Json]:
    for index in range(SERVICES):
        yield slice_of(index, ready=True)


def slice_of(index: int, *, ready: bool) -> Json:
    """The endpoints of service `index`, `ready` being the first one's."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{index}-a",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"s{index}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint(index, n, ready=ready or n > 0) for n in range(PER_SERVICE)],
    }


def endpoint(service: int, number: int, *, ready: bool) -> Json:
    """Spread over all nodes; services 0, 100, 200, ... have their first one on the first node."""
    node = (service * PER_SERVICE + number * 101) % NODES
    return {
        "addresses": [pod_address(node, (service * PER_SERVICE + number) // NODES)],
        "conditions": {"ready": ready, "serving": ready, "terminating": False},
        "nodeName": f"n{node}",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": f"s{service}-{number}"},
    }


async def serve(listen: str, kubeconfig: str) -> None:
    address, _, port = listen.rpartition(":")
    server = ApiServer(address, int(port))
    crds = Path(__file__).resolve().parent.parent / "deploy/crds"
    for path in sorted(crds.glob("*.yaml")):
        server.apply(path.read_text())
    for things in (nodes(), services(), slices()):
        server.apply(things)
    await server.start()
    server.kubeconfig(Path(kubeconfig))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        _, number, ready = line.split()
        server.apply(slice_of(int(number), ready=ready == "True"))
        print("done", flush=True)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))

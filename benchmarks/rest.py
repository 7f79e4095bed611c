"""At rest: what gateway and agent hold and burn when nothing changes, beside FRR and BIRD.

Each router has the same load, 1,000 services in 200 member sets of 64 peers, all of it in its
kernel; then its memory (PSS, and RSS with shared pages counted in full) and the CPU that it uses
in some seconds. The agent is one of 64 nodes, follows a folder with all 64 Nodes, 1,000 Services
and their EndpointSlices, serves its part of them, and has its session with a gateway.

Ends in one line of JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import yaml

from benchmarks.fib import Fib
from benchmarks.load import PEER_AS, ROUTER, ROUTER_AS, Load
from benchmarks.routers import ROUTERS, Router
from benchmarks.stage import Stage, StageError, pss_mb, rss_mb, samepath, signals_as_exit, wait
from samepath.model.net import address_text
from samepath.programs.control import NotRunningError, ask

SERVICES = Load(peers=64, prefixes=1_000, sets=200)
LIMIT_S = 60.0
SETTLE_S = 5.0
WATCHED_S = 10.0
SERVICES_PER_FILE = 50
NODE = 0
"""The peer in whose place the agent stands."""


def at_rest(router: Router) -> dict[str, float]:
    time.sleep(SETTLE_S)
    before = router.cpu_s()
    time.sleep(WATCHED_S)
    return {
        "pss_mb": round(sum(map(pss_mb, router.pids)), 1),
        "rss_mb": round(sum(map(rss_mb, router.pids)), 1),
        "cpu_percent": round((router.cpu_s() - before) / WATCHED_S * 100, 2),
    }


def router_at_rest(name: str) -> dict[str, float]:
    with Stage(name) as stage:
        stage.cable_to_feeder(SERVICES)
        running = ROUTERS[name](stage, SERVICES)
        feed = stage.feed(SERVICES)
        feed.established(LIMIT_S)
        fib = Fib(stage.host("router").path, running.pids[0])
        try:
            if fib.wait(SERVICES.expected(), feed.go(), LIMIT_S) is None:
                raise StageError(f"{name}: not all in the kernel within {LIMIT_S:.0f} s")
        finally:
            fib.close()
        return at_rest(running)


# -- the agent


def agent_at_rest() -> dict[str, float]:
    with Stage("agent") as stage:
        # The node stands where the feeder's first peer would; its gateway is a real one.
        stage.cable_to_feeder(Load(peers=1, prefixes=0))
        ROUTERS["samepath"](stage, SERVICES)
        write_manifests(stage)
        config = stage.file("agent.yaml", agent_config(stage))
        daemon = stage.start("feeder", "agent", *samepath("agent", "--config", config))
        running = Router("agent", {"agent": daemon})
        wait(lambda: serves_all(stage, running), LIMIT_S, "the agent to serve its services", 0.5)
        return at_rest(running)


def serves_all(stage: Stage, running: Router) -> bool:
    """Whether the gateway has heard of every service that the node can serve."""
    if running.ended():
        raise StageError(f"the agent ended: {stage.log('agent')}")
    try:
        peers = ask(str(stage.folder / "run"), "gateway", "status")["peers"]
    except NotRunningError:
        return False
    served = len(SERVICES.announced()[NODE])
    return any(f["accepted"] >= served for peer in peers for f in peer["families"])


def agent_config(stage: Stage) -> str:
    gateway = {"address": ROUTER, "remote_as": ROUTER_AS, "connect_retry_s": 1}
    address = address_text(SERVICES.peer(NODE))
    document = {
        "router_id": address,
        "as": PEER_AS,
        "neighbors": [gateway],
        "run_dir": str(stage.folder / "run"),
        "node": node_name(NODE),
        "manifests": str(stage.folder / "manifests"),
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def node_name(index: int) -> str:
    return f"node-{index}"


def write_manifests(stage: Stage) -> None:
    folder = stage.folder / "manifests"
    folder.mkdir()
    nodes = [manifest_of_node(i) for i in range(SERVICES.peers)]
    (folder / "nodes.yaml").write_text(documents(nodes))
    for first in range(0, SERVICES.prefixes, SERVICES_PER_FILE):
        numbers = range(first, first + SERVICES_PER_FILE)
        text = documents(document for i in numbers for document in manifests_of_service(i))
        (folder / f"services-{first}.yaml").write_text(text)


def documents(of: Iterable[dict[str, Any]]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(of, Dumper=dumper, sort_keys=False))


def manifest_of_node(index: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node_name(index)},
        "spec": {"podCIDRs": [f"10.244.{index}.0/24"]},
    }


def manifests_of_service(number: int) -> list[dict[str, Any]]:
    """A service of externalTrafficPolicy Local with one pod on each node of its member set."""
    name = f"service-{number}"
    pods = [
        {
            "addresses": [f"10.244.{node}.{2 + number % 250}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": node_name(node),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": f"{name}-{node}"},
        }
        for node in SERVICES.members(number % SERVICES.sets)
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "clusterIP": f"10.96.{number // 250}.{1 + number % 250}",
            "clusterIPs": [f"10.96.{number // 250}.{1 + number % 250}"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": address_text(SERVICES.prefix(number))}]}},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": pods,
    }
    return [service, endpoints]


def main() -> None:
    figures: dict[str, float | str] = {"benchmark": "rest"}
    print(
        f"{SERVICES.prefixes} services in {SERVICES.sets} member sets of {SERVICES.peers} peers, "
        f"watched for {WATCHED_S:.0f} s",
        flush=True,
    )
    with signals_as_exit():
        for name in (*ROUTERS, "agent"):
            found = agent_at_rest() if name == "agent" else router_at_rest(name)
            what = "gateway" if name == "samepath" else name
            print(
                f"  {what:8} {found['pss_mb']:6.1f} MB PSS, {found['rss_mb']:6.1f} MB RSS, "
                f"{found['cpu_percent']:5.2f} % CPU",
                flush=True,
            )
            figures |= {f"{what}_{key}": value for key, value in found.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""1,000 Nodes, 5,000 Services, 50,000 endpoints: until an agent and a gateway are in sync.

One node's agent and one gateway, real processes in namespaces of their own, run from an API server
that has them all; the other nodes are objects only. Measured: time, processor and memory until the
agent is ready (rules, addresses) and the gateway's kernel has all that this node can serve; beside
it the same agent from a folder of manifests with the same objects. Then what one change costs: the
only local endpoint of a service becomes not ready and ready again, from the server's word to the
gateway's kernel.

The agent is measured with both kinds of service rules: `none` beside kube-proxy, and `nftables`.
Ends in one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import scale_cluster as cluster
from benchmarks.fib import NONE, Fib
from benchmarks.stage import (
    ROOT,
    Stage,
    StageError,
    cpu_s,
    peak_mb,
    rss_mb,
    samepath,
    signals_as_exit,
    wait,
)
from samepath.lab.netns import veth
from samepath.model.net import parse_address
from samepath.programs.control import NotRunningError, ask

LIMIT_S = 240.0
CHANGES = 20
PAUSE_S = 0.3
"""Between two changes: each is alone, and all that follows from it is counted."""
ROUTER = "10.83.0.1"
AS = 64512
LOCAL = list(range(0, cluster.SERVICES, 10))
"""Services of the policy Local."""
HERE = [
    i
    for i in LOCAL
    if any(e["nodeName"] == "n0" for e in cluster.slice_of(i, ready=True)["endpoints"])
]
CHANGING = 0
"""A Local service whose only endpoint on the agent's node is the one that changes."""
SERVED = cluster.SERVICES - len(LOCAL) + len(HERE)
"""Services that this node can serve."""


@dataclass(slots=True)
class Server:
    """The API server's process."""

    process: subprocess.Popen[str]
    kubeconfig: str

    def change(self, service: int, *, ready: bool) -> float:
        """When it was written."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.write(f"endpoint {service} {ready}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            raise StageError("the API server has ended")
        return began


def lay_out(stage: Stage) -> None:
    router, node = stage.host("router"), stage.host("node")
    veth(router, "eth0", node, "eth0")
    router.ip("addr", "add", f"{ROUTER}/16", "dev", "eth0")
    node.ip("addr", "add", f"{cluster.NODE_ADDRESS}/16", "dev", "eth0")


def start_server(stage: Stage) -> Server:
    config = str(stage.folder / "kubeconfig")
    words = ("-m", "benchmarks.scale_cluster", f"{cluster.NODE_ADDRESS}:6443", config)
    with (stage.folder / "api.log").open("ab") as log:
        process = stage.host("node").popen(
            samepath()[0], *words,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True,
        )  # fmt: skip
    stage.processes.append(process)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise StageError(f"no API server: {stage.log('api')}")
    return Server(process, config)


def write_manifests(stage: Stage) -> Path:
    """JSON, so that reading text is as cheap as it can be."""
    folder = stage.folder / "manifests"
    folder.mkdir()
    things = [*cluster.nodes(), *cluster.services(), *cluster.slices()]
    for first in range(0, len(things), 200):
        text = json.dumps(
            {"apiVersion": "v1", "kind": "List", "items": things[first : first + 200]}
        )
        (folder / f"{first:05}.json").write_text(text)
    return folder


def agent_config(stage: Stage, source: dict[str, Any], proxy: str) -> str:
    gateway = {"address": ROUTER, "remote_as": AS, "connect_retry_s": 1, "families": ["ipv4"]}
    return yaml.safe_dump(
        {
            "router_id": cluster.NODE_ADDRESS,
            "as": AS,
            "node": "n0",
            "neighbors": [gateway],
            "serviceProxy": proxy,
            "run_dir": str(stage.folder / "agent"),
            **source,
        }
    )


def gateway_config(stage: Stage, kubeconfig: str) -> str:
    nodes = {
        "remote_as": AS,
        "families": ["ipv4"],
        "import": {"services": ["198.18.0.0/15"]},
    }
    return yaml.safe_dump(
        {
            "router_id": ROUTER,
            "as": AS,
            "listen": [ROUTER],
            "hash_seed": 0x5A3E9A11,
            "buckets": 61,
            "selection_deferral_s": 1,
            "run_dir": str(stage.folder / "gateway"),
            "kubernetes": {"kubeconfig": kubeconfig},
            "nodes": nodes,
            "neighbors": [],
        }
    )


def is_ready(stage: Stage, process: subprocess.Popen[Any], name: str) -> bool:
    if process.poll() is not None:
        raise StageError(f"the {name} has ended: {stage.log(name)}")
    try:
        return bool(ask(str(stage.folder / name), name, "ready")["ready"])
    except NotRunningError:
        return False


def run_agent(stage: Stage, source: dict[str, Any], proxy: str) -> subprocess.Popen[Any]:
    path = stage.file("agent.yaml", agent_config(stage, source, proxy))
    return stage.start("node", "agent", *samepath("agent", "--config", path))


def measured(
    stage: Stage, process: subprocess.Popen[Any], name: str, limit_s: float
) -> dict[str, float]:
    seconds = wait(lambda: is_ready(stage, process, name), limit_s, f"the {name} to be ready", 0.1)
    return {
        "s": round(seconds, 2),
        "cpu_s": round(cpu_s(process.pid), 2),
        "peak_mb": round(peak_mb(process.pid), 1),
        "rss_mb": round(rss_mb(process.pid), 1),
    }


def agent_alone(title: str, proxy: str, *, folder: bool) -> dict[str, float]:
    with Stage("scale") as stage:
        lay_out(stage)
        if folder:
            source: dict[str, Any] = {"manifests": str(write_manifests(stage))}
        else:
            source = {"kubernetes": {"kubeconfig": start_server(stage).kubeconfig}}
        found = measured(stage, run_agent(stage, source, proxy), "agent", LIMIT_S)
    say(f"agent from {title}, service rules {proxy}", found)
    return found


def together() -> dict[str, float]:
    """Agent and gateway from the API server, and what a change costs."""
    with Stage("scale") as stage:
        lay_out(stage)
        server = start_server(stage)
        began = time.monotonic()
        path = stage.file("gateway.yaml", gateway_config(stage, server.kubeconfig))
        gateway = stage.start("router", "gateway", *samepath("gateway", "--config", path))
        agent = run_agent(stage, {"kubernetes": {"kubeconfig": server.kubeconfig}}, "nftables")
        fib = Fib(stage.host("router").path, gateway.pid)
        try:
            measured(stage, agent, "agent", LIMIT_S)
            wait(lambda: fib.count() >= SERVED, LIMIT_S, f"{SERVED} routes in the gateway", 0.1)
            found = {
                "both_s": round(time.monotonic() - began, 2),
                "gateway_cpu_s": round(cpu_s(gateway.pid), 2),
                "gateway_peak_mb": round(peak_mb(gateway.pid), 1),
                "gateway_rss_mb": round(rss_mb(gateway.pid), 1),
                "agent_peak_mb": round(peak_mb(agent.pid), 1),
            }
            say(f"agent and gateway together, {SERVED} services in the gateway's kernel", found)
            return found | changes(server, fib, agent, gateway)
        finally:
            fib.close()


def changes(
    server: Server, fib: Fib, agent: subprocess.Popen[Any], gateway: subprocess.Popen[Any]
) -> dict[str, float]:
    address = parse_address(cluster.service_address(CHANGING))
    took: dict[bool, list[float]] = {True: [], False: []}
    before = [cpu_s(p.pid) for p in (agent, gateway)]
    for number in range(CHANGES * 2):
        ready = number % 2 == 1
        began = server.change(CHANGING, ready=ready)
        wait(lambda: (fib.hops(address) != NONE) is ready, LIMIT_S, "a change", 0.001)  # noqa: B023
        took[ready].append(time.monotonic() - began)
        time.sleep(PAUSE_S)
    cpu = [cpu_s(p.pid) - b for p, b in zip((agent, gateway), before, strict=True)]
    found = {
        "change_gone_ms": round(statistics.median(took[False]) * 1000, 1),
        "change_back_ms": round(statistics.median(took[True]) * 1000, 1),
        "change_agent_cpu_ms": round(cpu[0] / (2 * CHANGES) * 1000, 1),
        "change_gateway_cpu_ms": round(cpu[1] / (2 * CHANGES) * 1000, 1),
    }
    say("one endpoint changes", found)
    return found


def say(what: str, found: dict[str, float]) -> None:
    print(f"{what}: {', '.join(f'{k} {v}' for k, v in found.items())}", flush=True)


def main() -> None:
    with signals_as_exit():
        rows = {
            "agent_folder_none": agent_alone("a folder", "none", folder=True),
            "agent_api_none": agent_alone("the API server", "none", folder=False),
            "agent_folder_nftables": agent_alone("a folder", "nftables", folder=True),
            "agent_api_nftables": agent_alone("the API server", "nftables", folder=False),
        }
        found = together()
    flat = {f"{row}_{name}": value for row, of in rows.items() for name, value in of.items()}
    ratio = rows["agent_api_none"]["s"] / rows["agent_folder_none"]["s"]
    print(json.dumps({"benchmark": "scale", **flat, "api_to_folder": round(ratio, 2), **found}))


if __name__ == "__main__":
    main()

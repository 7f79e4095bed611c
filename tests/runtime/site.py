"""A small lab without pods of its own, with podman on its nodes: what runs there is containers.

`Site.snapshot` is all that a container may leave on a node, so that two of them can be compared.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from samepath.lab.netns import Namespace
from samepath.lab.removal import down
from samepath.lab.render import Condition
from samepath.lab.running import Lab
from samepath.lab.state import wait
from samepath.lab.topology import POD_PORT, Pod, Spec
from samepath.programs.control import ask
from tests.runtime.driver import Driver
from tests.runtime.podman import NETNS, Podman, PodmanError, pod_server

SPEC = Spec(clients=2, nodes=3, spares=0, pods_per_node=0, idle_timer_s=3.0, buckets=251)
BANDWIDTH = {
    "type": "bandwidth",
    "capabilities": {"bandwidth": True},
    "ingressRate": 10**9, "ingressBurst": 10**8, "egressRate": 10**9, "egressBurst": 10**8,
}  # fmt: skip
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
LOG_TAIL = 4000


class Site:
    """The lab, and podman on its nodes, made when it is first asked for."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._podmans: dict[str, Podman] = {}

    def node(self, name: str) -> Namespace:
        return self.lab.host(name)

    def network(self, node: str) -> dict[str, Any]:
        """The plugin's own part of the node's network list."""
        document = json.loads(self.lab.network_list(node).read_text())
        found: dict[str, Any] = document["plugins"][0]
        return found

    def podman(self, node: str) -> Podman:
        """Chained with `bandwidth` and `portmap`."""
        if node not in self._podmans:
            chain = [self.network(node), BANDWIDTH, PORTMAP]
            folder = str(self.lab.plugin.parent)
            self._podmans[node] = Podman.make(node, self.node(node), chain, [folder])
        return self._podmans[node]

    def driver(self, node: str, version: str = "1.1.0") -> Driver:
        config = {"cniVersion": version, "name": "driver", **self.network(node)}
        return Driver(self.lab.plugin, config, self.node(node))

    def snapshot(self, node: str) -> dict[str, list[str]]:
        """What the kernel, the agent and the runtime hold for the containers of a node."""
        host = self.node(node)
        run_dir = self.lab.program_dir(node)
        links = json.loads(host.ip("-j", "link"))
        routes = [
            *json.loads(host.ip("-j", "route", "show", "table", "all")),
            *json.loads(host.ip("-j", "-6", "route", "show", "table", "all")),
        ]
        rules = host.run("iptables-save", "-t", "nat") + host.run("ip6tables-save", "-t", "nat")
        return {
            "links": sorted(link["ifname"] for link in links),
            "routes": sorted(f"{r['dst']} dev {r.get('dev')}" for r in routes if _of_pods(r)),
            "rules": sorted(line for line in rules.splitlines() if " -j CNI-DN-" in line),
            "namespaces": sorted(p.name for p in NETNS.glob("netns-*")),
            "cache": self.podman(node).kept(),
            "attachments": [a["container"] for a in ask(run_dir, "agent", "ipam")["attachments"]],
            "wrong": [str(f) for f in ask(run_dir, "agent", "ipam_check")["findings"]],
        }

    # Containers as pods of the service.

    def start_pod(self, node: str, number: int, condition: Condition) -> Pod:
        """A container with the lab's server, listed in the next manifests."""
        name = f"web-{node}-{number}"
        options, command = pod_server(name, POD_PORT, self.lab.state.spec.grace_s)
        podman = self.podman(node)
        podman.run(name, *command, options=options)
        pod = Pod(name, node, *podman.addresses(name)[name])
        pid = podman.pid(name)
        wait(lambda: f":{POD_PORT} " in _listeners(pid), 10, f"{name} to listen")
        self.lab.add_pod(pod, condition)
        return pod

    def end_pods(self, pods: list[Pod]) -> None:
        """As a kubelet does: SIGTERM, the grace, then the container goes, and its endpoint."""
        self.lab.list_pods(pods, Condition.TERMINATING)
        self.lab.write_manifests()
        grace_s = str(round(self.lab.state.spec.grace_s + 2))
        ending = [self.podman(p.node).popen("stop", "-t", grace_s, p.name) for p in pods]
        for stop in ending:
            finish(stop)
        for pod in pods:
            self.podman(pod.node)("rm", "--force", "--time", "0", pod.name)
        self.lab.forget_pods(pods)
        self.lab.write_manifests()

    def logs(self) -> Iterator[tuple[str, str]]:
        """The ends of the programs' logs."""
        for path in sorted((self.lab.run_dir / "log").glob("*.log")):
            yield path.name, path.read_text()[-LOG_TAIL:]


@contextmanager
def made(name: str) -> Iterator[Site]:
    lab = Lab.up(name, SPEC)
    site = Site(lab)
    try:
        for node in lab.topology.working:
            driver = site.driver(node.name)
            wait(lambda driver=driver: driver.status().status == 0, 30, f"{node.name} to serve")
        yield site
    finally:
        try:
            for podman in site._podmans.values():
                podman.remove()
        finally:
            down(name)


def finish(process: Any, limit_s: float = 60) -> str:
    """What a command of `Podman.popen` has said. Raises PodmanError."""
    said, _ = process.communicate(timeout=limit_s)
    if process.returncode:
        raise PodmanError(f"{' '.join(process.args)}: {said}")
    return str(said).strip()


def succeeds(namespace: Namespace, *command: str) -> Callable[[], bool]:
    """Whether the command works there now."""

    def works() -> bool:
        try:
            namespace.run(*command)
        except RuntimeError:
            return False
        return True

    return works


def _listeners(pid: int) -> str:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-Hltn"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _of_pods(route: dict[str, Any]) -> bool:
    """A host route of one address: not the node's own, which are of type local."""
    return route.get("type", "unicast") == "unicast" and "/" not in route["dst"] and (
        route["dst"] != "default" and route.get("protocol") != "kernel"
    )  # fmt: skip

"""The manifest itself: its pods, run by podman on a node whose API server enforces its roles, carry
a service and a pod; an upgrade keeps connections, uninstalling takes the plugin away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_site import KubeStage
from agent_stage import VIP, bgp_peer, ours, until

from samepath.lab.api_server import ApiServer
from samepath.netlink.socket import in_namespace
from tests.kubernetes.manifest_pods import Kubelet
from tests.runtime.podman import Podman

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]

NAMESPACE = "samepath-system"
MANIFEST = Path(__file__).parents[2] / "deploy/samepath.yaml"
Json = dict[str, Any]

NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.83.0.11"}]},
}
PORTS = [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]
SERVICE: Json = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": PORTS},
}


def endpoints(address: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": "n1", "conditions": {"ready": True}}],
    }


class Site:
    """One node and a gateway, the manifest applied, its roles in force."""

    def __init__(self, folder: Path, server: ApiServer) -> None:
        self.server = server
        self.stage = KubeStage(folder, server)
        self.root = folder / "host"
        self.podman: Podman | None = None
        self.kubelet: Kubelet

    def up(self) -> None:
        self.stage.up()
        self.stage.gateway_program()
        self.server.apply(*(d for d in yaml.safe_load_all(MANIFEST.read_text()) if d))
        self.server.apply(NODE, ours("IPPool", "pods", cidr="10.244.0.0/16"))
        self.server.apply(
            bgp_peer(), ours("IPAddressPool", "public", addresses=["203.0.113.10-203.0.113.19"]),
            ours("BGPAdvertisement", "public", ipAddressPools=["public"]),
        )  # fmt: skip
        # As on every start but the very first: a controller that finds no Lease waits 15 s.
        self.server.apply(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
             "metadata": {"name": "samepath-controller", "namespace": NAMESPACE}}
        )  # fmt: skip
        self.server.use_rbac()
        host = self.stage.nodes["n1"]
        socket_path = str(self.root / "run/samepath/cni.sock")
        plugin = {"type": "samepath-cni", "socket": socket_path}
        binaries = self.root / "opt/cni/bin"
        self.podman = Podman.make("manifest", host, [plugin], [str(binaries)])
        relay = self.stage.relays["n1"]
        self.kubelet = Kubelet(self.podman, self.server, relay.port, self.root, "n1", "10.83.0.11")

    def down(self) -> None:
        if self.podman is not None:
            print(self.kubelet.logs())
            self.podman.remove_all()
            self.podman.remove()
        self.stage.down()

    def workload(self, plural: str, name: str) -> Json:
        return self.server.get(plural, name, NAMESPACE)

    def ready(self, pod: str, container: Json, kind: str = "readinessProbe") -> bool:
        return self.kubelet.probe(pod, container, kind)[0]


@pytest.fixture
def site(tmp_path: Path, api_server: ApiServer) -> Iterator[Site]:
    made = Site(tmp_path, api_server)
    try:
        made.up()
        yield made
    finally:
        made.down()


def one_container(workload: Json) -> Json:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(container)


class Held:
    """A connection from the gateway's side, which is asked for echoes."""

    def __init__(self, site: Site, address: str, port: int) -> None:
        connect = lambda: socket.create_connection((address, port), timeout=10)  # noqa: E731
        self.socket = in_namespace(site.stage.gateway.path, connect)
        self.said = 0

    def lives(self) -> bool:
        self.said += 1
        line = b"%d\n" % self.said
        self.socket.sendall(line)
        found = b""
        while not found.endswith(b"\n"):
            if not (more := self.socket.recv(100)):
                return False
            found += more
        return found == line


def test_the_manifest_serves_is_upgraded_and_goes(site: Site) -> None:
    daemon_set = site.workload("daemonsets", "samepath-agent")
    deployment = site.workload("deployments", "samepath-controller")
    agent_container, controller_container = map(one_container, (daemon_set, deployment))

    # Install: the plugin is in place before the agent, and whole.
    agent = site.kubelet.start(daemon_set)
    plugin = site.root / "opt/cni/bin/samepath-cni"
    conflist = site.root / "etc/cni/net.d/10-samepath.conflist"
    assert plugin.stat().st_mode & 0o777 == 0o755
    assert json.loads(conflist.read_text())["name"] == "samepath"
    until(lambda: site.ready(agent, agent_container), 60)
    assert site.ready(agent, agent_container, "livenessProbe")

    # The controller leads, and gives the service its address.
    controller = site.kubelet.start(deployment)
    until(lambda: site.ready(controller, controller_container), 60)
    site.server.apply(SERVICE)
    until(lambda: _ingress(site) == [VIP], 30)

    # A pod, by the plugin that was placed.
    assert site.podman is not None
    site.podman.run("web", "nc", "-ll", "-p", "8080", "-e", "cat")
    address, _ = site.podman.addresses("web")["web"]
    (claim,) = site.server.list("blockclaims")
    assert claim["spec"]["node"] == "n1"
    site.server.apply(endpoints(address))
    until(lambda: site.stage.paths(f"{VIP}/32")[0] == ["10.83.0.11"], 30)
    held = Held(site, address, 8080)
    assert held.lives()

    # What it tells the API server, with the rights that it has.
    until(lambda: site.server.list("bgpsessionstates"), 30)
    until(lambda: _told(site) == [("n1", "active")], 30)
    conditions = until(lambda: site.server.get("nodes", "n1")["status"].get("conditions"), 30)
    assert [(c["type"], c["status"]) for c in conditions] == [("NetworkUnavailable", "False")]

    # Upgrade: the old pod ends, the new one adopts; nothing is withdrawn, the plugin stays.
    assert "stands" in site.kubelet.stop(agent, agent_container)
    assert plugin.exists()
    assert conflist.exists()
    assert held.lives()
    assert site.stage.paths(f"{VIP}/32")[0] == ["10.83.0.11"]
    agent = site.kubelet.start(daemon_set)
    until(lambda: site.ready(agent, agent_container), 60)
    assert held.lives()
    assert site.stage.paths(f"{VIP}/32")[0] == ["10.83.0.11"]

    # Uninstall: the plugin goes with the DaemonSet; what runs keeps its network.
    site.server.delete("daemonsets", "samepath-agent", NAMESPACE)
    assert "removed" in site.kubelet.stop(agent, agent_container)
    assert not plugin.exists()
    assert not conflist.exists()
    assert held.lives()


def _ingress(site: Site) -> list[str]:
    found = site.server.get("services", "web", "default")
    ingress = found.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return [entry["ip"] for entry in ingress]


def _told(site: Site) -> list[tuple[str, str]]:
    states = [s.get("status") or {} for s in site.server.list("servicebgpstatuses", "default")]
    return [(state.get("node", ""), state.get("state", "")) for state in states]

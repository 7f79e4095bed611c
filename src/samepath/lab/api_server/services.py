"""What the API server makes of a Service: defaults, cluster addresses, node ports, and what it
refuses. Agents and the controller see what they would see in a cluster.

Not done: traffic distribution, ranges other than the two below, finalizers of cloud providers.

Kubernetes API: Service; `pkg/registry/core/service` (allocation), KEP-1881 (dual stack).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from samepath.lab.api_server import kinds as known
from samepath.lab.api_server import service_rules
from samepath.lab.api_server import status as st
from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.objects import Objects, Options
from samepath.lab.api_server.status import Json
from samepath.lab.api_server.store import Key, Stored

RANGES = {
    "IPv4": ipaddress.ip_network("10.96.0.0/12"),
    "IPv6": ipaddress.ip_network("fd00:10:96::/112"),
}
NODE_PORTS = range(30000, 32768)
KUBERNETES: Json = {
    "metadata": {
        "name": "kubernetes",
        "namespace": "default",
        "labels": {"component": "apiserver", "provider": "kubernetes"},
    },
    "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
}


class Services:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        objects.registry.admissions.append(self._admit)
        objects.registry.reactions.append(self._changed)
        self._addresses: dict[str, Key] = {}
        self._ports: dict[tuple[str, int], Key] = {}
        self._next: dict[str, Iterator[str]] = {}
        self._reset()

    def _reset(self) -> None:
        self._next = {family: map(str, net.hosts()) for family, net in RANGES.items()}

    def count_again(self) -> None:
        """As after a restart, from what is stored."""
        self._addresses.clear()
        self._ports.clear()
        self._reset()
        for thing in self._objects.store.collection(known.SERVICES.key).objects.values():
            self._changed(known.SERVICES, None, thing)

    def _changed(self, kind: Kind, old: Stored | None, new: Stored | None) -> None:
        if kind.key != known.SERVICES.key:
            return
        for thing in (old, new):
            if thing is None:
                continue
            key = thing.metadata["namespace"], thing.metadata["name"]
            for address in _addresses(thing.body["spec"]):
                self._set(self._addresses, address, key if thing is new else None)
            for port in _node_ports(thing.body["spec"]):
                self._set(self._ports, port, key if thing is new else None)

    def _set(self, taken: dict[Any, Key], what: Any, key: Key | None) -> None:
        if key is None:
            taken.pop(what, None)
        else:
            taken[what] = key

    # -- Before a write -----------------------------------------------------------------------

    def _admit(
        self, kind: Kind, new: Json, old: Stored | None, options: Options, subresource: str
    ) -> Json:
        if kind.key != known.SERVICES.key:
            return new
        if subresource == "status":
            for ingress in (new.get("status") or {}).get("loadBalancer", {}).get("ingress") or ():
                if ingress.get("ip"):
                    ingress.setdefault("ipMode", "VIP")
            return new
        spec = new.setdefault("spec", {})
        was = {} if old is None else old.body["spec"]
        _fill(spec)
        _carry_over(spec, was)
        if causes := service_rules.faults(spec, was):
            raise st.invalid("", "Service", new["metadata"]["name"], causes)
        key = new["metadata"]["namespace"], new["metadata"]["name"]
        causes = self._allocate_addresses(spec, key) + self._allocate_ports(spec, key)
        if causes:
            raise st.invalid("", "Service", new["metadata"]["name"], causes)
        if old is None or was.get("type") == "LoadBalancer" != spec["type"]:
            new["status"] = {"loadBalancer": {}}
        return new

    def _allocate_addresses(self, spec: Json, key: Key) -> list[st.Cause]:
        if spec["type"] == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(name, None)
            return []
        wanted = list(spec.get("clusterIPs") or [])
        if not wanted and spec.get("clusterIP"):
            wanted = [spec["clusterIP"]]
        families = list(spec.get("ipFamilies") or [])
        if not families:
            families = [_family(one) for one in wanted if one != "None"] or ["IPv4"]
        policy = spec.setdefault("ipFamilyPolicy", "SingleStack")
        if policy != "SingleStack" and len(families) == 1:
            families.append("IPv6" if families[0] == "IPv4" else "IPv4")
        spec["ipFamilies"] = families
        if wanted[:1] == ["None"]:
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return []
        for address in wanted:
            if self._addresses.get(address, key) != key:
                why = f"failed to allocate IP {address}: provided IP is already allocated"
                return [st.invalid_value("spec.clusterIPs", wanted, why)]
        for family in families[len(wanted) :]:
            wanted.append(self._free_address(family))
        spec["clusterIP"], spec["clusterIPs"] = wanted[0], wanted
        return []

    def _free_address(self, family: str) -> str:
        for _ in range(2):
            for address in self._next[family]:
                if address not in self._addresses:
                    return address
            self._reset()
        raise st.internal_error("failed to allocate a serviceIP: range is full")

    def _allocate_ports(self, spec: Json, key: Key) -> list[st.Cause]:
        causes: list[st.Cause] = []
        is_balancer = spec["type"] == "LoadBalancer"
        wants = spec["type"] == "NodePort" or (
            is_balancer and spec["allocateLoadBalancerNodePorts"]
        )
        mine: set[tuple[str, int]] = set()
        for index, port in enumerate(spec.get("ports") or []):
            found = port.get("nodePort")
            if found:
                path = f"spec.ports[{index}].nodePort"
                causes += self._check_port(path, port["protocol"], found, key)
            elif wants:
                port["nodePort"] = self._free_port(port["protocol"], mine)
            if port.get("nodePort"):
                mine.add((port["protocol"], port["nodePort"]))
        if is_balancer and spec["externalTrafficPolicy"] == "Local":
            if not spec.get("healthCheckNodePort"):
                spec["healthCheckNodePort"] = self._free_port("TCP", mine)
        else:
            spec.pop("healthCheckNodePort", None)
        return causes

    def _check_port(self, path: str, protocol: str, port: int, key: Key) -> list[st.Cause]:
        if port not in NODE_PORTS:
            why = "provided port is not in the valid range. The range of valid ports is 30000-32767"
            return [st.invalid_value(path, port, why)]
        if self._ports.get((protocol, port), key) != key:
            return [st.invalid_value(path, port, "provided port is already allocated")]
        return []

    def _free_port(self, protocol: str, mine: set[tuple[str, int]]) -> int:
        for port in NODE_PORTS:
            if (protocol, port) not in self._ports and (protocol, port) not in mine:
                return port
        raise st.internal_error("failed to allocate a nodePort: range is full")


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _addresses(spec: Json) -> list[str]:
    return [one for one in spec.get("clusterIPs") or () if one != "None"]


def _node_ports(spec: Json) -> list[tuple[str, int]]:
    found = [(p["protocol"], p["nodePort"]) for p in spec.get("ports") or () if p.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        found.append(("TCP", spec["healthCheckNodePort"]))
    return found


def _fill(spec: Json) -> None:
    if not spec.get("type"):
        spec["type"] = "ClusterIP"
    for port in spec.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if not port.get("targetPort") and spec["type"] != "ExternalName":
            port["targetPort"] = port.get("port")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", 10800)
    if spec["type"] in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _carry_over(spec: Json, was: Json) -> None:
    """What was allocated stays with an update that does not name it, and goes with a new type."""
    if not was:
        return
    if spec["type"] != "ExternalName" and was["type"] != "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(name) and was.get(name):
                spec[name] = was[name]
    external = ("NodePort", "LoadBalancer")
    if spec["type"] in external and was["type"] in external:
        ports = {(p["protocol"], p["port"]): p.get("nodePort") for p in was.get("ports") or ()}
        for port in spec.get("ports") or ():
            found = ports.get((port["protocol"], port.get("port")))
            if not port.get("nodePort") and found:
                port["nodePort"] = found
        if not spec.get("healthCheckNodePort") and was.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = was["healthCheckNodePort"]
    elif was["type"] in external and spec["type"] not in external:
        had = {(p["protocol"], p.get("nodePort")) for p in was.get("ports") or ()}
        for port in spec.get("ports") or ():
            if (port["protocol"], port.get("nodePort")) in had:
                port.pop("nodePort", None)
        if not spec.get("externalIPs"):
            spec.pop("externalTrafficPolicy", None)
        spec.pop("healthCheckNodePort", None)
    if was["type"] == "LoadBalancer" != spec["type"]:
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(name) == was.get(name):
                spec.pop(name, None)

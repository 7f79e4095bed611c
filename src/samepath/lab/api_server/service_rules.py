"""What the API server refuses of a Service, in its words (`ValidateService`). Pure.

Called by `services` after defaults and before anything is allocated.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from samepath.lab.api_server import status as st
from samepath.lab.api_server.status import Cause, Json

_TYPES = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]
_PROTOCOLS = ["SCTP", "TCP", "UDP"]
_POLICIES = ["Cluster", "Local"]


def faults(spec: Json, was: Json) -> list[Cause]:
    found: list[Cause] = []
    type = spec["type"]
    if type not in _TYPES:
        return [st.unsupported("spec.type", type, _TYPES)]
    is_headless = spec.get("clusterIP") == "None"
    if not spec.get("ports") and not is_headless and type != "ExternalName":
        found.append(st.required("spec.ports"))
    found += _ports(spec)
    if spec["sessionAffinity"] not in ("ClientIP", "None"):
        known = ["ClientIP", "None"]
        found.append(st.unsupported("spec.sessionAffinity", spec["sessionAffinity"], known))
    for index, address in enumerate(spec.get("externalIPs") or []):
        if not _is_address(address):
            path = f"spec.externalIPs[{index}]"
            found.append(st.invalid_value(path, address, "must be a valid IP address"))
    return found + _external(spec) + _addresses(spec, was) + _class(spec, was)


def _ports(spec: Json) -> list[Cause]:
    found: list[Cause] = []
    ports = spec.get("ports") or []
    names: set[str] = set()
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name = port.get("name")
        if len(ports) > 1 and not name:
            found.append(st.required(f"{path}.name"))
        elif name and name in names:
            found.append(st.duplicate(f"{path}.name", name))
        names.add(name or "")
        number = port.get("port") or 0
        if not 1 <= number <= 65535:
            text = "must be between 1 and 65535, inclusive"
            found.append(st.invalid_value(f"{path}.port", number, text))
        if port["protocol"] not in _PROTOCOLS:
            found.append(st.unsupported(f"{path}.protocol", port["protocol"], _PROTOCOLS))
        key = port["protocol"], number
        if key in seen:
            shown = {"port": number, "protocol": port["protocol"]}
            found.append(st.duplicate(path, shown))
        seen.add(key)
        if port.get("nodePort") and spec["type"] not in ("NodePort", "LoadBalancer"):
            text = "may not be used when `type` is 'ClusterIP'"
            found.append(st.forbidden_field(f"{path}.nodePort", text))
    return found


def _external(spec: Json) -> list[Cause]:
    found: list[Cause] = []
    policy = spec.get("externalTrafficPolicy")
    is_external = spec["type"] in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))
    if policy is not None and not is_external:
        text = "may only be set for externally-accessible services"
        found.append(st.invalid_value("spec.externalTrafficPolicy", policy, text))
    elif policy is not None and policy not in _POLICIES:
        found.append(st.unsupported("spec.externalTrafficPolicy", policy, _POLICIES))
    internal = spec.get("internalTrafficPolicy")
    if internal is not None and internal not in _POLICIES:
        found.append(st.unsupported("spec.internalTrafficPolicy", internal, _POLICIES))
    return found


def _addresses(spec: Json, was: Json) -> list[Cause]:
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    for index, address in enumerate(addresses):
        if address != "None" and not _is_address(address):
            path = f"spec.clusterIPs[{index}]"
            return [st.invalid_value(path, address, "must be a valid IP address")]
    before = was.get("clusterIPs") or []
    if before and addresses and "ExternalName" not in (spec["type"], was["type"]):
        if addresses[0] != before[0]:
            return [st.invalid_value("spec.clusterIPs[0]", addresses, "may not change once set")]
        if spec.get("clusterIP") not in (None, "", addresses[0]):
            text = "must be empty when `clusterIP` is not specified"
            return [st.invalid_value("spec.clusterIPs", addresses, text)]
    return []


def _class(spec: Json, was: Json) -> list[Cause]:
    path, found = "spec.loadBalancerClass", spec.get("loadBalancerClass")
    if found and spec["type"] != "LoadBalancer":
        return [st.forbidden_field(path, "may only be used when `type` is 'LoadBalancer'")]
    both = spec["type"] == "LoadBalancer" == was.get("type")
    if both and found != was.get("loadBalancerClass"):
        return [st.invalid_value(path, found, "may not change once set")]
    return []


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

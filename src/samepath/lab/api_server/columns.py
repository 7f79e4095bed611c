"""The columns of built-in kinds, as `kubectl get` shows them (`pkg/printers/internalversion`).

Each is a table of (name, what is in the cell, whether only `-o wide` shows it); the cell is made of
the object's plain data and the present time. `views` turns them into tables.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from samepath.lab.api_server.kinds import Kind
from samepath.lab.api_server.status import Json

NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Cell:
    name: str
    show: Callable[[Json, str], Any]
    is_wide: bool = False


def of(kind: Kind) -> tuple[Cell, ...]:
    return _COLUMNS.get(kind.key, (_AGE,))


def age(since: str | None, now: str) -> str:
    """As in `duration.HumanDuration`: two units while the first is small."""
    if not since:
        return "<unknown>"
    then = datetime.datetime.fromisoformat(since)
    seconds = int((datetime.datetime.fromisoformat(now) - then).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years, rest = divmod(days, 365)
    return f"{years}y{rest}d" if rest and years < 8 else f"{years}y"


def _spec(body: Json, name: str, default: Any = "") -> Any:
    return (body.get("spec") or {}).get(name, default)


def _status(body: Json, name: str, default: Any = "") -> Any:
    return (body.get("status") or {}).get(name, default)


def _created(body: Json, now: str) -> str:
    return str(body["metadata"].get("creationTimestamp") or "<unknown>")


_AGE = Cell("Age", lambda body, now: age(body["metadata"].get("creationTimestamp"), now))
_CREATED = Cell("Created At", _created)


def _node_status(body: Json, now: str) -> str:
    conditions = {one["type"]: one.get("status") for one in _status(body, "conditions", None) or ()}
    words = ["Unknown" if "Ready" not in conditions else "Ready"]
    if "Ready" in conditions and conditions["Ready"] != "True":
        words = ["NotReady"]
    if _spec(body, "unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(body: Json, now: str) -> str:
    prefix, found = "node-role.kubernetes.io/", set()
    for name, value in (body["metadata"].get("labels") or {}).items():
        if name.startswith(prefix) and len(name) > len(prefix):
            found.add(name[len(prefix) :])
        elif name == "kubernetes.io/role" and value:
            found.add(value)
    return ",".join(sorted(found)) or NONE


def _node_address(type: str) -> Callable[[Json, str], str]:
    def show(body: Json, now: str) -> str:
        for one in _status(body, "addresses", None) or ():
            if one.get("type") == type:
                return str(one["address"])
        return NONE

    return show


def _node_info(name: str) -> Callable[[Json, str], str]:
    return lambda body, now: str((_status(body, "nodeInfo", None) or {}).get(name) or "<unknown>")


def _kubelet(body: Json, now: str) -> str:
    return str((_status(body, "nodeInfo", None) or {}).get("kubeletVersion", ""))


def _external(body: Json, now: str) -> str:
    type, outside = _spec(body, "type"), list(_spec(body, "externalIPs", None) or ())
    if type == "ExternalName":
        return str(_spec(body, "externalName"))
    if type != "LoadBalancer":
        return ",".join(outside) or NONE
    ingress = (_status(body, "loadBalancer", None) or {}).get("ingress") or ()
    found = [one.get("ip") or one.get("hostname", "") for one in ingress]
    return ",".join([*found, *outside]) or "<pending>"


def _service_ports(body: Json, now: str) -> str:
    texts = []
    for port in _spec(body, "ports", None) or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or NONE


def _pairs(found: Json | None) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((found or {}).items())) or NONE


def _shortened(texts: list[str], most: int = 3) -> str:
    if len(texts) > most:
        return f"{','.join(texts[:most])} + {len(texts) - most} more..."
    return ",".join(texts) or "<unset>"


def _slice_ports(body: Json, now: str) -> str:
    return _shortened([str(port.get("port") or "*") for port in body.get("ports") or ()])


def _slice_endpoints(body: Json, now: str) -> str:
    return _shortened([one for end in body.get("endpoints") or () for one in end["addresses"]])


def _pod_ready(body: Json, now: str) -> str:
    found = _status(body, "containerStatuses", None) or ()
    ready = sum(bool(one.get("ready")) for one in found)
    return f"{ready}/{len(_spec(body, 'containers', None) or ())}"


def _of_object(body: Json, now: str) -> str:
    thing = body.get("involvedObject") or {}
    return f"{thing.get('kind', '').lower()}/{thing.get('name', '')}"


def _role_ref(body: Json, now: str) -> str:
    found = body.get("roleRef") or {}
    return f"{found.get('kind', '')}/{found.get('name', '')}"


def _seen(body: Json, now: str) -> str:
    return age(body.get("lastTimestamp") or body.get("firstTimestamp"), now)


def _replicas(body: Json, now: str) -> str:
    return f"{_status(body, 'readyReplicas', 0)}/{_spec(body, 'replicas', 1)}"


def _count(part: str, name: str) -> Callable[[Json, str], int]:
    return lambda body, now: int((body.get(part) or {}).get(name) or 0)


_COLUMNS: dict[tuple[str, str], tuple[Cell, ...]] = {
    ("", "nodes"): (
        Cell("Status", _node_status),
        Cell("Roles", _roles),
        _AGE,
        Cell("Version", _kubelet),
        Cell("Internal-IP", _node_address("InternalIP"), True),
        Cell("External-IP", _node_address("ExternalIP"), True),
        Cell("OS-Image", _node_info("osImage"), True),
        Cell("Kernel-Version", _node_info("kernelVersion"), True),
        Cell("Container-Runtime", _node_info("containerRuntimeVersion"), True),
    ),
    ("", "services"): (
        Cell("Type", lambda body, now: _spec(body, "type")),
        Cell("Cluster-IP", lambda body, now: _spec(body, "clusterIP") or NONE),
        Cell("External-IP", _external),
        Cell("Port(s)", _service_ports),
        _AGE,
        Cell("Selector", lambda body, now: _pairs(_spec(body, "selector", None)), True),
    ),
    ("", "namespaces"): (Cell("Status", lambda body, now: _status(body, "phase")), _AGE),
    ("", "secrets"): (
        Cell("Type", lambda body, now: body.get("type", "")),
        Cell("Data", lambda body, now: len(body.get("data") or {})),
        _AGE,
    ),
    ("", "configmaps"): (
        Cell(
            "Data",
            lambda body, now: len({**(body.get("data") or {}), **(body.get("binaryData") or {})}),
        ),
        _AGE,
    ),
    ("", "serviceaccounts"): (
        Cell("Secrets", lambda body, now: len(body.get("secrets") or ())),
        _AGE,
    ),
    ("", "pods"): (
        Cell("Ready", _pod_ready),
        Cell("Status", lambda body, now: _status(body, "phase")),
        Cell("Restarts", lambda body, now: "0"),
        _AGE,
        Cell("IP", lambda body, now: _status(body, "podIP") or NONE, True),
        Cell("Node", lambda body, now: _spec(body, "nodeName") or NONE, True),
    ),
    ("", "events"): (
        Cell("Last Seen", _seen),
        Cell("Type", lambda body, now: body.get("type", "")),
        Cell("Reason", lambda body, now: body.get("reason", "")),
        Cell("Object", _of_object),
        Cell("Message", lambda body, now: str(body.get("message", "")).strip()),
    ),
    ("discovery.k8s.io", "endpointslices"): (
        Cell("AddressType", lambda body, now: body.get("addressType", "")),
        Cell("Ports", _slice_ports),
        Cell("Endpoints", _slice_endpoints),
        _AGE,
    ),
    ("coordination.k8s.io", "leases"): (
        Cell("Holder", lambda body, now: _spec(body, "holderIdentity")),
        _AGE,
    ),
    ("apps", "deployments"): (
        Cell("Ready", _replicas),
        Cell("Up-to-date", _count("status", "updatedReplicas")),
        Cell("Available", _count("status", "availableReplicas")),
        _AGE,
    ),
    ("apps", "replicasets"): (
        Cell("Desired", _count("spec", "replicas")),
        Cell("Current", _count("status", "replicas")),
        Cell("Ready", _count("status", "readyReplicas")),
        _AGE,
    ),
    ("apps", "daemonsets"): (
        Cell("Desired", _count("status", "desiredNumberScheduled")),
        Cell("Current", _count("status", "currentNumberScheduled")),
        Cell("Ready", _count("status", "numberReady")),
        Cell("Up-to-date", _count("status", "updatedNumberScheduled")),
        Cell("Available", _count("status", "numberAvailable")),
        Cell(
            "Node Selector",
            lambda body, now: _pairs(
                ((_spec(body, "template", None) or {}).get("spec") or {}).get("nodeSelector")
            ),
        ),
        _AGE,
    ),
    ("scheduling.k8s.io", "priorityclasses"): (
        Cell("Value", lambda body, now: body.get("value", 0)),
        Cell("Global-Default", lambda body, now: bool(body.get("globalDefault"))),
        _AGE,
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions"): (_CREATED,),
    ("rbac.authorization.k8s.io", "clusterroles"): (_CREATED,),
    ("rbac.authorization.k8s.io", "roles"): (_CREATED,),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): (Cell("Role", _role_ref), _AGE),
    ("rbac.authorization.k8s.io", "rolebindings"): (Cell("Role", _role_ref), _AGE),
}

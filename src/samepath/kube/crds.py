"""The CustomResourceDefinitions of our group, made of the shapes that the parser reads.

Called by `kube.crd_files`, which writes deploy/crds and the tables of docs/kubernetes-kinds.md, and
by whoever needs them as data (tests, the lab). One truth: the fields, types, limits and defaults
are those of `kube.specs` and `kube.statuses`, their meaning and rules are in `kube.crd_notes`, the
names under which the API server has the kinds are in `kube.resources`. Here is the rest: short
names, columns of `kubectl get`, rules between metadata and spec.

Installable from Kubernetes 1.25 on, where CEL is on by default.

Standards: apiextensions.k8s.io/v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samepath.kube import resources, specs, statuses
from samepath.kube.crd_notes import NOTES
from samepath.kube.resources import Resource
from samepath.kube.schemas import WHOLE, Rule, Schema, schema_of

CATEGORY = "samepath"
"""`kubectl get samepath` shows all of them."""


@dataclass(frozen=True, slots=True)
class Column:
    """Of `kubectl get`; `wide`: only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    resource: Resource
    short: str
    columns: tuple[Column, ...]
    spec: type | None = None
    status: type | None = None
    spec_required: bool = True
    rules: tuple[Rule, ...] = ()
    """Between metadata and spec."""

    @property
    def name(self) -> str:
        return self.resource.kind

    @property
    def description(self) -> str:
        about = self.spec or self.status
        assert about is not None
        return NOTES[about][WHOLE].text


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_NAME_OF_CLAIM = Rule(
    "self.metadata.name == (self.spec.cidr.startsWith(':') ? '0' : '') + "
    "self.spec.cidr.replace('.', '-').replace(':', '-').replace('/', '-')",
    "the name of a claim is its cidr with - for . : and /, as in 10-1-0-64-26",
)

KINDS = (
    Kind(
        resources.BGP_PEERS,
        "bgpp",
        (
            Column("Address", ".spec.peerAddress"),
            Column("ASN", ".spec.peerASN", "integer"),
            Column("Dynamic ASN", ".spec.dynamicASN", wide=True),
            Column("My ASN", ".spec.myASN", "integer"),
            Column("BFD Profile", ".spec.bfdProfile"),
            Column("Multi Hop", ".spec.ebgpMultiHop", "boolean", wide=True),
            Column("Hold Time", ".spec.holdTime", wide=True),
            _AGE,
        ),
        spec=specs.BGPPeerSpec,
    ),
    Kind(
        resources.BGP_ADVERTISEMENTS,
        "bgpadv",
        (
            Column("Pools", ".spec.ipAddressPools"),
            Column("Peers", ".spec.peers"),
            Column("Communities", ".spec.communities", wide=True),
            Column("Local Pref", ".spec.localPref", "integer", wide=True),
            Column("Drain Deadline", ".spec.drainDeadline", wide=True),
            _AGE,
        ),
        spec=specs.BGPAdvertisementSpec,
        spec_required=False,
    ),
    Kind(
        resources.IP_ADDRESS_POOLS,
        "iap",
        (
            Column("Addresses", ".spec.addresses"),
            Column("Auto Assign", ".spec.autoAssign", "boolean"),
            Column("Avoid Buggy IPs", ".spec.avoidBuggyIPs", "boolean", wide=True),
            Column("Assigned IPv4", ".status.assignedIPv4", "integer"),
            Column("Available IPv4", ".status.availableIPv4", "integer"),
            Column("Assigned IPv6", ".status.assignedIPv6", "integer"),
            Column("Available IPv6", ".status.availableIPv6", "integer", wide=True),
            _AGE,
        ),
        spec=specs.IPAddressPoolSpec,
        status=statuses.IPAddressPoolStatus,
    ),
    Kind(
        resources.IP_POOLS,
        "ipp",
        (
            Column("CIDR", ".spec.cidr"),
            Column("Block Size", ".spec.blockSize", "integer"),
            Column("NAT", ".spec.natOutgoing", "boolean"),
            Column("Disabled", ".spec.disabled", "boolean"),
            Column("Selector", ".spec.nodeSelector", wide=True),
            _AGE,
        ),
        spec=specs.IPPoolSpec,
    ),
    Kind(
        resources.BFD_PROFILES,
        "bfdp",
        (
            Column("Transmit Interval", ".spec.transmitInterval", "integer"),
            Column("Receive Interval", ".spec.receiveInterval", "integer"),
            Column("Multiplier", ".spec.detectMultiplier", "integer"),
            Column("Passive", ".spec.passiveMode", "boolean", wide=True),
            _AGE,
        ),
        spec=specs.BFDProfileSpec,
        spec_required=False,
    ),
    Kind(
        resources.COMMUNITIES,
        "bgpc",
        (_AGE,),
        spec=specs.CommunitySpec,
        spec_required=False,
    ),
    Kind(
        resources.GATEWAY_TIERS,
        "gwt",
        (
            Column("Buckets", ".spec.buckets", "integer"),
            Column("Idle Timer", ".spec.idleTimer"),
            Column("Move Deadline", ".spec.moveDeadline"),
            _AGE,
        ),
        spec=specs.GatewayTierSpec,
        spec_required=False,
    ),
    Kind(
        resources.BLOCK_CLAIMS,
        "bclaim",
        (Column("CIDR", ".spec.cidr"), Column("Node", ".spec.node"), _AGE),
        spec=specs.BlockClaimSpec,
        rules=(_NAME_OF_CLAIM,),
    ),
    Kind(
        resources.SERVICE_BGP_STATUSES,
        "sbgp",
        (
            Column("Node", ".status.node"),
            Column("Service", ".status.serviceName"),
            Column("State", ".status.state"),
            Column("Peers", ".status.peers"),
            Column("Addresses", ".status.addresses", wide=True),
            Column("Reason", ".status.reason", wide=True),
            _AGE,
        ),
        status=statuses.ServiceBGPStatusStatus,
    ),
    Kind(
        resources.BGP_SESSION_STATES,
        "bgpss",
        (
            Column("Node", ".status.node"),
            Column("Peer", ".status.peer"),
            Column("BGP", ".status.bgpStatus"),
            Column("BFD", ".status.bfdStatus"),
            Column("Local ASN", ".status.localASN", "integer", wide=True),
            Column("Peer ASN", ".status.peerASN", "integer", wide=True),
            Column("Since", ".status.since", "date"),
            _AGE,
        ),
        status=statuses.BGPSessionStateStatus,
    ),
)

_API_VERSION = (
    "Versioned schema of this object. https://git.k8s.io/community/contributors/devel/"
    "sig-architecture/api-conventions.md#resources"
)
_KIND = (
    "The kind of this object. https://git.k8s.io/community/contributors/devel/"
    "sig-architecture/api-conventions.md#types-kinds"
)


def schema(kind: Kind) -> Schema:
    """Of a whole object, as the API server holds it against what is written."""
    made: Schema = {"description": kind.description, "type": "object"}
    properties: Schema = {
        "apiVersion": {"description": _API_VERSION, "type": "string"},
        "kind": {"description": _KIND, "type": "string"},
        "metadata": {"type": "object"},
    }
    if kind.spec is not None:
        properties["spec"] = {"description": "What is wanted."} | schema_of(kind.spec, NOTES)
        if kind.spec_required:
            made["required"] = ["spec"]
        else:
            properties["spec"]["default"] = {}
    if kind.status is not None:
        properties["status"] = {"description": "What is."} | schema_of(kind.status, NOTES)
    made["properties"] = properties
    if kind.rules:
        made["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": rule.message} for rule in kind.rules
        ]
    return made


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition, as plain data."""
    resource = kind.resource
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": resource.full_name,
            "labels": {"app.kubernetes.io/name": "samepath"},
        },
        "spec": {
            "group": resource.group,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [kind.short],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [_version(kind)],
        },
    }


def _version(kind: Kind) -> dict[str, Any]:
    version: dict[str, Any] = {
        "name": kind.resource.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": schema(kind)},
    }
    if kind.status is not None:
        version["subresources"] = {"status": {}}
    return version


def _column(column: Column) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
    }
    return made | ({"priority": 1} if column.wide else {})


def definitions() -> list[dict[str, Any]]:
    return [definition(kind) for kind in KINDS]

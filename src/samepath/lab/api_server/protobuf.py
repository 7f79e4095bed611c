"""What kubectl's typed commands send (`create namespace`, `create token`, `auth can-i`, ...):
protobuf in Kubernetes' envelope. Answers are JSON, which those clients accept as well.

Only the messages of those commands, and of them the fields that kubectl fills; any other is refused
as an unknown media type (415), as a server would that has no protobuf at all.

Standards: Protocol Buffers' wire format; the envelope `k8s\\0` + runtime.Unknown; field numbers as
in the API's generated.proto files.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from samepath.lab.api_server.status import Json, bad_request, unsupported_media_type

MAGIC = b"k8s\x00"

# Field number -> name and type: a scalar, a message, `[]` for a list, `map` of texts, `*` where
# nothing is another thing than zero.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "Meta": {
        1: ("name", "text"),
        2: ("generateName", "text"),
        3: ("namespace", "text"),
        5: ("uid", "text"),
        6: ("resourceVersion", "text"),
        11: ("labels", "map"),
        12: ("annotations", "map"),
        13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]text"),
    },
    "OwnerReference": {
        1: ("kind", "text"),
        3: ("name", "text"),
        4: ("uid", "text"),
        5: ("apiVersion", "text"),
        6: ("controller", "*bool"),
        7: ("blockOwnerDeletion", "*bool"),
    },
    "Namespace": {1: ("metadata", "Meta")},
    "ConfigMap": {
        1: ("metadata", "Meta"),
        2: ("data", "map"),
        3: ("binaryData", "bytemap"),
        4: ("immutable", "*bool"),
    },
    "Secret": {
        1: ("metadata", "Meta"),
        2: ("data", "bytemap"),
        3: ("type", "text"),
        4: ("stringData", "map"),
        5: ("immutable", "*bool"),
    },
    "ServiceAccount": {1: ("metadata", "Meta"), 4: ("automountServiceAccountToken", "*bool")},
    "TokenRequest": {1: ("metadata", "Meta"), 2: ("spec", "TokenRequestSpec")},
    "TokenRequestSpec": {1: ("audiences", "[]text"), 4: ("expirationSeconds", "*int")},
    "SelfSubjectReview": {1: ("metadata", "Meta")},
    "SelfSubjectRulesReview": {1: ("metadata", "Meta"), 2: ("spec", "RulesReviewSpec")},
    "RulesReviewSpec": {1: ("namespace", "text")},
    "SelfSubjectAccessReview": {1: ("metadata", "Meta"), 2: ("spec", "AccessReviewSpec")},
    "AccessReviewSpec": {
        1: ("resourceAttributes", "ResourceAttributes"),
        2: ("nonResourceAttributes", "NonResourceAttributes"),
    },
    "ResourceAttributes": {
        1: ("namespace", "text"),
        2: ("verb", "text"),
        3: ("group", "text"),
        4: ("version", "text"),
        5: ("resource", "text"),
        6: ("subresource", "text"),
        7: ("name", "text"),
    },
    "NonResourceAttributes": {1: ("path", "text"), 2: ("verb", "text")},
    "ClusterRole": {1: ("metadata", "Meta"), 2: ("rules", "[]PolicyRule")},
    "Role": {1: ("metadata", "Meta"), 2: ("rules", "[]PolicyRule")},
    "PolicyRule": {
        1: ("verbs", "[]text"),
        2: ("apiGroups", "[]text"),
        3: ("resources", "[]text"),
        4: ("resourceNames", "[]text"),
        5: ("nonResourceURLs", "[]text"),
    },
    "ClusterRoleBinding": {
        1: ("metadata", "Meta"),
        2: ("subjects", "[]Subject"),
        3: ("roleRef", "RoleRef"),
    },
    "RoleBinding": {
        1: ("metadata", "Meta"),
        2: ("subjects", "[]Subject"),
        3: ("roleRef", "RoleRef"),
    },
    "Subject": {
        1: ("kind", "text"),
        2: ("apiGroup", "text"),
        3: ("name", "text"),
        4: ("namespace", "text"),
    },
    "RoleRef": {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")},
    "PriorityClass": {
        1: ("metadata", "Meta"),
        2: ("value", "*int"),
        3: ("globalDefault", "bool"),
        4: ("description", "text"),
        5: ("preemptionPolicy", "text"),
    },
    "Service": {1: ("metadata", "Meta"), 2: ("spec", "ServiceSpec")},
    "ServiceSpec": {
        1: ("ports", "[]ServicePort"),
        2: ("selector", "map"),
        3: ("clusterIP", "text"),
        4: ("type", "text"),
        5: ("externalIPs", "[]text"),
        10: ("externalName", "text"),
    },
    "ServicePort": {
        1: ("name", "text"),
        2: ("protocol", "text"),
        3: ("port", "int"),
        4: ("targetPort", "IntOrString"),
        5: ("nodePort", "int"),
    },
    "IntOrString": {1: ("type", "int"), 2: ("number", "int"), 3: ("text", "text")},
    "Deployment": {1: ("metadata", "Meta"), 2: ("spec", "DeploymentSpec")},
    "DeploymentSpec": {
        1: ("replicas", "*int"),
        2: ("selector", "LabelSelector"),
        3: ("template", "PodTemplate"),
    },
    "LabelSelector": {1: ("matchLabels", "map")},
    "PodTemplate": {1: ("metadata", "Meta"), 2: ("spec", "PodSpec")},
    "PodSpec": {2: ("containers", "[]Container"), 3: ("restartPolicy", "text")},
    "Container": {
        1: ("name", "text"),
        2: ("image", "text"),
        3: ("command", "[]text"),
        4: ("args", "[]text"),
        6: ("ports", "[]ContainerPort"),
    },
    "ContainerPort": {1: ("name", "text"), 3: ("containerPort", "int"), 4: ("protocol", "text")},
}


def decode(data: bytes) -> Json:
    """An object as plain data. Raises StatusError."""
    if data[:4] != MAGIC:
        raise bad_request("provided data does not appear to be a protobuf message")
    try:
        envelope = dict(_fields(memoryview(data)[4:]))
        head = {number: bytes(part).decode() for number, part in _fields(envelope[1])}
        kind = head.get(2, "")
        if kind not in _MESSAGES:
            raise unsupported_media_type("application/json, application/yaml")
        return {"apiVersion": head.get(1, ""), "kind": kind, **_message(kind, envelope[2])}
    except (KeyError, IndexError, UnicodeDecodeError, TypeError) as error:
        raise bad_request(f"unable to decode protobuf: {error!r}") from error


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value: an integer, or the octets of what has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        else:
            size, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            yield tag >> 3, data[at : at + size]
            at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value, at


def _message(name: str, data: memoryview) -> Json:
    """What is empty is left out, as in JSON."""
    found: Json = {}
    for number, part in _fields(data):
        if number not in _MESSAGES[name]:
            continue
        field, type = _MESSAGES[name][number]
        if type in ("map", "bytemap"):
            pair = dict(_fields(part))
            key = bytes(pair.get(1, b"")).decode()
            value = bytes(pair.get(2, b""))
            text = value.decode() if type == "map" else base64.b64encode(value).decode()
            found.setdefault(field, {})[key] = text
        elif type.startswith("[]"):
            found.setdefault(field, []).append(_value(type[2:], part))
        elif (one := _value(type.lstrip("*"), part)) or type.startswith("*"):
            found[field] = one
    return found


def _value(type: str, part: Any) -> Any:
    if type == "text":
        return bytes(part).decode()
    if type == "bool":
        return bool(part)
    if type == "int":
        return part - (1 << 64) if part >> 63 else part
    found = _message(type, part)
    if type == "IntOrString":
        return found.get("text", "") if found.get("type") else found.get("number", 0)
    return found

"""What the server says of itself: versions, groups, resources, in the old documents and in the
aggregated ones.

Kubernetes API: APIGroupList, APIResourceList, `apidiscovery.k8s.io/v2` (KEP-3352).
"""

from __future__ import annotations

from collections.abc import Iterable

from samepath.lab.api_server.kinds import VERBS, Kind
from samepath.lab.api_server.registry import Registry
from samepath.lab.api_server.status import Json, no_such_path

VERSION: Json = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.0-samepath",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}

_AGGREGATED = "apidiscovery.k8s.io/v2"
AGGREGATED_TYPE = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def _verbs(kind: Kind) -> list[str]:
    return ["create"] if kind.create_only else list(VERBS)


def _groups(registry: Registry) -> dict[str, dict[str, list[Kind]]]:
    """Kinds by version by group; the core group is "" ."""
    found: dict[str, dict[str, list[Kind]]] = {}
    for kind in registry.all():
        found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    return found


def wants_aggregated(accept: str) -> bool:
    return "as=APIGroupDiscoveryList" in accept and "v=v2;" in accept.replace(" ", "") + ";"


def aggregated(registry: Registry, core: bool) -> Json:
    items = []
    for group, versions in _groups(registry).items():
        if (group == "") is not core:
            continue
        items.append(
            {
                "metadata": {"name": group, "creationTimestamp": None} if group else {},
                "versions": [
                    {
                        "version": version,
                        "resources": [_described(kind) for kind in kinds],
                        "freshness": "Current",
                    }
                    for version, kinds in versions.items()
                ],
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": _AGGREGATED,
        "metadata": {},
        "items": items,
    }


def _described(kind: Kind) -> Json:
    response = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    found: Json = {
        "resource": kind.plural,
        "responseKind": response,
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.one,
        "verbs": _verbs(kind),
    }
    if kind.short_names:
        found["shortNames"] = list(kind.short_names)
    if kind.categories:
        found["categories"] = list(kind.categories)
    subresources = []
    for name in kind.subresources:
        of = response
        if name == "scale":
            of = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        subresources.append(
            {"subresource": name, "responseKind": of, "verbs": ["get", "patch", "update"]}
        )
    if subresources:
        found["subresources"] = subresources
    return found


def core_versions(address: str) -> Json:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(registry: Registry) -> Json:
    groups = [_group(name, versions) for name, versions in _groups(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Json:
    versions = _groups(registry).get(name)
    if versions is None:
        raise no_such_path()
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def _group(name: str, versions: Iterable[str]) -> Json:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resources(registry: Registry, group_name: str, version: str) -> Json:
    kinds = _groups(registry).get(group_name, {}).get(version)
    if kinds is None:
        raise no_such_path()
    listed: list[Json] = []
    for kind in kinds:
        one: Json = {
            "name": kind.plural,
            "singularName": kind.one,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": _verbs(kind),
        }
        if kind.short_names:
            one["shortNames"] = list(kind.short_names)
        if kind.categories:
            one["categories"] = list(kind.categories)
        listed.append(one)
        for name in kind.subresources:
            sub: Json = {
                "name": f"{kind.plural}/{name}",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": ["get", "patch", "update"],
            }
            if name == "scale":
                sub.update(group="autoscaling", version="v1", kind="Scale")
            listed.append(sub)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": listed,
    }
